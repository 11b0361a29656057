"""``lmbench sessions`` on the command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli_world import answer, complaint

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


def names(home: Home) -> list[str]:
    return [session.name for session in home.sessions()]


def test_sessions_are_listed_with_their_runs(home: Home, capsys: Capture) -> None:
    home.open_session("empty")
    live = home.open_session("mine").new_run(EvaluateConfig(), "evaluate")
    live.update(status="running", pid=os.getpid(), process_started=process_started(os.getpid()))
    home.open_session("mine").new_run(EvaluateConfig(), "evaluate")
    empty, mine = answer(capsys, "sessions", "list")
    assert (empty["name"], empty["runs"]) == ("empty", 0)
    assert (mine["runs"], mine["live"], mine["queued"]) == (3, 1, 1)
    (listed,) = answer(capsys, "sessions", "list", "--session", "empty")
    assert listed["name"] == "empty"


def test_a_session_is_shown_with_its_runs(home: Home, capsys: Capture) -> None:
    shown = answer(capsys, "sessions", "show", "mine")
    assert shown["name"] == "mine"
    assert [run["status"] for run in shown["runs"]] == ["finished"]
    assert answer(capsys, "sessions", "show", "--session", "mine") == shown
    assert lmbench(["sessions", "show", "mine"]) == 0
    assert "mine/001-evaluate" in capsys.readouterr().out


def test_a_damaged_session_is_listed_with_what_is_wrong(home: Home, capsys: Capture) -> None:
    (home.session("mine").path / "session.json").write_text("{")
    (listed,) = answer(capsys, "sessions", "list")
    assert listed["problem"].startswith("cannot be read as JSON")
    assert listed["problem"].endswith("session.json)")


def test_a_session_is_copied_renamed_and_deleted(home: Home, capsys: Capture) -> None:
    assert answer(capsys, "sessions", "copy", "mine", "yours")["name"] == "yours"
    assert answer(capsys, "sessions", "rename", "yours", "theirs")["name"] == "theirs"
    assert answer(capsys, "sessions", "copy", "--session", "theirs", "ours")["name"] == "ours"
    assert names(home) == ["mine", "ours", "theirs"]
    assert answer(capsys, "sessions", "delete", "theirs", "--yes")["deleted"] is True
    assert names(home) == ["mine", "ours"]


def test_deleting_without_a_terminal_needs_yes(home: Home, capsys: Capture) -> None:
    assert "add --yes" in complaint(capsys, "sessions", "delete", "mine")
    assert names(home) == ["mine"]


def test_a_file_is_packed_and_unpacked_in_the_users_folder(
    home: Home, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    answer(capsys, "sessions", "pack", "mine", "--output=~/mine.lmbench")
    assert (tmp_path / "mine.lmbench").is_file()
    answer(capsys, "sessions", "unpack", "~/mine.lmbench", "--name", "again")
    assert len(home.session("again").runs()) == len(home.session("mine").runs())


def test_packing_and_unpacking_round_trips(home: Home, capsys: Capture, tmp_path: Path) -> None:
    packed = answer(capsys, "sessions", "pack", "mine")
    assert Path(packed["path"]).resolve() == tmp_path / "mine.lmbench"
    assert packed["bytes"] == (tmp_path / "mine.lmbench").stat().st_size
    assert "add --yes" in complaint(capsys, "sessions", "pack", "mine")
    assert answer(capsys, "sessions", "pack", "mine", "-o", "other.lmbench")["left_out"] == []
    assert Path("mine.lmbench").read_bytes() == Path("other.lmbench").read_bytes()
    assert "already" in complaint(capsys, "sessions", "unpack", "mine.lmbench")
    assert answer(capsys, "sessions", "unpack", "mine.lmbench", "--name", "again")["runs"] == 1
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
    assert words in complaint(capsys, "sessions", *arguments)
    assert names(home) == ["mine"]
