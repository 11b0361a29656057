"""How long a pruning trains, and what is said where that is too short for its schedule."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_world import answer

from lmbench.cli import run as lmbench
from lmbench.session import Home, read_events
from lmbench.session.events import Warned

SCHEDULE = """
version: 1
pruners:
  agp:
    class: AutomatedGradualPruner
    initial_sparsity: 0.05
    final_sparsity: 0.6
    weights: [encoder.weight]
policies:
  - pruner: {instance_name: agp}
    starting_epoch: 0
    ending_epoch: 4
    frequency: 1
"""


@pytest.fixture
def schedule(home: Home) -> str:
    path = Path.cwd() / "four.yaml"
    path.write_text(SCHEDULE, encoding="utf-8")
    return str(path)


def test_a_pruning_from_a_short_training_is_as_long_as_its_schedule(
    home: Home, capsys: pytest.CaptureFixture[str], schedule: str
) -> None:
    assert home.find_run("1").read().config["epochs"] == 1
    pruned = answer(capsys, "prune", "1", "--schedule", schedule)
    assert pruned["config"]["epochs"] == 4
    assert "warnings" not in pruned["results"]
    tied = home.find_run(pruned["run"]).read().results
    # All of what it prunes: 0.6 of the 71 x 16 weights of the embedding.
    assert tied["nonzero"] == tied["parameters"] - int(0.6 * 71 * 16)


def test_one_that_is_told_to_be_too_short_warns_before_the_start_and_in_its_record(
    home: Home, capsys: pytest.CaptureFixture[str], schedule: str
) -> None:
    words = "ends after 2"
    assert lmbench(["prune", "1", "--schedule", schedule, "--epochs", "2"]) == 0
    streams = capsys.readouterr()
    assert (streams.err.count(words), streams.out.count(words)) == (1, 1)
    made = home.session("default").runs()[-1]
    record = made.read()
    assert record.config["epochs"] == 2
    assert [words in warning for warning in record.results["warnings"]] == [True]
    events = read_events(made.events_path)
    assert any(isinstance(e, Warned) and words in e.message for e in events)


def test_of_a_run_without_a_model_no_pruning_is_made_that_could_only_fail(
    home: Home, capsys: pytest.CaptureFixture[str], schedule: str
) -> None:
    session = home.session("default")
    untrained = session.new_run(home.find_run("1").config(), "train")
    untrained.update(status="stopped", corpus=home.find_run("1").read().corpus)
    assert lmbench(["prune", untrained.ref, "--schedule", schedule]) == 2
    err = capsys.readouterr().err
    assert f"run {untrained.ref} (stopped) has no model to start from: have it trained" in err
    assert session.runs()[-1] == untrained
