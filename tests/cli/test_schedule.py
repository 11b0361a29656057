"""``lmbench schedule`` and what a training says of its schedule before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_world import answer

from lmbench.cli import run as lmbench
from lmbench.session import Home

Capture = pytest.CaptureFixture[str]
SHORT = "the schedule takes 6 epochs and the training ends after 4: 71.3% of the weights will be"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        words = " ".join(f"w{number % 50}" for number in range(2000))
        (folder / f"{split}.txt").write_text(words, encoding="utf-8")
    return Home(tmp_path)


@pytest.mark.parametrize("verb", ["check", "plot"])
def test_weights_are_counted_over_the_words_of_the_corpus_that_is_named(verb, capsys: Capture):
    line = ("schedule", verb, "small-80", "--tied", "--emsize", "8", "--nhid", "8")
    # Four matrices of two layers, and the embedding of 50 words and <eos>.
    assert answer(capsys, *line, "--data", "tiny")["weights"] == 4 * 32 * 8 + 51 * 8
    assert answer(capsys, *line, "--types", "60")["weights"] == 4 * 32 * 8 + 60 * 8
    assert answer(capsys, *line)["weights"] == 4 * 32 * 8 + 33_278 * 8


def test_an_untied_model_under_a_schedule_of_a_tied_one_is_noted(capsys: Capture):
    assert lmbench(["schedule", "check", "small-80"]) == 0
    assert "note: decoder.weight stays dense" in capsys.readouterr().out
    assert lmbench(["schedule", "check", "small-80", "--tied"]) == 0
    assert "note:" not in capsys.readouterr().out


def test_check_warns_of_a_schedule_longer_than_the_training(capsys: Capture):
    assert lmbench(["schedule", "check", "small-80", "--tied", "--epochs", "4"]) == 0
    assert f"note: {SHORT} zero where it asks for 80.0%; --epochs 6" in capsys.readouterr().out
    assert lmbench(["schedule", "check", "small-80", "--tied", "--epochs", "6"]) == 0
    assert "note:" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "command",
    ["prune --schedule small-80", "prune --compress small-80", "train --compress small-80"],
)
def test_a_training_shorter_than_its_schedule_warns_before_it_starts(
    command, home, capsys: Capture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lmbench.jobs.launch.start", lambda run, queue: None)
    small = "--data tiny --tied --emsize 8 --nhid 8 --batch-size 2 --eval-batch-size 2 --detach"
    for epochs in ("4", "6"):
        assert lmbench([*command.split(), *small.split(), "--epochs", epochs, "--json"]) == 0
        err = capsys.readouterr().err
        assert err.startswith("warning: the schedule takes 6 epochs") == (epochs == "4")


SPARE = """
pruners:
  all: {class: SparsityLevelParameterPruner, levels: {encoder.weight: 0.5}}
  spare: {class: SparsityLevelParameterPruner, levels: {encoder.weight: 0.9}}
policies:
  - pruner: {instance_name: all}
    epochs: [0]
"""


def test_an_entry_that_nothing_uses_is_told_of(
    home, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lmbench.jobs.launch.start", lambda run, queue: None)
    file, unused = tmp_path / "spare.yaml", "pruner spare: no policy uses it"
    file.write_text(SPARE, encoding="utf-8")
    for verb in ("check", "plot"):
        assert lmbench(["schedule", verb, str(file), "--tied"]) == 0
        assert f"note: {unused}" in capsys.readouterr().out
    small = "--data tiny --tied --emsize 8 --nhid 8 --batch-size 2 --eval-batch-size 2 --detach"
    assert lmbench(["prune", "--schedule", str(file), *small.split(), "--json"]) == 0
    assert f"warning: {unused}\n" in capsys.readouterr().err


UNBUILDABLE = """
quantizers:
  q:
    class: QuantAwareTrainRangeLinearQuantizer
    bits_weights: 4
    overrides: {no_such_module: {bits_weights: 8}}
policies:
  - quantizer: {instance_name: q}
    epochs: [0, 1]
"""


@pytest.mark.parametrize("command", ["schedule check FILE", "prune --schedule FILE"])
def test_what_the_start_of_a_run_refuses_is_refused_before_it(
    command: str, home: Home, capsys: Capture, tmp_path: Path
):
    file = tmp_path / "q.yaml"
    file.write_text(UNBUILDABLE, encoding="utf-8")
    line = command.replace("FILE", str(file)).split()
    assert lmbench([*line, "--emsize", "8", "--nhid", "8", "--data", "tiny"]) == 2
    assert "q.yaml: quantizers: q: override 'no_such_module'" in capsys.readouterr().err
    assert not list(home.path.glob("sessions/*/*/run.json"))


def test_a_schedule_in_the_home_folder_is_found_by_its_tilde(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "q.yaml").write_text(UNBUILDABLE, encoding="utf-8")
    assert lmbench(["schedule", "check", "~/q.yaml"]) == 2
    assert "override 'no_such_module'" in capsys.readouterr().err


def test_the_curves_of_a_long_schedule_are_500_points(capsys: Capture, tmp_path: Path):
    file = tmp_path / "long.yaml"
    file.write_text(
        "pruners:\n  p: {class: AutomatedGradualPruner, initial_sparsity: 0, final_sparsity: 0.5,"
        " weights: [rnn.weight_hh_l0]}\npolicies:\n  - {pruner: {instance_name: p},"
        " starting_epoch: 0, ending_epoch: 100000, frequency: 1}\n",
        encoding="utf-8",
    )
    found = answer(capsys, "schedule", "check", str(file), "--emsize", "8", "--nhid", "8")
    assert found["epochs"] == 100_000
    assert (found["at"][0], found["at"][-1]) == (0, 99_999)
    assert len(found["at"]) == len(found["totals"]) == 500
    assert found["tensors"][0]["sparsity"][-1] == 0.5
    short = answer(capsys, "schedule", "check", "small-80", "--tied")
    assert short["at"] == list(range(short["epochs"]))
    assert len(short["totals"]) == short["epochs"]
