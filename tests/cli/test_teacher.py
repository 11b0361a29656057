"""``--teacher``: a run that another one learns from, as a user names it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import pytest
import torch
from cli_world import answer
from safetensors.torch import load_file, save_file
from small_runs import quantizing_schedule
from torch import Tensor

from lmbench.cli import run as lmbench
from lmbench.config import PruneConfig, TrainConfig, validate
from lmbench.corpus import open_corpus
from lmbench.errors import LmbenchError
from lmbench.jobs.distillation_teacher import _drawn_from, find_teacher
from lmbench.jobs.input_files import attach, own_files
from lmbench.jobs.job import Job
from lmbench.jobs.kinds.common import model_hash
from lmbench.jobs.kinds.train import build_objective, work
from lmbench.jobs.scoring_text import corpus_of
from lmbench.session import Home, Run
from lmbench.training.distillation import Distillation
from lmbench.training.loss import Teacher

Capture = pytest.CaptureFixture[str]
CODES = """
version: 1
quantizers:
  few:
    class: QuantAwareTrainRangeLinearQuantizer
    rounding: codes
    bits_weights: 3
    bits_schedule: {1: 2}
policies:
  - quantizer: {instance_name: few}
    starting_epoch: 0
    ending_epoch: 2
    frequency: 1
"""
SMALL = ("--emsize", "12", "--nhid", "12", "--epochs", "1", "--threads", "1", "--lr", "1")


def test_a_smaller_student_learns_from_a_run(home: Home, capsys: Capture) -> None:
    alone = answer(capsys, "train", "--data", "tiny", *SMALL)
    taught = answer(
        capsys, "train", "--data", "tiny", *SMALL, "--teacher", "1", "--distill-temp", "2"
    )
    assert taught["status"] == "finished"
    assert taught["parameters"] == alone["parameters"]
    # The same seed and settings: what differs is the teacher's part of the loss.
    assert taught["valid_ppl"] != alone["valid_ppl"]
    assert taught["valid_ppl"] == pytest.approx(alone["valid_ppl"], rel=0.5)


def test_words_drawn_once_teach_as_the_teacher_does(home: Home, capsys: Capture) -> None:
    shape = ("--emsize", "12", "--nhid", "12", "--epochs", "2", "--threads", "1", "--lr", "1")
    student = ("train", "--data", "tiny", *shape, "--teacher", "1", "--distill-weight", "0.9")
    whole, drawn = (answer(capsys, *student, "--teacher-samples", n) for n in ("0", "32"))
    assert drawn["valid_ppl"] != whole["valid_ppl"]
    assert drawn["valid_ppl"] == pytest.approx(whole["valid_ppl"], rel=0.05)
    assert lmbench([*student, "--teacher-samples", "8", "--distill-temp", "2"]) != 0
    assert "--teacher-samples 8: words are drawn at temperature 1" in capsys.readouterr().err
    assert lmbench(["train", "--data", "tiny", *SMALL, "--teacher-samples", "8"]) != 0
    assert "does nothing without --teacher" in capsys.readouterr().err


def test_a_teacher_is_the_run_that_was_meant_when_the_student_was_made(
    home: Home, capsys: Capture
) -> None:
    answer(capsys, "train", "--data", "tiny", *SMALL)  # the tests before may have left a packed run
    newest = home.session("default").runs()[-1].ref
    taught = answer(capsys, "train", "--data", "tiny", *SMALL, "--teacher", "@")
    assert taught["status"] == "finished"
    assert taught["config"]["teacher"] == newest


@pytest.mark.parametrize("command", ["train", "prune"])
def test_the_newest_run_stays_the_teacher_of_all_seeds(
    command: str, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home.path, tmp_path / "home", symlinks=True)
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path / "home"))
    session = Home(tmp_path / "home").open_session("seeds")
    for seed in (1, 2):
        run = session.new_run(validate(TrainConfig, {"data": "tiny", "seed": seed}), "train")
        (run.path / "best").mkdir()
        run.update(status="finished")
    made: list[Run] = []
    for module in ("train", "start_run"):
        monkeypatch.setattr(
            f"lmbench.cli.{module}.start_all", lambda make, **_: made.extend(make()) or 0
        )
    of = ("prune", "1", "--schedule", "none") if command == "prune" else ("train", "--data", "tiny")
    flags = ("--seeds", "2", "--teacher", "@", "--session", "seeds")
    assert lmbench([*of, *flags]) == 0
    assert [run.read().config["teacher"] for run in made] == [run.ref] * 2


def test_a_dense_parent_teaches_its_quantized_training(home: Home, capsys: Capture) -> None:
    Path("four.yaml").write_text(quantizing_schedule(1), encoding="utf-8")
    flags = ("--schedule", "four.yaml", "--epochs", "1", "--threads", "1", "--lr", "0.5")
    alone = answer(capsys, "prune", "1", *flags)
    taught = answer(capsys, "prune", "1", *flags, "--teacher", "1", "--distill-weight", "0.9")
    assert taught["status"] == "finished"
    assert taught["valid_ppl"] != alone["valid_ppl"]
    folder = home.find_run(taught["run"]).checkpoint("best")
    assert folder is not None
    weight = load_file(folder / "model.safetensors")["rnn.weight_hh_l0"]
    assert len(weight.unique()) <= 16


def test_what_a_parent_taught_in_2_bits_is_packed_and_run_as_it_was_trained(
    home: Home, capsys: Capture
) -> None:
    Path("codes.yaml").write_text(CODES, encoding="utf-8")
    flags = ("--schedule", "codes.yaml", "--epochs", "2", "--threads", "1", "--lr", "0.5")
    taught = answer(capsys, "prune", "1", *flags, "--teacher", "parent")
    assert taught["status"] == "finished"
    best = home.find_run("1").checkpoint("best")
    assert best is not None
    assert home.find_run(taught["run"]).read().results["teacher_sha256"] == model_hash(best)
    packed = answer(capsys, "pack", taught["run"], "--threads", "1")
    tensors = home.find_run(packed["run"]).read().results["tensors"]
    kinds = {tensor["values"] for tensor in tensors if len(tensor["shape"]) == 2}
    assert kinds == {"code2"}
    # What is left between them are the activations, which the kernels have in 8 bits.
    assert packed["test_ppl"] == pytest.approx(taught["test_ppl"], rel=0.02)
    # But for the file's header.
    assert packed["bytes"] == pytest.approx(taught["packed_bytes"], abs=6000)


def test_a_teacher_of_other_words_is_one_line_and_makes_no_run(home: Home, capsys: Capture) -> None:
    folder = home.path / "data" / "other"
    if not folder.exists():
        shutil.copytree(home.path / "data" / "tiny", folder)
        with (folder / "train.txt").open("a", encoding="utf-8") as file:
            file.write("a word of its own\n")
    before = len(home.open_session().runs())
    assert lmbench(["train", "--data", "other", *SMALL, "--teacher", "1"]) == 2
    err = capsys.readouterr().err.strip()
    assert "--teacher 1: run default/001-train knows the" in err
    assert "the words of both must be the same" in err
    # So may a pruning not begin with its parent's words and go on with others.
    assert lmbench(["prune", "1", "--schedule", "none", "--data", "other"]) == 2
    assert "--data: run default/001-train knows the" in capsys.readouterr().err
    parent = home.find_run("1")
    changed = {**parent.config().model_dump(), "data": "other"}
    run = home.open_session("w").new_run(validate(PruneConfig, changed), "prune", parent=parent)
    with pytest.raises(LmbenchError, match="--data: run default/001-train knows the"):
        work(Job(run, run.read(), run.config(), resuming=False))
    other = open_corpus("other", home.path)
    config = validate(TrainConfig, {"data": "other", "teacher": "parent"})
    with pytest.raises(LmbenchError, match="--teacher parent: run default/001-train knows the"):
        find_teacher(config, home, "default", other, home.find_run("1"))
    assert len(err.splitlines()) == 1
    assert len(home.open_session().runs()) == before


def train_on(run: Run) -> None:
    model = run.path / "best" / "model.safetensors"
    weights = load_file(model)
    weights["decoder.bias"] += 0.1
    save_file(weights, model)


@pytest.mark.parametrize("samples", [0, 4])
def test_a_teacher_whose_words_were_drawn_may_train_on(
    samples: int, home: Home, tmp_path: Path
) -> None:
    shutil.copytree(home.path, tmp_path / "home", symlinks=True)
    elsewhere = Home(tmp_path / "home")
    shape = {"emsize": 12, "nhid": 12, "epochs": 2, "threads": 1, "lr": 1.0}
    settings = {"data": "tiny", "teacher": "1", "teacher_samples": samples, **shape}
    config = validate(TrainConfig, settings)
    run = elsewhere.session("default").new_run(config, "train")
    job = Job(run, run.read(), config, resuming=False)

    def stop_after_an_epoch() -> Literal["stop"] | None:
        return "stop" if '"kind":"epoch"' in run.events_path.read_text() else None

    job.control = stop_after_an_epoch
    work(job)
    train_on(elsewhere.find_run("1"))
    work(Job(run, run.read(), config, resuming=True))
    assert run.read().results["epochs"] == 2
    assert ("has trained on since this run began" in run.events_path.read_text()) == (not samples)


@pytest.mark.parametrize("changed", [None, "teacher_samples", "batch_size", "teacher", "stopped"])
def test_words_that_the_parent_drew_of_the_same_teacher_are_taken_over(
    changed: str | None, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home.path, tmp_path / "home", symlinks=True)
    session = Home(tmp_path / "home").session("default")
    shape = {"emsize": 12, "nhid": 12, "epochs": 1, "threads": 1, "lr": 1.0}
    settings = {"data": "tiny", "teacher": "1", "teacher_samples": 4, **shape}
    parent = session.new_run(validate(TrainConfig, settings), "train")
    job = Job(parent, parent.read(), parent.config(), resuming=False)
    if changed == "stopped":
        job.control = lambda: "stop"
    work(job)
    if changed in ("teacher_samples", "batch_size"):
        settings[changed] = 5
    if changed == "teacher":
        settings[changed] = parent.ref
    read: list[int] = []

    def reads(taught: Distillation, input: Tensor) -> Teacher:
        read.append(len(input))
        return _read(taught, input)

    _read = Distillation._read
    monkeypatch.setattr(Distillation, "_read", reads)
    config = validate(PruneConfig, {**settings, "compress": "hold", "epochs": 2})
    run = session.new_run(config, "prune", parent=parent)
    attach(run, own_files(config, session.home))
    job = Job(run, run.read(), config, resuming=False)
    job.control = lambda: "stop"
    work(job)
    train_on(session.home.find_run("1"))
    work(Job(run, run.read(), config, resuming=True))
    assert run.read().results["epochs"] == 2
    assert bool(read) == (changed is not None)
    if changed is None:
        assert "has trained on since" not in run.events_path.read_text()


def test_words_of_several_processes_are_no_ones_to_take_over(home: Home) -> None:
    parent = home.find_run("1")
    record, corpus = parent.read(), corpus_of(parent.read().corpus, home.path, "1")
    for processes in (1, 2):
        config = validate(
            TrainConfig,
            {"data": corpus.name, "teacher": "1", "teacher_samples": 4, "gpus": processes},
        )
        assert (_drawn_from(config, record) is None) == (processes > 1)


def test_another_text_of_the_same_words_in_the_same_order_will_do(home: Home) -> None:
    record = home.find_run("1").read()
    corpus = corpus_of(record.corpus, home.path, "1")
    folder = home.path / "data" / "longer"
    if not folder.exists():
        shutil.copytree(corpus.path, folder)
        with (folder / "test.txt").open("a", encoding="utf-8") as file:
            file.write(f"{corpus.vocabulary[0]} {corpus.vocabulary[1]}\n")
    longer = open_corpus("longer", home.path)
    assert longer.fingerprint != corpus.fingerprint
    config = validate(TrainConfig, {"data": "longer", "teacher": "1"})
    found = find_teacher(config, home, "default", longer)
    assert found == home.find_run("1")


def test_a_teacher_that_there_is_not_is_named(home: Home, capsys: Capture, tmp_path: Path) -> None:
    assert lmbench(["train", "--data", "tiny", *SMALL, "--teacher", "77"]) == 2
    assert "77" in capsys.readouterr().err


@pytest.mark.parametrize("command", [("train",), ("prune", "--schedule", "none")])
def test_a_run_from_scratch_has_no_parent_to_teach_it(
    home: Home, capsys: Capture, command: tuple[str, ...]
) -> None:
    before = len(home.open_session().runs())
    assert lmbench([*command, "--data", "tiny", *SMALL, "--teacher", "parent"]) == 2
    assert "--teacher parent: this run starts from no other one" in capsys.readouterr().err
    assert len(home.open_session().runs()) == before


def test_a_teacher_that_has_trained_on_since_is_warned_of_when_the_student_is_resumed(
    home: Home, tmp_path: Path
) -> None:
    config = validate(TrainConfig, {"data": "tiny", "teacher": "1"})
    corpus = corpus_of(home.find_run("1").read().corpus, home.path, "1")
    shutil.copytree(home.path, tmp_path / "home", symlinks=True)
    elsewhere = Home(tmp_path / "home")
    run = elsewhere.session("default").new_run(config, "train")
    model = elsewhere.find_run("1").path / "best" / "model.safetensors"
    for attempt in range(3):
        if attempt == 2:
            weights = load_file(model)
            weights["decoder.bias"] += 0.1
            save_file(weights, model)
        job = Job(run, run.read(), config, resuming=attempt > 0)
        _, said = build_objective(job, config, corpus, "fp32", torch.device("cpu"), 0)
        assert (said is not None) == (attempt == 2)
