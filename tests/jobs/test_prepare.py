"""From a wish to a run: names, commands, what a pruning takes over."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from lmbench.cli.app import build
from lmbench.config import (
    EvaluateConfig,
    PruneConfig,
    QuantizeConfig,
    SensitivityConfig,
    TrainConfig,
    validate,
)
from lmbench.config.training import laid_over
from lmbench.errors import LmbenchError
from lmbench.jobs import launch, prepare
from lmbench.jobs.chains import CHAINS, Step, chain_steps, seconds_of
from lmbench.jobs.input_files import name_of_file, schedule_file
from lmbench.jobs.prepare import check_training, command_for, inherited_settings, make_run, run_name
from lmbench.report.published_figures import FIRST_STEPS, PUBLISHED
from lmbench.report.training_speed import Measured, operations
from lmbench.session import Home, Run
from lmbench.session.store import Corpus


@pytest.mark.parametrize(
    "kind, config, name",
    [
        ("train", TrainConfig(tied=True), "lstm-2x200-tied"),
        ("train", TrainConfig(model="RNN_TANH", nlayers=1, nhid=64), "rnn-tanh-1x64"),
        ("prune", PruneConfig(compress="sessions/a/schedules/mine.yaml"), "mine"),
        ("quantize", QuantizeConfig(preset="int8-best"), "int8-best"),
        ("quantize", QuantizeConfig(), "quantize"),
        ("sensitivity", SensitivityConfig(granularity="rows"), "rows"),
    ],
)
def test_a_run_without_a_name_is_called_after_what_it_is(kind, config, name):
    assert run_name(kind, config) == name


def test_a_run_has_its_files_before_a_queue_can_see_it(tmp_path, monkeypatch):
    session = Home(tmp_path).open_session()
    (tmp_path / "stats.yaml").write_text("a: 1\n")
    monkeypatch.setattr(prepare, "attach", lambda run, files: seen.append((files, session.runs())))
    seen = []
    run = make_run(session, "quantize", QuantizeConfig(stats=str(tmp_path / "stats.yaml")))
    assert seen == [({"stats.yaml": b"a: 1\n"}, [])]
    assert session.runs() == [run]


@pytest.mark.parametrize("published", [*PUBLISHED, FIRST_STEPS], ids=lambda p: p.name)
def test_the_command_line_reads_back_the_settings_that_a_command_is_made_from(published):
    words = shlex.split(command_for("train", published.settings, session="other"))
    _, bound, _ = build().parse_args(words[1:], exit_on_error=False)
    given = {k: v for k, v in bound.arguments.items() if k in TrainConfig.model_fields}
    assert given == dict(published.settings)
    assert bound.arguments["session"] == "other"


@pytest.mark.parametrize("lr", [0.12345678, 1 / 3, 20.0, 1e-6, 123456789.5])
def test_a_number_of_the_command_line_reads_back_as_the_same_number(lr):
    assert "--nonmono none" in command_for("prune", {"nonmono": None}, parent="a/1")
    words = shlex.split(command_for("train", {"lr": lr}))
    _, bound, _ = build().parse_args(words[1:], exit_on_error=False)
    assert bound.arguments["lr"] == lr


def test_levels_of_a_command_line_read_back_as_the_same_numbers():
    levels = (0.0, 0.1234567, 0.5)
    words = shlex.split(command_for("sensitivity", {"levels": levels}, parent="a/1"))
    _, bound, _ = build().parse_args(words[1:], exit_on_error=False)
    assert tuple(bound.arguments["levels"]) == levels


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda p: p.name)
def test_published_trainings_name_the_corpus_that_their_figures_are_of(published):
    assert validate(TrainConfig, published.settings).data == "wikitext-2"


@pytest.mark.parametrize("chain", CHAINS, ids=lambda c: c.name)
def test_a_chain_trains_and_prunes_on_one_named_corpus(chain):
    trained = [s.config for s in chain_steps(chain) if isinstance(s.config, TrainConfig)]
    assert {config.data for config in trained} == {chain.training.settings["data"]}
    changed = [s.config for s in chain_steps(chain, {"data": "mine"})]
    assert {c.data for c in changed if isinstance(c, TrainConfig)} == {"mine"}


def test_a_quantization_takes_as_long_as_what_it_runs_over():
    training = TrainConfig(tied=True)
    rate = Measured("a/1", "cpu", "auto", operations(training, 1000), 100.0, 1.0)

    def seconds(**settings: Any) -> float | None:
        step = Step("quantize", "", QuantizeConfig(**settings))
        return seconds_of(step, 1000, {"valid": 3000, "test": 5000}, [rate], training)

    # Forwards three times as fast as training, simulated half as slow again.
    assert seconds(calibration_tokens=2000) == pytest.approx(10_000 / 300 * 1.5)
    assert seconds(calibration_tokens=2000, eval_tokens=1000) == pytest.approx(4000 / 300 * 1.5)
    assert seconds(dynamic=True) == pytest.approx(8000 / 300 * 1.5)
    assert seconds(auto=True, budget="4MB") is None


def test_a_pruning_s_command_names_its_parent_and_its_schedule():
    command = command_for("prune", {"compress": "large-80", "lr": 0.5}, parent="a/001-train")
    assert command == "lmbench prune a/001-train --schedule large-80 --lr 0.5"


def test_names_with_blanks_survive_the_shell():
    assert shlex.split(command_for("train", {}, name="my run"))[-2:] == ["--name", "my run"]


def test_a_pruning_takes_over_all_but_the_schedule_and_the_teacher(tmp_path):
    session = Home(tmp_path).open_session("s")
    config = TrainConfig(emsize=64, nhid=64, lr=5.0, compress="large-70", teacher="s/1")
    parent = session.new_run(config, "train")
    assert inherited_settings(parent) == {"emsize": 64, "nhid": 64, "lr": 5.0}


@pytest.mark.parametrize(
    "before, changed, says",
    [
        ({"projection": True}, {"projection": False}, "cannot be taken back"),
        ({"emsize": 10, "tied": False}, {"projection": True}, "10 wide and its layers 200"),
        ({}, {"projection": True}, ""),
        ({"emsize": 10, "projection": True}, {}, ""),
        (
            {"tied": False},
            {"tied": True},
            "--tied: True is not the parent's model, which has False",
        ),
        ({"model": "RNN_TANH"}, {"model": "RNN_RELU"}, "--model: RNN_RELU is not"),
        ({}, {"nlayers": 3}, "--nlayers: 3 is not the parent's model, which has 2: leave the flag"),
        ({"lr": 3.0, "dropout": 0.1}, {"lr": 1.0, "dropout": 0.5}, ""),
    ],
)
def test_what_would_be_another_model_is_refused_before_a_run_is_made(
    tmp_path, before, changed, says
):
    session = Home(tmp_path).open_session("s")
    config = TrainConfig.model_validate({"tied": True, "data": "pydoc", **before})
    parent = session.new_run(config, "train")
    own = PruneConfig.model_validate({**config.model_dump(), **changed})
    if says:
        with pytest.raises(LmbenchError, match=says):
            make_run(session, "prune", own, parent=parent)
    else:
        assert make_run(session, "prune", own, parent=parent).read().parent == parent.ref
    assert len(session.runs()) == 1 + (not says)


def test_a_run_that_names_no_corpus_stays_on_the_default_of_its_day(tmp_path):
    session = Home(tmp_path).open_session()
    run = make_run(session, "train", TrainConfig(epochs=2))
    wikitext = tmp_path / "data" / "wikitext-2"
    wikitext.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        (wikitext / f"{split}.txt").write_text("a b\n")
    assert run.read().config["data"] == "pydoc"
    assert inherited_settings(run) == {"data": "pydoc", "epochs": 2}
    assert make_run(session, "train", TrainConfig()).read().config["data"] == "wikitext-2"
    # As versions before this one wrote it.
    earlier = session.new_run(TrainConfig(), "train", name="earlier")
    earlier.update(corpus=Corpus(name="pydoc", fingerprint="f", ntokens=9))
    assert inherited_settings(earlier) == {"data": "pydoc"}


def test_a_corpus_that_is_known_by_name_is_no_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "pydoc").mkdir()
    (tmp_path / "novels").mkdir()
    monkeypatch.chdir(tmp_path)
    session = Home(tmp_path / "home").open_session()
    known = make_run(session, "train", TrainConfig(data="pydoc"))
    own = make_run(session, "train", TrainConfig(data="novels"))
    assert inherited_settings(known)["data"] == "pydoc"
    assert inherited_settings(own)["data"] == str((tmp_path / "novels").resolve())


def test_where_to_compute_is_said_in_one_way():
    assert laid_over({"cuda": True, "lr": 1}, {"device": "cpu"}) == {"lr": 1, "device": "cpu"}
    assert laid_over({"device": "cpu"}, {"cuda": True}) == {"cuda": True}
    assert laid_over({"device": "cpu"}, {"cuda": False}) == {"device": "cpu", "cuda": False}


def test_what_is_no_training_cannot_be_pruned(tmp_path):
    run = Home(tmp_path).open_session("s").new_run(EvaluateConfig(), "evaluate")
    with pytest.raises(LmbenchError, match="no training"):
        inherited_settings(run)


def test_a_run_has_its_own_copy_of_its_schedule(tmp_path):
    session = Home(tmp_path).open_session("s")
    own = tmp_path / "mine.yaml"
    own.write_text("version: 1\n")
    run = make_run(session, "prune", PruneConfig(compress="mine.yaml"))
    own.write_text("version: 2\n")
    assert (run.path / "schedule.yaml").read_text() == "version: 1\n"


def test_a_wrong_schedule_is_found_before_anything_is_made(tmp_path):
    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_text("a b c d e f\n" * 200)
    config = TrainConfig(data="tiny", compress="no-such-schedule")
    with pytest.raises(LmbenchError, match="no-such-schedule"):
        check_training(config, Home(tmp_path), has_parent=False)
    assert not (tmp_path / "sessions").exists()


def test_overrides_come_back_from_the_command_line():
    overrides = (r"(?:rnn)\..*:bits_weights=4,clip_acts=avg", "decoder:fp16=yes")
    command = command_for("quantize", {"override": overrides, "preset": "fp16"}, parent="a/1")
    _, bound, _ = build().parse_args(shlex.split(command)[1:], exit_on_error=False)
    assert bound.arguments["override"] == overrides
    assert bound.arguments["preset"] == "fp16"
    assert bound.arguments["run"] == "a/1"


@pytest.mark.parametrize("error", [LmbenchError("no process"), OSError(28, "full")])
def test_of_runs_that_are_started_together_there_are_all_or_none(
    tmp_path: Path, error: Exception
) -> None:
    session = Home(tmp_path).open_session()

    def three() -> list[Run]:
        return [session.new_run(TrainConfig(), "train") for _ in range(3)]

    with launch.all_or_none() as runs:
        runs += three()
    assert len(session.runs()) == 3

    def fail() -> None:
        with launch.all_or_none() as runs:
            runs += three()
            # What a supervisor began with meanwhile stays.
            runs[0].update(status="running")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert [run.id for run in session.runs()] == [1, 2, 3, 4]


def test_a_file_is_named_so_that_it_is_found_also_from_a_folder_with_another_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, elsewhere = Home(tmp_path / "home"), tmp_path / "elsewhere"
    ours, theirs = (folder / "mine.yaml" for folder in (home.path, elsewhere))
    for path in (ours, theirs):
        path.parent.mkdir()
        path.touch()
    monkeypatch.chdir(tmp_path)
    assert name_of_file(ours, home) == "mine.yaml"
    monkeypatch.chdir(elsewhere)
    assert name_of_file(ours, home) == str(ours)
    for path in (ours, theirs):
        assert schedule_file(name_of_file(path, home), home).samefile(path)
    monkeypatch.chdir(home.path)
    assert name_of_file(ours, home) == "mine.yaml"
