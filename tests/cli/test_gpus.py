"""``--gpus``: what cannot be is said before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import make_home

from lmbench.cli import run as lmbench
from lmbench.jobs import prepare

CPU = ("--device", "cpu", "--allow-cpu")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prepare, "gpu_count", lambda: 2)
    make_home(tmp_path)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--gpus", "4"), "--gpus 4: this machine has 2 that torch can use"),
        (("--gpus", "0"), "--gpus: 0: input should be greater than or equal to 1"),
        (("--gpus", "2", "--device", "cpu"), "several processes are slower than one"),
        (("--gpus", "2", "--device", "cuda:1"), "--device cuda:1 names one: use --device cuda"),
        (("--gpus", "2", "--device", "mps"), "--device mps names one"),
        (("--nodes", "3", *CPU), "--batch-size 20: cannot be shared equally by --gpus 1 --nodes 3"),
        (("--gpus", "3", *CPU), "--batch-size 20: cannot be shared equally by --gpus 3"),
        (("--gpus", "4", "--eval-batch-size", "3", *CPU), "--eval-batch-size 3: leaves some"),
        (("--allow-cpu",), "--allow-cpu: does nothing without --gpus"),
        (("--gpus", "2", "--compress", "quantized.yaml"), "quantizes while it trains"),
    ],
)
def test_gpus_that_cannot_be_had_are_refused_in_words(
    arguments: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lmbench(["train", "--data", "tiny", "--bptt", "5", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "sessions" / "default" / "runs").exists()
