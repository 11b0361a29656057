"""A training by a recipe: under which settings, and over which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_world import answer, complaint

from lmbench.cli import run as lmbench
from lmbench.session import Home

Capture = pytest.CaptureFixture[str]
SMALL = ("--data", "tiny", "--emsize", "16", "--nhid", "16", "--tied", "--threads", "1")
LR_SCHEDULE = """
version: 1
lr_schedulers: {half: {class: ExponentialLR, gamma: 0.5}}
policies:
  - {lr_scheduler: {instance_name: half}, starting_epoch: 0, ending_epoch: 3, frequency: 1}
"""


def trained(capsys: Capture, *flags: str, epochs: int = 2) -> dict[str, Any]:
    return answer(capsys, "train", *SMALL, "--epochs", str(epochs), *flags)


def test_a_flag_wins_over_the_recipe_and_the_record_has_what_the_run_was_trained_with(
    home: Home, capsys: Capture
) -> None:
    made = trained(capsys, "--recipe", "awd", "--lr", "2", "--bptt", "35")
    # A default that was asked for is one, whatever the recipe has.
    assert made["config"]["lr"] == 2.0
    config = home.find_run(made["run"]).config()
    assert config.model_dump(include={"lr", "bptt", "decay", "nonmono", "weight_decay"}) == {
        "lr": 2.0, "bptt": 35, "decay": 1.0, "nonmono": 5, "weight_decay": 1.2e-6,
    }  # fmt: skip


def test_a_recipe_of_ones_own_trains_with_adamw_to_a_score(home: Home, capsys: Capture) -> None:
    Path("mine.yaml").write_text(
        "version: 1\nsettings: {optimizer: adamw, lr: 0.01, lr_schedule: cosine, warmup: 0.5}\n"
    )
    # A flag that needs what the recipe has.
    made = trained(capsys, "--recipe", "mine.yaml", "--beta1", "0.8")
    assert made["results"]["test_ppl"] < 70
    config = home.find_run(made["run"]).read().config
    assert (config["optimizer"], config["beta1"]) == ("adamw", 0.8)


def test_a_pruning_takes_its_parents_optimizer_and_the_recipe_takes_it_back(
    home: Home, capsys: Capture
) -> None:
    parent = trained(capsys, "--optimizer", "adamw", "--lr", "0.01", "--lr-schedule", "cosine")
    schedule = Path("s.yaml")
    schedule.write_text(
        "version: 1\npruners: {p: {class: SparsityLevelParameterPruner, levels: "
        "{encoder.weight: 0.5}}}\npolicies: [{pruner: {instance_name: p}, epochs: [0]}]\n"
    )
    inherits = answer(capsys, "prune", parent["run"], "--schedule", "s.yaml", "--beta1", "0.7")
    config = home.find_run(inherits["run"]).read().config
    assert (config["optimizer"], config["lr"], config["beta1"]) == ("adamw", 0.01, 0.7)
    plain = answer(
        capsys, "prune", parent["run"], "--schedule", "s.yaml", "--recipe", "plain", "--lr", "1"
    )
    for flag, value in (("--momentum", "0.5"), ("--patience", "3")):
        line = complaint(capsys, "prune", parent["run"], "--schedule", "s.yaml", flag, value)
        assert f"{flag}: does nothing with" in line
    config = home.find_run(plain["run"]).read().config
    assert config["lr"] == 1.0
    assert not {"optimizer", "lr_schedule"} & config.keys()


def test_what_anneals_on_a_plateau_is_refused_beside_a_schedule_that_sets_the_rate(
    home: Home, capsys: Capture
) -> None:
    Path("rate.yaml").write_text(
        "version: 1\nlr_schedulers: {half: {class: ExponentialLR, gamma: 0.5}}\npolicies:\n"
        "- {lr_scheduler: {instance_name: half}, starting_epoch: 0, ending_epoch: 3, frequency: 1}"
    )
    for command in (["train", *SMALL, "--compress"], ["prune", *SMALL, "--schedule"]):
        line = complaint(capsys, *command, "rate.yaml", "--patience", "3")
        assert "--patience: does nothing with a schedule that sets the learning rate" in line


def test_a_recipe_may_hold_the_schedule_of_a_pruning(home: Home, capsys: Capture) -> None:
    Path("small.yaml").write_text("version: 1\nsettings: {compress: small-80, epochs: 1}\n")
    made = answer(capsys, "prune", "1", "--recipe", "small.yaml")
    assert home.find_run(made["run"]).read().config["compress"] == "small-80"


@pytest.mark.parametrize(
    "line, says",
    [
        ("--recipe nothing", "--recipe nothing: neither a file nor one"),
        ("--recipe bad.yaml", "recipe bad.yaml: line 2: unknown setting 'lrr'"),
        ("--resume 1 --recipe awd", "--recipe: a run is resumed with the settings that it has"),
        ("--optimizer adamw", "--lr 20: is a rate for SGD"),
        ("--optimizer adamw --lr 0.001 --momentum 0.9", "--momentum: does nothing with --opt"),
        ("--beta2 0.9", "--beta2: does nothing without --optimizer adamw"),
        ("--lr-schedule linear --patience 3", "--patience: does nothing with --lr-schedule linear"),
        ("--decay 0.9 --lr-schedule linear", "--lr-schedule linear: the rate cannot go by"),
        ("--compress rates.yaml --lr-schedule cosine", "--lr-schedule cosine: schedule rates.yaml"),
        ("--compress rates.yaml --warmup 1", "--warmup 1: schedule rates.yaml sets the learning"),
        ("--compress rates.yaml --warmup-steps 9", "--warmup-steps 9: schedule rates.yaml sets"),
        ("--warmup-steps 9999", "--warmup-steps 9999: the rate would rise for all of the training"),
        ("--compress rates.yaml --decay 0.9", "--decay 0.9: schedule rates.yaml sets"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line_before_anything_is_made(
    line: str, says: str, home: Home, capsys: Capture
) -> None:
    Path("bad.yaml").write_text("version: 1\nsettings: {lrr: 3}\n")
    Path("rates.yaml").write_text(LR_SCHEDULE)
    runs = len(home.session("default").runs())
    capsys.readouterr()
    assert lmbench(["train", *line.split()] + list(SMALL) * ("--resume" not in line)) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"lmbench: {says}")
    assert err.count("\n") == 1
    assert len(home.session("default").runs()) == runs


def test_of_the_ways_of_the_rate_the_one_that_is_given_takes_the_others_place(
    home: Home, capsys: Capture
) -> None:
    made = trained(capsys, "--recipe", "awd", "--lr-schedule", "linear")
    config = home.find_run(made["run"]).read().config
    assert "decay" not in config
    assert (config["lr_schedule"], config["nonmono"]) == ("linear", 5)
    made = trained(capsys, "--recipe", "onecycle", "--decay", "0.9")
    config = home.find_run(made["run"]).read().config
    assert "lr_schedule" not in config
    assert (config["decay"], config["clip"]) == (0.9, 0.12)


def test_averages_are_scored_where_the_last_checkpoint_is_asked_for(
    home: Home, capsys: Capture
) -> None:
    made = trained(
        capsys, "--lr", "60", "--decay", "1", "--nonmono", "0", "--test-checkpoint", "last",
        epochs=6,
    )  # fmt: skip
    assert lmbench(["runs", "log", made["run"]]) == 0
    assert "from here on the weights are averaged" in capsys.readouterr().out
    # What is in the checkpoint is what was scored.
    scored = answer(capsys, "evaluate", made["run"], "--split", "test", "--checkpoint", "last")
    assert scored[0]["results"]["test_loss"] == pytest.approx(
        made["results"]["test_loss"], abs=1e-5
    )
