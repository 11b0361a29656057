"""The command that a run shows to be pasted into a shell."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmbench.config import CONFIGS, Kind, parse_config
from lmbench.report.run_command import run_command
from lmbench.session import Home, Run, RunRecord


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Home(tmp_path).open_session().new_run(CONFIGS["train"](), "train")


def command(run: Run, kind: Kind, config: dict[str, Any], **fields: Any) -> str:
    document = {"id": 1, "kind": kind, "config": config, "name": kind, **fields}
    return run_command(run, RunRecord.model_validate(document))


def test_what_the_record_says_is_never_shown(run):
    text = command(run, "train", {"epochs": 3}, command="lmbench runs\nrm -rf ~", name="x")
    assert text == "lmbench train --epochs 3 --name x"


def test_a_pruning_names_its_parent_and_its_schedule(run):
    config = {"compress": "small-80", "tied": True}
    text = command(run, "prune", config, parent="default/001-train", name="small-80")
    assert text == "lmbench prune default/001-train --schedule small-80 --tied"


def test_settings_out_of_order_give_no_command(run):
    assert command(run, "train", {"epochs": "; rm -rf ~"}) == ""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.text(min_size=1), name=st.text(), parent=st.text(min_size=1))
def test_a_command_is_one_line_of_the_words_that_give_these_settings(run, data, name, parent):
    text = command(run, "prune", {"data": data, "compress": "x"}, name=name, parent=parent)
    assert len(text.splitlines()) <= 1
    words = shlex.split(text)
    assert words[:2] == ["lmbench", "prune"]
    assert not words[2].startswith("-")
    assert parse_config("prune", {"data": words[words.index("--data") + 1]})
