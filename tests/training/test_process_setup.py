"""The worker's settings, and the choice of arithmetic that is made once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lmbench.training import precision as precision_module
from lmbench.training.precision import choose_precision, machine_key, measure_speedup

CPU = torch.device("cpu")


@pytest.mark.parametrize("speedup, expected", [(4.0, "bf16"), (1.1, "fp32"), (0.2, "fp32")])
def test_auto_takes_bf16_only_where_it_is_faster_and_measures_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, speedup: float, expected: str
) -> None:
    measured: list[torch.device] = []

    def measure(device: torch.device) -> float:
        measured.append(device)
        return speedup

    monkeypatch.setattr(precision_module, "measure_speedup", measure)
    monkeypatch.setenv("LMBENCH_CACHE", str(tmp_path / "deep"))
    assert choose_precision("auto", CPU) == expected
    assert choose_precision("auto", CPU) == expected
    assert measured == [CPU]
    kept = json.loads((tmp_path / "deep" / "precision.json").read_text())
    assert kept["found"] == {machine_key(CPU): speedup}


def test_what_is_asked_for_is_taken_without_measuring(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LMBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(precision_module, "measure_speedup", lambda device: pytest.fail("measured"))
    assert choose_precision("bf16", CPU) == "bf16"
    assert choose_precision("fp32", CPU) == "fp32"
    assert not list(tmp_path.iterdir())


def test_the_measurement_is_a_positive_ratio() -> None:
    assert 0.0 < measure_speedup(CPU) < 1000.0


# Threads; the arithmetic before and after; the cards that are made the current one.
_PREPARED = """
import torch
from lmbench.training.process_setup import compute_in, prepare_worker
def show(): print(torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32)
show()
prepare_worker(threads=1); print(torch.get_num_threads()); show()
compute_in('bf16'); show()
compute_in('fp32'); show()
torch.cuda.set_device = print
for device in ('cpu', 'cuda', 'cuda:3'): prepare_worker(threads=1, device=device)
"""


def test_a_prepared_worker_has_its_threads_and_card_and_fp32_in_recurrent_layers_too() -> None:
    """bf16 lets them take TF32."""
    command = [sys.executable, "-c", _PREPARED]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # torch's own settings come first: fp32 products, but TF32 inside cuDNN.
    full, tf32 = ["highest", "False"], ["high", "True"]
    arithmetic = ["highest", "True", "1", *full, *tf32, *full]
    assert done.stdout.split() == [*arithmetic, "0", "3"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_prepared_worker_does_not_map_its_memory_anew() -> None:
    code = (
        "import resource, torch\n"
        "from lmbench.training.process_setup import keep_memory\n"
        "told = keep_memory()\n"
        "torch.ones(25_000_000)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(3): torch.ones(25_000_000)\n"
        "print(int(told), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told, faults = map(int, done.stdout.split())
    if not told:
        pytest.skip("this C library has no mallopt")
    # Mapped anew each time, 100 MB are at least 50 faults each, even in pages of 2 MB.
    assert faults < 50


def test_whether_the_answer_was_known_makes_no_difference_to_what_a_seed_gives(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LMBENCH_CACHE", str(tmp_path))
    torch.manual_seed(1111)
    choose_precision("auto", CPU)
    first = torch.rand(3)
    torch.manual_seed(1111)
    choose_precision("auto", CPU)
    assert torch.equal(first, torch.rand(3))
