"""``lmbench sessions`` on the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lmbench.cli import run as lmbench
from lmbench.config import EvaluateConfig
from lmbench.session import Home
from lmbench.session.process import process_started

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A working folder with the session `mine`, of one finished run."""
    home = Home(tmp_path / "home")
    monkeypatch.setenv("LMBENCH_HOME", str(home.path))
    monkeypatch.chdir(tmp_path)
    run = home.open_session("mine").new_run(EvaluateConfig(), "evaluate")
    run.update(status="finished")
    return home


def document(capsys: Capture, *arguments: str) -> Any:
    assert lmbench(["sessions", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def complaint(capsys: Capture, *arguments: str) -> str:
    assert lmbench(["sessions", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def names(home: Home) -> list[str]:
    return [session.name for session in home.sessions()]


def test_sessions_are_listed_with_their_runs(home: Home, capsys: Capture) -> None:
    home.open_session("empty")
    live = home.open_session("mine").new_run(EvaluateConfig(), "evaluate")
    live.update(status="running", pid=os.getpid(), process_started=process_started(os.getpid()))
    home.open_session("mine").new_run(EvaluateConfig(), "evaluate")
    empty, mine = document(capsys, "list")
    assert (empty["name"], empty["runs"]) == ("empty", 0)
    assert (mine["runs"], mine["live"], mine["queued"]) == (3, 1, 1)
    assert [d["name"] for d in document(capsys, "list", "--session", "empty")] == ["empty"]


def test_a_session_is_shown_with_its_runs(home: Home, capsys: Capture) -> None:
    shown = document(capsys, "show", "mine")
    assert shown["name"] == "mine"
    assert [run["status"] for run in shown["runs"]] == ["finished"]
    assert document(capsys, "show", "--session", "mine") == shown
    assert lmbench(["sessions", "show", "mine"]) == 0
    assert "mine/001-evaluate" in capsys.readouterr().out


def test_a_damaged_session_is_listed_with_what_is_wrong(home: Home, capsys: Capture) -> None:
    (home.session("mine").path / "session.json").write_text("{")
    (listed,) = document(capsys, "list")
    assert listed["problem"].startswith("cannot be read as JSON")
    assert listed["problem"].endswith("session.json)")


def test_a_session_is_copied_renamed_and_deleted(home: Home, capsys: Capture) -> None:
    assert document(capsys, "copy", "mine", "yours")["name"] == "yours"
    assert document(capsys, "rename", "yours", "theirs")["name"] == "theirs"
    assert document(capsys, "copy", "--session", "theirs", "ours")["name"] == "ours"
    assert names(home) == ["mine", "ours", "theirs"]
    assert document(capsys, "delete", "theirs", "--yes")["deleted"] is True
    assert names(home) == ["mine", "ours"]


def test_deleting_without_a_terminal_needs_yes(home: Home, capsys: Capture) -> None:
    assert "add --yes" in complaint(capsys, "delete", "mine")
    assert names(home) == ["mine"]


def test_packing_and_unpacking_round_trips(home: Home, capsys: Capture, tmp_path: Path) -> None:
    packed = document(capsys, "pack", "mine")
    assert Path(packed["path"]).resolve() == tmp_path / "mine.lmbench"
    assert packed["bytes"] == (tmp_path / "mine.lmbench").stat().st_size
    assert "add --yes" in complaint(capsys, "pack", "mine")
    assert document(capsys, "pack", "mine", "-o", "other.lmbench")["left_out"] == []
    assert Path("mine.lmbench").read_bytes() == Path("other.lmbench").read_bytes()
    assert "already" in complaint(capsys, "unpack", "mine.lmbench")
    assert document(capsys, "unpack", "mine.lmbench", "--name", "again")["runs"] == 1
    assert names(home) == ["again", "mine"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["show", "nowhere"], "no session 'nowhere'"),
        (["show", "mine", "--session", "yours"], "which session"),
        (["copy", "mine"], "and the new name?"),
        (["copy", "mine", "a/b"], "session name"),
        (["delete"], "name the session"),
        (["delete", "nowhere", "--yes"], "no session 'nowhere'"),
        (["unpack", "nowhere.lmbench"], "no such file"),
        (["pack", "mine", "-o", "no/such/folder/x"], "cannot be written: No such file"),
    ],
)
def test_bad_input_is_one_line(
    home: Home, capsys: Capture, arguments: list[str], words: str
) -> None:
    assert words in complaint(capsys, *arguments)
    assert names(home) == ["mine"]
