"""The arithmetic that a training runs in is the one that its record names."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lmbench.config import Config, TrainConfig, validate
from lmbench.jobs import training_arithmetic as arithmetic
from lmbench.jobs.job import Job
from lmbench.jobs.kinds import train as train_module
from lmbench.session import Home, read_events
from lmbench.session.events import Warned
from lmbench.training import native
from lmbench.training.loss import DecoderLoss
from lmbench.training.native import process

SETTINGS: dict[str, Any] = {
    "data": "tiny",
    "emsize": 8,
    "nhid": 8,
    "tied": True,
    "epochs": 1,
    "batch_size": 4,
    "eval_batch_size": 2,
    "threads": 3,
    "device": "cpu",
}
QUANTIZED = """
version: 1
quantizers:
  qat: {class: QuantAwareTrainRangeLinearQuantizer, bits_weights: 4, bits_activations: 8}
policies:
  - quantizer: {instance_name: qat}
    starting_epoch: 0
    ending_epoch: 1
    frequency: 1
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    # A training settles it for its whole process.
    monkeypatch.setattr(process, "_allowed", None)
    folder, draw = tmp_path / "data" / "tiny", random.Random(5)
    folder.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        words = " ".join(f"w{draw.randrange(20)}" for _ in range(400))
        (folder / f"{split}.txt").write_text(words + "\n", encoding="utf-8")
    (tmp_path / "qat.yaml").write_text(QUANTIZED, encoding="utf-8")
    return Home(tmp_path)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, object]]:
    """What a training does to its process, in order; bf16 is the faster one here."""
    made: list[tuple[str, object]] = []

    def prepare(*, threads: int, device: str) -> None:
        made.append(("prepare", threads))

    def choose(wanted: str, device: torch.device) -> str:
        made.append(("choose", wanted))
        return "bf16" if wanted == "auto" else wanted

    monkeypatch.setattr(train_module, "prepare_worker", prepare)
    monkeypatch.setattr(arithmetic, "choose_precision", choose)
    monkeypatch.setattr(arithmetic, "onednn_lacks_bf16", lambda: False)
    monkeypatch.setattr(train_module, "compute_in", lambda given: made.append(("compute", given)))
    return made


def train(home: Home, **changes: Any) -> Job:
    config: Config = validate(TrainConfig, {**SETTINGS, **changes})
    run = home.open_session("s").new_run(config, "train")
    job = Job(run, run.read(), config, resuming=False)
    train_module.work(job)
    return job


def resume(job: Job) -> Job:
    """The run goes on from its last checkpoint, which is at its end."""
    again = Job(job.run, job.run.read(), job.config, resuming=True)
    train_module.work(again)
    return again


def test_the_worker_is_prepared_before_its_precision_is_measured(
    home: Home, calls: list[tuple[str, object]]
) -> None:
    job = train(home)
    assert calls == [("prepare", 3), ("choose", "auto"), ("compute", "bf16")]
    assert job.record.results["precision"] == "bf16"


def warnings(job: Job) -> list[str]:
    return [e.message for e in read_events(job.run.events_path) if isinstance(e, Warned)]


@pytest.mark.parametrize("precision", ["auto", "bf16", "exact"])
def test_what_has_no_bf16_step_is_computed_and_recorded_in_fp32(
    precision: str, home: Home, calls: list[tuple[str, object]]
) -> None:
    job = train(home, precision=precision, compress="qat.yaml")
    assert calls == [("prepare", 3), ("compute", "fp32")]
    assert job.record.results["precision"] == "fp32"
    said = [line for line in warnings(job) if "computes in fp32" in line]
    assert len(said) == (precision == "bf16")


@pytest.mark.parametrize("lacking", [False, True])
def test_bf16_on_a_processor_without_its_products_is_warned_of(
    home: Home, calls: list[tuple[str, object]], monkeypatch: pytest.MonkeyPatch, lacking: bool
) -> None:
    monkeypatch.setattr(arithmetic, "onednn_lacks_bf16", lambda: lacking)
    job = train(home, precision="bf16")
    assert job.record.results["precision"] == "bf16"
    assert ["many times as long" in line for line in warnings(job)] == [True] * lacking
    assert warnings(train(home, precision="fp32")) == []


def test_weights_in_codes_are_trained_in_bf16_which_rounds_none_of_them(
    home: Home, calls: list[tuple[str, object]]
) -> None:
    codes = QUANTIZED.replace("bits_activations: 8", "bits_activations: null, rounding: codes")
    (home.path / "codes.yaml").write_text(codes, encoding="utf-8")
    job = train(home, compress="codes.yaml")
    assert calls == [("prepare", 3), ("choose", "auto"), ("compute", "bf16")]
    assert job.record.results["precision"] == "bf16"
    assert warnings(job) == []


def test_a_teacher_is_learned_from_in_bf16_too(home: Home, calls: list[tuple[str, object]]) -> None:
    teacher = train(home, precision="fp32").run
    calls.clear()
    job = train(home, teacher=teacher.ref)
    assert calls == [("prepare", 3), ("choose", "auto"), ("compute", "bf16")]
    assert job.record.results["precision"] == "bf16"
    assert warnings(job) == []


@pytest.mark.parametrize("precision", ["fp32", "auto", "bf16"])
@pytest.mark.parametrize("draws_in", [("fp32", "bf16"), ("fp32",), ()], ids=len)
def test_a_sampled_gradient_goes_to_the_loss_and_is_warned_of_where_it_cannot_be_had(
    home: Home,
    calls: list[tuple[str, object]],
    monkeypatch: pytest.MonkeyPatch,
    draws_in: tuple[str, ...],
    precision: str,
) -> None:
    seen: set[tuple[int, bool, str]] = set()
    compute = DecoderLoss.__call__

    def see(loss: DecoderLoss, *operands: torch.Tensor) -> torch.Tensor:
        seen.add((loss.samples, loss.teacher is not None, loss.precision))
        return compute(loss, *operands)

    monkeypatch.setattr(native, "draws_words", lambda precision: precision in draws_in)
    monkeypatch.setattr(DecoderLoss, "__call__", see)
    teacher = train(home, precision=precision)
    assert not [line for line in warnings(teacher) if "samples" in line]
    in_fp32 = precision == "fp32" or (precision == "auto" and draws_in == ("fp32",))
    drawn = ("fp32" if in_fp32 else "bf16") in draws_in
    for samples, taught in ((7, {}), (9, {"teacher": teacher.run.ref})):
        seen.clear()
        job = train(home, precision=precision, gradient_samples=samples, **taught)
        assert seen == {(samples, bool(taught), "fp32" if in_fp32 else "bf16")}
        said = [line for line in warnings(job) if f"--gradient-samples {samples}: only" in line]
        assert len(said) == (not drawn)
    job = train(home, precision="fp32", gradient_samples=9, distill_temp=2.0, **taught)
    assert [line for line in warnings(job) if "one at temperature 1" in line]


def test_a_teacher_that_was_stopped_in_its_first_epoch_teaches_by_its_last_model(
    home: Home, calls: list[tuple[str, object]]
) -> None:
    teacher = train(home).run
    shutil.rmtree(teacher.path / "best")
    assert train(home, teacher=teacher.ref).record.results["teacher_sha256"]


def test_that_its_teacher_has_trained_on_stays_among_the_warnings_of_a_resumed_run(
    home: Home, calls: list[tuple[str, object]]
) -> None:
    teacher = train(home).run
    job = train(home, teacher=teacher.ref)
    shutil.copytree(
        train(home, seed=2).run.path / "best", teacher.path / "best", dirs_exist_ok=True
    )
    for _ in range(2):
        job = resume(job)
        assert warnings(job) == job.record.results["warnings"]
        assert [line.split(",")[0] for line in warnings(job)] == ["the teacher"]


def test_what_a_resumed_run_is_warned_of_stays_in_its_log_once(
    home: Home, calls: list[tuple[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = train(home, precision="bf16", compress="qat.yaml")
    job.add_results(kernels="amx")
    monkeypatch.setenv("LMBENCH_NATIVE", "0")
    for _ in range(2):
        job = resume(job)
        told = warnings(job)
        assert len(told) == 2
        assert "computes in fp32" in told[0]
        assert "began with the compiled kernels" in told[1]
        assert job.record.results["warnings"] == told
        # Each resume goes on from the same checkpoint, and is no more exact than the one before.
        assert job.record.results["kernels"] == "amx"
