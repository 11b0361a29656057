"""The command that a run shows to be pasted into a shell."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lmbench.cli.app import build
from lmbench.config import CONFIGS, Kind, parse_config
from lmbench.report.run_command import run_command
from lmbench.session import Home, Run, RunRecord


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Home(tmp_path).open_session().new_run(CONFIGS["train"](), "train")


def command(run: Run, kind: Kind, config: dict[str, Any], **fields: Any) -> str:
    document = {"id": 1, "kind": kind, "config": config, "name": kind, **fields}
    return run_command(run, RunRecord.model_validate(document))


def given_as(word: str) -> list[str]:
    """``--data=-x`` as the flag and its value."""
    flag, equals, value = word.partition("=-")
    return [flag, f"-{value}"] if equals and flag.startswith("--") else [word]


def parsed(text: str) -> dict[str, Any]:
    """What the command line makes of a command."""
    words = shlex.split(text)[1:]
    _, bound, _ = build().parse_args(words, exit_on_error=False, print_error=False)
    return dict(bound.arguments)


def test_what_the_record_says_is_never_shown(run):
    text = command(run, "train", {"epochs": 3}, command="lmbench runs\nrm -rf ~", name="x")
    assert text == "lmbench train --epochs 3 --name x"


def test_a_pruning_names_its_parent_and_its_schedule(run):
    config = {"compress": "small-80", "tied": True}
    text = command(run, "prune", config, parent="default/001-train", name="small-80")
    assert text == "lmbench prune default/001-train --schedule small-80 --tied"


@pytest.mark.parametrize("config", [{"device": "cuda"}, {"cuda": True}])
def test_an_older_packing_on_a_device_is_read_and_asked_for_without_one(run, config):
    text = command(run, "pack", config, parent="default/001-train")
    assert text.startswith("lmbench pack default/001-train")
    assert parsed(text).keys() == {"run", "name"}


def test_a_pruning_gives_what_its_parent_would_hand_on_otherwise(run):
    parent = run.session.new_run(parse_config("train", {"lr": 40, "epochs": 3, "seed": 5}), "train")
    config = {"compress": "small-80", "seed": 5}
    given = parsed(command(run, "prune", config, parent=parent.ref))
    assert (given["lr"], given["epochs"], given["seed"]) == (20, 40, 5)


def test_a_pruning_says_what_it_took_back_from_its_parent(run):
    awd = {"decay": 1.0, "nonmono": 5, "dropouti": 0.65, "lr": 30}
    parent = run.session.new_run(parse_config("train", awd), "train")
    given = parsed(command(run, "prune", {"compress": "small-80"}, parent=parent.ref))
    taken_back = {name: given[name] for name in ("decay", "nonmono", "dropouti")}
    assert taken_back == dict.fromkeys(taken_back)


def test_a_pruning_that_took_cuda_back_says_on_what_it_computes(run):
    parent = run.session.new_run(parse_config("train", {"cuda": True, "epochs": 3}), "train")
    text = command(run, "prune", {"compress": "small-80", "epochs": 3}, parent=parent.ref)
    assert (parsed(text)["device"], "--cuda" in text) == ("auto", False)
    parent = run.session.new_run(parse_config("train", {"device": "cpu"}), "train")
    text = command(run, "prune", {"compress": "small-80", "cuda": True}, parent=parent.ref)
    assert ("--device" in text, "--cuda" in text) == (False, True)


def test_a_pruning_gives_no_setting_that_its_others_make_idle(run):
    parent = run.session.new_run(parse_config("train", {"momentum": 0.9, "patience": 3}), "train")
    config = {"compress": "small-80", "momentum": 0.9, "patience": 3, "optimizer": "adamw"}
    config |= {"lr": 0.001, "lr_schedule": "cosine"}
    given = parsed(command(run, "prune", config, parent=parent.ref))
    assert (given["optimizer"], given["lr_schedule"]) == ("adamw", "cosine")
    assert not {"momentum", "patience"} & given.keys()


@pytest.mark.parametrize(
    "kind, config, name",
    [
        ("train", {}, "-x"),
        ("train", {"data": "-a"}, "x"),
        ("prune", {"compress": "-a.yaml"}, "-80"),
        ("benchmark", {"models": ["-a.lmb", "b.lmb"]}, "x"),
        ("quantize", {"override": ["-a:fp16=no", "b:fp16=no"]}, "x"),
        ("evaluate", {}, "test"),
    ],
)
def test_a_command_is_one_that_the_command_line_takes(run, kind, config, name):
    given = parsed(command(run, kind, config, parent=run.ref, name=name))
    assert given.get("name") == (name if kind != "evaluate" else None)
    for setting, value in config.items():
        if setting != "models":
            assert given[setting] == (tuple(value) if isinstance(value, list) else value)


def test_settings_out_of_order_give_no_command(run):
    assert command(run, "train", {"epochs": "; rm -rf ~"}) == ""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.text(min_size=1), name=st.text(), parent=st.text(min_size=1))
@example(data=" -a", name=" -b", parent="\n-c")
def test_a_command_is_one_line_of_the_words_that_give_these_settings(run, data, name, parent):
    text = command(run, "prune", {"data": data, "compress": "x"}, name=name, parent=parent)
    assert len(text.splitlines()) <= 1
    words = [part for word in shlex.split(text) for part in given_as(word)]
    assert words[:2] == ["lmbench", "prune"]
    assert not words[2].startswith("-")
    assert parse_config("prune", {"data": words[words.index("--data") + 1]})
