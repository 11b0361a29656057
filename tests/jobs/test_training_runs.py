"""Training as a user starts it: real commands, real processes, really killed."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from cli_world import answer
from jobs_world import comparable
from safetensors.torch import load_file, save_file
from small_runs import pruning_schedule, quantizing_schedule
from waiting import until

from lmbench.cli import run as lmbench
from lmbench.config import (
    Config,
    EvaluateConfig,
    Kind,
    QuantizeConfig,
    SensitivityConfig,
    TrainConfig,
    validate,
)
from lmbench.jobs import launch
from lmbench.jobs.exit_reasons import KILLED_BY_USER
from lmbench.jobs.hosts.laboratory_messages import OpenModel
from lmbench.jobs.hosts.opened_model import OpenedModel
from lmbench.jobs.job import Job
from lmbench.jobs.kinds import train
from lmbench.jobs.places.local import Local
from lmbench.jobs.wait_while_paused import Requests
from lmbench.session import Home, Run, read_events
from lmbench.session.events import (
    Candidate,
    Epoch,
    Event,
    RunResumed,
    SensitivityPoint,
    Step,
    TuningPass,
    Warned,
)
from lmbench.session.files import try_lock
from lmbench.training.checkpoint import checkpoint_step
from lmbench.training.native import process
from lmbench.training.trainer import Trainer

# Commands that are processes of their own start real workers; those of the others are forked.
pytestmark = pytest.mark.usefixtures("forked_workers")

SETTINGS: dict[str, Any] = {
    "emsize": 24,
    "nhid": 24,
    "tied": True,
    "epochs": 3,
    "lr": 2.0,
    "momentum": 0.5,
    "batch_size": 8,
    "bptt": 10,
    "precision": "fp32",
    "threads": 1,
    "event_interval": 5,
    # Every few batches: what is killed between two checkpoints has to be done again.
    "checkpoint_every": 0.001,
}
SCHEDULE = pruning_schedule(SETTINGS["epochs"])
QUANTIZED = quantizing_schedule(SETTINGS["epochs"])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A working folder with a small corpus, some of whose words are frequent."""
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Local, "look_s", 0.005)
    generator = random.Random(5)
    for split, lines in (("train", 900), ("valid", 60), ("test", 60)):
        folder = tmp_path / "data" / "tiny"
        folder.mkdir(parents=True, exist_ok=True)
        text = []
        for _ in range(lines):
            length = generator.randrange(3, 14)
            text.append(" ".join(f"w{int(80 * generator.random() ** 3)}" for _ in range(length)))
        (folder / f"{split}.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
    return Home(tmp_path)


def new_run(home: Home, name: str, **changes: Any) -> Run:
    config = validate(TrainConfig, {"data": "tiny", **SETTINGS, **changes})
    return home.open_session("s").new_run(config, "train", name=name)


def wait(run: Run, until: Callable[[list[Event]], bool] = lambda _: False) -> str:
    """Follow a run until its events satisfy `until`, or to its end; gives the status."""
    for look in launch.follow(run):
        if until(read_events(run.events_path)):
            return look.status
    return run.status()


def kill_worker(run: Run) -> None:
    pid = run.read().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: run.status() not in ("running", "paused"))
    assert run.status() == "lost"


@pytest.mark.parametrize(
    "schedule",
    [
        pytest.param(None, id="dense", marks=pytest.mark.slow),
        pytest.param(SCHEDULE, id="pruned"),
        pytest.param(QUANTIZED, id="quantized", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("kills", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_a_run_killed_again_and_again_equals_one_that_was_not(
    home: Home, schedule: str | None, kills: int
) -> None:
    changes: dict[str, Any] = {}
    if schedule:
        (home.path / "schedule.yaml").write_text(schedule, encoding="utf-8")
        changes["compress"] = "schedule.yaml"
    whole, killed = new_run(home, "whole", **changes), new_run(home, "killed", **changes)
    launch.start(whole, queue=False)
    assert wait(whole) == "finished", whole.log_path.read_text()
    steps = read_events(whole.events_path)
    total = max(event.step for event in steps if isinstance(event, Step))

    launch.start(killed, queue=False)
    for number in range(1, kills + 1):
        point = number * total // (kills + 1)

        def reached(events: list[Event], point: int = point) -> bool:
            return any(isinstance(event, Step) and event.step >= point for event in events)

        assert wait(killed, reached) == "running", killed.log_path.read_text()
        kill_worker(killed)
        launch.resume(killed, queue=False)
    assert wait(killed) == "finished", killed.log_path.read_text()

    assert comparable(killed) == comparable(whole)
    for which in ("last", "best"):
        a = load_file(whole.path / which / "model.safetensors")
        b = load_file(killed.path / which / "model.safetensors")
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    ours, theirs = whole.read().results, killed.read().results
    assert ours["test_ppl"] == theirs["test_ppl"]
    assert ours["valid_ppl"] == theirs["valid_ppl"]


SMALL = ("--data", "tiny", "--emsize", "16", "--nhid", "16", "--threads", "1", "--lr", "1")


def test_train_json_is_one_document_with_falling_perplexity(home: Home) -> None:
    command = [sys.executable, "-m", "lmbench", "train", *SMALL, "--epochs", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["status"] == "finished"
    assert document["kind"] == "train"
    for key in ("run", "valid_ppl", "test_ppl", "parameters", "nonzero", "bytes", "seconds"):
        assert document[key], key
    events = read_events(Path(document["run"]) / "events.jsonl")
    ppl = [event.valid_ppl for event in events if isinstance(event, Epoch)]
    assert ppl == sorted(ppl, reverse=True)
    assert len(ppl) == 2


def endless(home: Home) -> tuple[subprocess.Popen[str], Run]:
    """A training in the foreground that has its first checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lmbench", "train", *SMALL, "--epochs", "100000", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    run = Run(home.path / "sessions" / "default" / "runs" / "001-train")
    until((run.path / "best").exists)
    return process, run


def freeze(worker: int, run: Run) -> None:
    """Stop a process at a moment at which it does not hold the run's lock, which others need."""

    def frozen() -> bool:
        os.kill(worker, signal.SIGSTOP)
        until(lambda: psutil.Process(worker).status() == psutil.STATUS_STOPPED)
        lock = try_lock(run.path / ".lock")
        if lock is None:
            os.kill(worker, signal.SIGCONT)
            return False
        os.close(lock)
        return True

    until(frozen)


def test_a_second_ctrl_c_ends_it_at_once_and_loses_nothing_saved(home: Home) -> None:
    process, run = endless(home)
    worker = run.read().pid
    assert worker is not None
    # A worker that stands still can heed no stop: only the second press can end it.
    freeze(worker, run)
    try:
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while "Ctrl-C again" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    assert process.returncode == 130, err
    assert json.loads(out)["status"] == "stopped"
    assert run.read().reason == KILLED_BY_USER
    launch.resume(run, queue=False)
    assert wait(run, lambda events: any(isinstance(e, RunResumed) for e in events)) == "running"
    launch.request(run, "stop")
    assert wait(run) == "stopped"


def test_ctrl_c_saves_scores_the_test_set_and_exits_130(home: Home) -> None:
    process, run = endless(home)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    document = json.loads(out)
    assert document["status"] == "stopped"
    assert document["test_ppl"] > 1
    assert (run.path / "last" / "trainer.json").is_file()


def test_pruning_a_trained_run_starts_from_its_weights(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(capsys, "train", *SMALL, "--epochs", "1", "--tied")
    (home.path / "agp.yaml").write_text(SCHEDULE, encoding="utf-8")
    document = answer(capsys, "prune", "@", "--schedule", "agp.yaml", "--epochs", "3")
    assert document["parent"] == "default/001-train"
    assert document["config"]["nhid"] == 16
    weights = load_file(Path(document["run"]) / "best" / "model.safetensors")
    for name in ("rnn.weight_hh_l0", "encoder.weight"):
        assert int((weights[name] == 0).sum()) == int(0.7 * weights[name].numel())
    packed = answer(capsys, "pack", "@")
    assert packed["results"]["sparsity"] == document["results"]["sparsity"]
    header = packed["bytes"] - document["packed_bytes"]
    assert 0 < header < 4096
    assert document["packed_bytes"] < document["bytes"]


def test_a_projection_turns_the_embedding_once_and_is_passed_on(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(capsys, "train", *SMALL, "--epochs", "1", "--tied")
    (home.path / "level.yaml").write_text(
        "version: 1\n"
        "pruners: {level: {class: SparsityLevelParameterPruner,"
        " levels: {rnn.weight_hh_l0: 0.5}}}\n"
        "policies: [{pruner: {instance_name: level}, epochs: [0]}]\n",
        encoding="utf-8",
    )
    still = ("--schedule", "level.yaml", "--epochs", "1", "--lr", "1e-6")
    first = answer(capsys, "prune", "@", *still, "--projection")
    then = answer(capsys, "prune", "@", *still)
    session = home.open_session("default")
    parent = load_file(session.run(1).path / "best" / "model.safetensors")
    for document in (first, then):
        assert document["config"]["projection"]
        weights = load_file(Path(document["run"]) / "best" / "model.safetensors")
        projection = weights["projection.weight"]  # [E, H]
        torch.testing.assert_close(projection @ projection.T, torch.eye(16), rtol=0, atol=1e-4)
        seen = weights["encoder.weight"] @ projection
        torch.testing.assert_close(seen, parent["encoder.weight"], rtol=0, atol=1e-4)
        assert not torch.allclose(weights["encoder.weight"], parent["encoder.weight"], atol=1e-2)
    [scored] = answer(capsys, "evaluate", "@")
    assert scored["test_ppl"] == pytest.approx(then["test_ppl"], rel=1e-4)
    packed = answer(capsys, "pack", "@")
    assert packed["test_ppl"] == pytest.approx(then["test_ppl"], rel=1e-3)
    planned = answer(capsys, "schedule", "check", "level.yaml", "--run", "1", "--projection")
    assert planned["weights"] == then["results"]["parameters"]
    (home.path / "turned.yaml").write_text(
        "pruners: {level: {class: SparsityLevelParameterPruner,"
        " levels: {projection.weight: 0.5}}}\n"
        "lr_schedulers: {slower: {class: StepLR, step_size: 1}}\n"
        "policies:\n  - {pruner: {instance_name: level}, epochs: [0]}\n"
        "  - {lr_scheduler: {instance_name: slower}, epochs: [0]}\n",
        encoding="utf-8",
    )
    turned = ("schedule", "check", "turned.yaml", "--run", "1", "--projection")
    assert [tensor["name"] for tensor in answer(capsys, *turned)["tensors"]] == [
        "projection.weight"
    ]
    # A config that says otherwise is refused, and nothing is lost in silence.
    config = session.run(3).config().model_copy(update={"projection": False})
    run = session.new_run(config, "prune", parent=session.run(3))
    launch.start(run)
    assert wait(run) == "failed"
    assert "cannot be taken back" in run.read().reason


def test_rotating_a_pruned_model_says_that_it_fills_up_the_zeros(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(capsys, "train", *SMALL, "--epochs", "1", "--tied")
    (home.path / "agp.yaml").write_text(SCHEDULE, encoding="utf-8")
    answer(capsys, "prune", "@", "--schedule", "agp.yaml", "--epochs", "3")
    short = ("--schedule", "agp.yaml", "--epochs", "1", "--projection")
    document = answer(capsys, "prune", "@", *short)
    warned = "of run default/002-prune 70% of encoder.weight were zero, and rotating"
    assert warned in "".join(document["results"]["warnings"])


@pytest.mark.parametrize(
    "kind, config, sign",
    [
        ("sensitivity", SensitivityConfig(tokens=300, threads=1), SensitivityPoint),
        (
            "quantize",
            QuantizeConfig(auto=True, budget="30%", eval_tokens=300, threads=1),
            Candidate,
        ),
        (
            "evaluate",
            EvaluateConfig(cache=20, dynamic="sgd", tune=True, bptt=2, threads=1),
            TuningPass,
        ),
    ],
)
def test_a_search_that_was_killed_goes_on_from_what_it_found(
    home: Home, kind: Kind, config: Config, sign: type[SensitivityPoint | Candidate | TuningPass]
) -> None:
    # Few modules, so that a search tries few settings.
    parent = new_run(home, "dense", epochs=1, model="RNN_TANH", nlayers=1)
    launch.start(parent)
    assert wait(parent) == "finished"

    def found(run: Run) -> list[Any]:
        return [e for e in read_events(run.events_path) if isinstance(e, sign)]

    whole = home.session("s").new_run(config, kind, parent=parent)
    launch.start(whole)
    assert wait(whole) == "finished"
    run = home.session("s").new_run(config, kind, parent=parent)
    launch.start(run)
    wait(run, until=lambda events: sum(isinstance(e, sign) for e in events) >= 3)
    kill_worker(run)
    before = found(run)
    launch.resume(run)
    assert wait(run) == "finished"
    after = found(run)
    assert after[: len(before)] == before
    assert len(before) < len(after)
    same = [dataclasses.replace(e, t=0.0) for e in after]
    assert same == [dataclasses.replace(e, t=0.0) for e in found(whole)]
    assert kinds_of_events(run) == kinds_of_events(whole)


def kinds_of_events(run: Run) -> Counter[str]:
    """How many events that count there are of each kind, but for what depends on the clock."""
    found = Counter(event.kind for event in read_events(run.events_path))
    return Counter({k: n for k, n in found.items() if k not in ("progress", "run_resumed")})


def test_of_a_model_that_has_changed_meanwhile_nothing_that_was_found_before_counts(
    home: Home,
) -> None:
    parent = new_run(home, "dense", epochs=1, model="RNN_TANH", nlayers=1)
    launch.start(parent)
    assert wait(parent) == "finished"
    config = SensitivityConfig(tokens=300, threads=1)

    def points(run: Run) -> list[float]:
        events = read_events(run.events_path)
        return [event.ppl for event in events if isinstance(event, SensitivityPoint)]

    run = home.session("s").new_run(config, "sensitivity", parent=parent)
    launch.start(run)
    wait(run, until=lambda events: sum(isinstance(e, SensitivityPoint) for e in events) >= 3)
    kill_worker(run)
    path = parent.path / "best" / "model.safetensors"
    save_file({name: 3 * weight for name, weight in load_file(path).items()}, path)
    launch.resume(run)
    assert wait(run) == "finished"
    whole = home.session("s").new_run(config, "sensitivity", parent=parent)
    launch.start(whole)
    assert wait(whole) == "finished"
    assert points(run) == points(whole)
    warned = [e.message for e in read_events(run.events_path) if isinstance(e, Warned)]
    assert [line[:39] for line in warned] == ["the model of s/001-train has changed si"]


def test_a_best_checkpoint_that_a_resumed_run_has_yet_to_come_to_is_not_scored(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A training settles it for its whole process.
    monkeypatch.setattr(process, "_allowed", None)
    run = new_run(home, "killed", epochs=2, batch_size=20, lr=0.5, checkpoint_every=0)

    class DeathError(Exception):
        """The process dies here."""

    def die_after_best(trainer: Trainer) -> None:
        if trainer.position.epoch == 2:
            raise DeathError
        save(trainer)

    save = Trainer.save
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", die_after_best)
        with pytest.raises(DeathError):
            train.work(Job(run, run.read(), run.config(), resuming=False))
    assert checkpoint_step(run.path / "best") > checkpoint_step(run.path / "last")
    monkeypatch.setattr(Requests, "next", lambda _: "stop")
    job = Job(run, run.read(), run.config(), resuming=True)
    train.work(job)
    results = job.record.results
    assert results["test_checkpoint"] == "last"
    assert results["best_epoch"] == 1


def test_a_run_that_goes_on_has_no_test_figures_of_the_model_that_it_was(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_allowed", None)
    run = new_run(home, "stopped", epochs=2, batch_size=20)
    with monkeypatch.context() as patch:
        patch.setattr(Requests, "next", lambda _: "stop")
        train.work(Job(run, run.read(), run.config(), resuming=False))
    assert {"test_ppl", "test_loss", "test_checkpoint"} <= run.read().results.keys()

    seen: list[dict[str, Any]] = []

    def save_and_look(trainer: Trainer) -> None:
        save(trainer)
        seen.append(run.read().results)

    save = Trainer.save
    monkeypatch.setattr(Trainer, "save", save_and_look)
    train.work(Job(run, run.read(), run.config(), resuming=True))
    of_the_last_epoch = seen[-1]
    assert of_the_last_epoch["valid_ppl"]
    assert not [name for name in of_the_last_epoch if name.startswith("test_")]
    assert "test_ppl" in run.read().results


def test_a_stop_that_comes_as_the_last_epoch_is_validated_comes_too_late(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_allowed", None)
    run = new_run(home, "whole", epochs=1, batch_size=20)
    asked: list[str] = []

    def end_epoch(trainer: Trainer) -> None:
        end(trainer)
        asked.append("stop")

    end = Trainer._end_epoch
    monkeypatch.setattr(Trainer, "_end_epoch", end_epoch)
    monkeypatch.setattr(Requests, "next", lambda _: asked[-1] if asked else None)
    job = Job(run, run.read(), run.config(), resuming=False)
    train.work(job)
    assert asked
    assert job.record.results["test_ppl"] > 1
    assert not job.stopped


def test_while_it_trains_a_run_has_the_size_of_its_integers_packed(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_allowed", None)
    schedule = home.path / "later.yaml"
    of_weights = QUANTIZED.replace("bits_activations: 8", "bits_activations: null")
    schedule.write_text(of_weights.replace("starting_epoch: 0", "starting_epoch: 1"))
    run = new_run(home, "four", epochs=2, batch_size=20, compress=str(schedule), tied=True)
    seen: list[int | None] = []

    def save_and_look(trainer: Trainer) -> None:
        save(trainer)
        seen.append(run.read().results.get("packed_bytes"))

    save = Trainer.save
    monkeypatch.setattr(Trainer, "save", save_and_look)
    train.work(Job(run, run.read(), run.config(), resuming=False))
    results = run.read().results
    *of_floats, of_integers = seen
    assert set(of_floats) == {None}
    assert of_integers is not None
    assert of_integers == results["packed_bytes"] < results["bytes"] / 3
    on_valid = OpenModel(
        id=1, run=str(run.path), threads=1, tokens=300, calibrate_on="valid", calibration_tokens=300
    )
    opened = OpenedModel.from_run(on_valid, lambda *progress: None)
    assert opened.packed_bytes == of_integers
    assert opened.prune("encoder.weight", 0.9, lambda *progress: None)[2] < of_integers


@pytest.mark.parametrize("bits_activations", ["8", "null"])
def test_a_run_stopped_as_its_quantizer_begins_has_the_figures_of_its_best_checkpoint(
    home: Home,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    bits_activations: str,
) -> None:
    monkeypatch.setattr(process, "_allowed", None)
    schedule = home.path / "later.yaml"
    of_weights = QUANTIZED.replace("bits_activations: 8", f"bits_activations: {bits_activations}")
    schedule.write_text(of_weights.replace("starting_epoch: 0", "starting_epoch: 1"))
    run = new_run(home, "four", epochs=2, batch_size=20, compress=str(schedule), tied=True)
    begun: list[int] = []

    def begin(trainer: Trainer) -> None:
        begin_epoch(trainer)
        begun.append(trainer.position.epoch)

    begin_epoch = Trainer.begin_epoch
    monkeypatch.setattr(Trainer, "begin_epoch", begin)
    with monkeypatch.context() as patch:
        patch.setattr(Requests, "next", lambda _: "stop" if 1 in begun else None)
        train.work(Job(run, run.read(), run.config(), resuming=False))
    results = run.read().results
    assert results["test_checkpoint"] == "best"
    assert "packed_bytes" not in results
    assert "test_ppl_of_quantized_activations" not in results
    [scored] = answer(capsys, "evaluate", run.ref, "--split", "test", "--threads", "1")
    assert results["test_ppl"] == pytest.approx(scored["test_ppl"], rel=1e-4)


def test_an_evaluation_of_the_last_checkpoint_has_its_zeros(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(answer(capsys, "train", *SMALL, "--epochs", "1")["run"])
    of_run = home.find_run("@", "default")
    of_run.update(results=of_run.read().results | {"packed_bytes": 7})
    last = run / "last" / "model.safetensors"
    weights = load_file(last)
    weights["rnn.weight_hh_l0"].zero_()
    save_file(weights, last)
    known = of_run.read().results
    for which, size in (("best", {"packed_bytes": 7}), ("last", {})):
        answer(capsys, "evaluate", "1", "--checkpoint", which)
        results = home.find_run("@", "default").read().results
        assert {key: results[key] for key in results if key == "packed_bytes"} == size
        gone = 0 if which == "best" else weights["rnn.weight_hh_l0"].numel()
        assert results["nonzero"] == known["nonzero"] - gone
        # What packing costs shows beside the same checkpoint only.
        answer(capsys, "pack", "1", "--checkpoint", which)
        packed = home.find_run("@", "default").read().results
        assert ("test_ppl_of_parent" in packed) == (which == "best")
    # A speed needs no corpus.
    (home.path / "data").rename(home.path / "elsewhere")
    speed = ("benchmark", "1", "--tokens", "60", "--rounds", "1", "--runtimes", "torch")
    answer(capsys, *speed)
    rows = home.find_run("@", "default").read().results["rows"]
    assert rows
    assert all(row["ms"] > 0 and row["ppl"] is None for row in rows)


def test_the_scored_last_model_is_the_one_that_is_kept(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """Masks of the forward pass alone are none of its."""
    (home.path / "forward.yaml").write_text(
        "version: 1\npruners: {p: {class: SparsityLevelParameterPruner, levels: {'*': 0.8}}}\n"
        "policies: [{pruner: {instance_name: p, args: {mask_on_forward_only: true}}, epochs: [0]}]"
    )
    made = answer(
        capsys, "prune", *SMALL, "--schedule", "forward.yaml", "--epochs", "1",
        "--test-checkpoint", "last",
    )  # fmt: skip
    assert made["results"]["test_checkpoint"] == "last"
    weights = load_file(Path(made["run"]) / "last" / "model.safetensors")
    zeros = sum(int((w == 0).sum()) for name, w in weights.items() if w.dim() == 2)
    assert zeros < 100
    assert made["results"]["sparsity"] < 0.05
    [scored] = answer(capsys, "evaluate", "@", "--checkpoint", "last")
    assert scored["test_ppl"] == pytest.approx(made["results"]["test_ppl"], rel=1e-4)


def test_a_dense_copy_that_is_scored_has_no_size_of_the_masked_weights(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    (home.path / "feedback.yaml").write_text(
        "version: 1\npruners: {p: {class: SparsityLevelParameterPruner, levels: {'*': 0.8}}}\n"
        "policies: [{pruner: {instance_name: p, args: {mask_on_forward_only: true, "
        "use_double_copies: true, keep_mask: true}}, epochs: [0, 1]}]"
    )
    for which, of_size in (("best", {"packed_bytes"}), ("last", set())):
        made = answer(
            capsys, "prune", *SMALL, "--schedule", "feedback.yaml", "--epochs", "1",
            "--test-checkpoint", which,
        )  # fmt: skip
        results = made["results"]
        assert {"packed_bytes"} & results.keys() == of_size
        assert (results["sparsity"] > 0.7) == bool(of_size)


@pytest.mark.parametrize("projection", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_training_with_quantized_weights_leaves_a_model_that_everyone_can_read(
    home: Home, projection: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(capsys, "train", *SMALL, "--epochs", "1", "--tied")
    (home.path / "qat.yaml").write_text(QUANTIZED, encoding="utf-8")
    also = ["--projection"] * projection
    document = answer(capsys, "prune", "@", "--schedule", "qat.yaml", "--epochs", "2", *also)
    weights = load_file(Path(document["run"]) / "best" / "model.safetensors")
    matrices = {name: w for name, w in weights.items() if w.dim() == 2}
    assert matrices.keys() == {
        "encoder.weight", *(f"rnn.weight_{k}_l{n}" for k in ("ih", "hh") for n in (0, 1)),
        *["projection.weight"] * projection,
    }  # fmt: skip
    # One scale a tensor and four bits: no more than sixteen values are left in each.
    assert all(len(w.unique()) <= 16 for w in matrices.values())
    [scored] = answer(capsys, "evaluate", "@")
    # Without the 8-bit gates that it trained with, it is nearly the same model.
    assert scored["test_ppl"] == pytest.approx(document["test_ppl"], rel=0.02)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("train", "--data", "nowhere"), "nowhere"),
        (("train", "--data", "tiny", "--dropout", "1.5"), "--dropout: 1.5"),
        (("train", "--data", "tiny", "--tied", "--nhid", "16"), "--tied needs --emsize equal"),
        (("train", "--data", "tiny", "--batch-size", "6000"), "lower --batch-size or --bptt"),
        (("train", "--data", "tiny", "--model", "CNN"), "CNN"),
        (("train", "--data", "tiny", "--device", "cuda:99"), "cuda:99"),
        (("train", "--data", "tiny", "--compress", "no.yaml"), "no.yaml"),
        (("prune", "--data", "tiny"), "--schedule"),
        (("prune", "9", "--schedule", "small-80"), "no session 'default'"),
        (("train", "--bogus", "1"), "--bogus"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(
    home: Home, arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lmbench(list(arguments)) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert "Traceback" not in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    # Which devices there are, the worker alone knows: nothing else leaves a run.
    assert bool(list(home.all_runs())) == (says == "cuda:99")
