"""The sessions screen by keys alone."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import driving
import pytest
from driving import bench_of, screen_of, settled, words
from driving import press_in_turn as press
from textual.pilot import Pilot
from textual.widgets import Input, Static

from lmbench.config import TrainConfig
from lmbench.session.archive import pack
from lmbench.tui.kit.dialog import QuestionDialog, TextDialog
from lmbench.tui.main_screen import MainScreen
from lmbench.tui.sessions.screen import SessionsScreen


def opened(world: Any) -> AbstractAsyncContextManager[Pilot[None]]:
    return driving.opened(world, "o")


async def go_to(pilot: Pilot[None], screen: SessionsScreen, name: str) -> None:
    """Put the cursor on a session, wherever its last change has put it in the list."""
    await press(pilot, *("k" for _ in screen._rows))
    for _ in screen._rows:
        if screen.row is not None and screen.row.session.name == name:
            return
        await press(pilot, "j")
    raise AssertionError(f"{name} is not in the list")


def names(world: Any) -> list[str]:
    return [session.name for session in world.home.sessions()]


async def test_opening_the_open_session_takes_no_unread_run_for_a_deleted_one(full, monkeypatch):
    async with opened(full) as pilot:
        screen = screen_of(pilot, SessionsScreen)
        await go_to(pilot, screen, full.session.name)
        # The first look comes to its first run alone.
        monkeypatch.setattr("lmbench.tui.bench.session_watcher._FIRST_SLICE_S", -1.0)
        said: list[str] = []
        monkeypatch.setattr(bench_of(pilot), "show_message", lambda text, **_: said.append(text))
        await press(pilot, "enter")
        await settled(pilot)
        assert said == [f"session {full.session.name}"]


async def test_each_session_is_listed_and_enter_opens_the_one_under_the_cursor(world):
    world.home.open_session("other")
    async with opened(world) as pilot:
        screen = screen_of(pilot, SessionsScreen)
        assert {row.session.name for row in screen._rows} == {"demo", "other"}
        cells = map(screen._cells, screen._rows)
        states = {name.text: state.text for name, _, state, *_ in cells}
        assert states == {"demo": "open", "other": ""}
        await go_to(pilot, screen, "other")
        await press(pilot, "enter")
        assert isinstance(pilot.app.screen, MainScreen)
        assert bench_of(pilot).session == world.home.session("other")


async def test_n_begins_a_session_and_refuses_a_name_that_is_taken(world):
    async with opened(world) as pilot:
        await press(pilot, "n", *"demo", "enter")
        assert isinstance(pilot.app.screen, TextDialog)
        await press(pilot, *"2", "enter")
        assert isinstance(pilot.app.screen, MainScreen)
        assert bench_of(pilot).session == world.home.session("demo2")


async def test_a_saves_as_and_goes_on_in_the_new_one(world):
    world.new("train", "dense", status="finished")
    async with opened(world) as pilot:
        await press(pilot, "a", *"second", "enter")
        assert bench_of(pilot).session == world.home.session("second")
        await bench_of(pilot).refresh_snapshot()
        await pilot.pause()
        assert [view.name for view in bench_of(pilot).snapshot.runs] == ["dense"]
    assert names(world) == ["demo", "second"]


async def test_d_in_capitals_duplicates_and_stays(world, monkeypatch):
    told: list[str] = []
    async with opened(world) as pilot:
        monkeypatch.setattr(bench_of(pilot), "show_message", told.append)
        await press(pilot, "D", *"copy", "enter")
        assert told == ["copying demo …", "copy is a copy of demo"]
        assert isinstance(pilot.app.screen, SessionsScreen)
        assert bench_of(pilot).session == world.session
    assert names(world) == ["copy", "demo"]


async def test_r_renames_the_open_session_and_the_workbench_follows(world):
    async with opened(world) as pilot:
        await press(pilot, "r", *["backspace"] * 4, *"recent_message", "enter")
        assert bench_of(pilot).session == world.home.session("recent_message")
        assert names(world) == ["recent_message"]


async def test_d_asks_and_escape_keeps_the_session(world):
    world.home.open_session("zebra")
    async with opened(world) as pilot:
        screen = screen_of(pilot, SessionsScreen)
        await go_to(pilot, screen, "zebra")
        await press(pilot, "d")
        assert isinstance(pilot.app.screen, QuestionDialog)
        await press(pilot, "escape")
        assert names(world) == ["demo", "zebra"]
        await press(pilot, "d", "d")
        assert names(world) == ["demo", "zebra"]
        await press(pilot, "y")
        assert names(world) == ["demo"]


async def test_a_deleted_session_comes_back_by_u_until_the_workbench_is_left(world):
    world.home.open_session("zebra")
    async with opened(world) as pilot:
        screen = screen_of(pilot, SessionsScreen)
        await go_to(pilot, screen, "zebra")
        await press(pilot, "U")
        assert bench_of(pilot).recent_message == "there is nothing to bring back"
        await press(pilot, "d", "y")
        assert bench_of(pilot).last_message.startswith("deleted session zebra: ")
        await press(pilot, "U")
        assert bench_of(pilot).last_message == "session zebra is back"
        assert names(world) == ["demo", "zebra"]
        assert screen.row is not None
        assert screen.row.session.name == "zebra"
        await press(pilot, "d", "y")
        assert len(list(world.home.sessions_path.glob(".deleted-*"))) == 1
        await press(pilot, "u")
        assert names(world) == ["demo", "zebra"]
        await press(pilot, "d", "y")
    assert names(world) == ["demo"]
    assert not list(world.home.sessions_path.glob(".deleted-*"))


async def test_a_packed_session_whose_name_is_taken_gets_another_that_is_proposed(world, tmp_path):
    pack(world.session, tmp_path / "demo.lmbench")
    async with opened(world) as pilot:
        await press(pilot, "o", *"demo.lmbench", "enter")
        assert isinstance(pilot.app.screen, TextDialog)
        await press(pilot, "enter")
        assert names(world) == ["demo", "demo-2"]
        assert world.home.session("demo-2").read().name == "demo-2"


async def test_the_question_names_the_runs_that_wait_for_one_of_the_session(world):
    teacher = world.home.open_session("zebra").new_run(TrainConfig(), "train")
    student = world.new("train", "student", status="queued", config={"teacher": teacher.ref})
    async with opened(world) as pilot:
        await go_to(pilot, screen_of(pilot, SessionsScreen), "zebra")
        await press(pilot, "d")
        assert f"{student.ref} in the queue needs it and will fail." in words(pilot)


async def test_the_question_before_a_deletion_counts_what_is_there_now(world):
    zebra = world.home.open_session("zebra")
    async with opened(world) as pilot:
        await go_to(pilot, screen_of(pilot, SessionsScreen), "zebra")
        zebra.new_run(TrainConfig(), "train")
        await press(pilot, "d")
        assert "Delete zebra: 1 run, " in words(pilot)


async def test_the_open_session_cannot_be_deleted(world):
    async with opened(world) as pilot:
        await press(pilot, "d")
        told = " ".join(str(w.render()) for w in pilot.app.screen.query("Static"))
        assert "open another session first" in told
    assert names(world) == ["demo"]


async def test_p_packs_into_a_file_and_asks_before_it_replaces_one(world):
    async with opened(world) as pilot:
        await press(pilot, "p", "enter")
        packed = world.home.path / "demo.lmbench"
        assert packed.is_file()
        packed.write_text("mine")
        await press(pilot, "p", "enter", "escape")
        assert packed.read_text() == "mine"
        assert pilot.app.screen.query_one(Input).value == "demo.lmbench"
        await press(pilot, "escape")
        await press(pilot, "p", "enter", "r")
        assert packed.read_bytes()[:2] == b"PK"


async def test_o_opens_a_packed_session(world, tmp_path):
    other = world.home.open_session("guest")
    pack(other, tmp_path / "guest.lmbench")
    world.home.session("guest").path.rename(tmp_path / "gone")
    async with opened(world) as pilot:
        await press(pilot, "o", *"guest.lmbench", "enter")
        assert names(world) == ["demo", "guest"]
        screen = screen_of(pilot, SessionsScreen)
        assert screen.row is not None
        assert screen.row.session.name == "guest"


async def test_a_path_at_which_nothing_is_can_be_mended_where_it_was_typed(world, tmp_path):
    pack(world.session, tmp_path / "demo.lmbench")
    async with opened(world) as pilot:
        await press(pilot, "o", *"demo.lmbenc", "enter")
        dialog = screen_of(pilot, TextDialog)
        told = str(dialog.query_one(".problem", Static).render())
        assert told == f"There is no such file: {world.home.path / 'demo.lmbenc'}"
        await press(pilot, *"h", "enter", "enter")
        assert names(world) == ["demo", "demo-2"]


async def refused(world, key: str, text: str) -> str:
    """What the dialog says of this path, which stays in it."""
    async with opened(world) as pilot:
        await press(pilot, key)
        dialog = pilot.app.screen
        dialog.query_one(Input).value = text
        await press(pilot, "enter")
        assert pilot.app.screen is dialog
        assert dialog.query_one(Input).value == text
        return str(dialog.query_one(".problem", Static).render())


@pytest.mark.parametrize("key", ["p", "o"])
@pytest.mark.parametrize(
    "text, told",
    [
        ("x" * 300, "File name too long"),
        ("", "Name a file."),
    ],
    ids=["long", "nothing"],
)
async def test_a_path_that_can_be_none_is_told_where_it_was_typed(world, key, text, told):
    assert await refused(world, key, text) == told


@pytest.mark.parametrize(
    "key, text, told",
    [
        ("p", "nodir/x.lmbench", "There is no such folder: {home}/nodir"),
        ("p", "sessions", "This is a folder: {home}/sessions"),
        ("p", "~nobody-here/x", "There is no such folder: {home}/~nobody-here"),
        ("p", "/proc/x", "No file may be written in /proc"),
        ("p", "there", "This is a folder: {home}/there.lmbench"),
        ("o", "sessions", "This is a folder: {home}/sessions"),
        ("o", "bad.lmbench", "No packed session, or a damaged one: {home}/bad.lmbench"),
    ],
)
async def test_a_path_that_will_not_do_can_be_mended_where_it_was_typed(world, key, text, told):
    home = world.home.path
    (home / "there.lmbench").mkdir()
    (home / "bad.lmbench").write_text("no archive")
    assert await refused(world, key, text) == told.format(home=home)


async def test_a_session_with_a_run_at_work_says_why_it_cannot_be_copied(full):
    async with opened(full) as pilot:
        await press(pilot, "D", *"copy", "enter")
        told = " ".join(str(w.render()) for w in pilot.app.screen.query("Static"))
        assert "cannot be copied" in told
    assert names(full) == ["demo"]


async def test_a_damaged_session_is_listed_with_what_is_wrong(world):
    broken = world.home.open_session("broken")
    (broken.path / "session.json").write_text("{")
    async with opened(world) as pilot:
        screen = screen_of(pilot, SessionsScreen)
        row = next(row for row in screen._rows if row.session.name == "broken")
        assert "session.json" in row.problem


async def test_escape_goes_back(world):
    async with opened(world) as pilot:
        await press(pilot, "escape")
        assert isinstance(pilot.app.screen, MainScreen)


async def test_a_deletion_that_cannot_be_undone_yet_can_be_once_its_name_is_free(world):
    kept = world.home.open_session("zebra")
    (kept.path / "mine").write_text("kept")
    async with opened(world) as pilot:
        screen = screen_of(pilot, SessionsScreen)
        await go_to(pilot, screen, "zebra")
        await press(pilot, "d", "y")
        again = world.home.open_session("zebra")
        await press(pilot, "u")
        assert "zebra is there again: it cannot be put back" in words(pilot)
        await press(pilot, "escape")
        again.path.rename(again.path.with_name("zebra-2"))
        await press(pilot, "u")
        assert names(world) == ["demo", "zebra", "zebra-2"]
        assert (kept.path / "mine").read_text() == "kept"


async def test_a_run_comes_back_into_a_session_that_was_renamed_meanwhile(world):
    world.new("train", "dense", status="finished")
    async with driving.opened(world, "d", "y", run="001-train") as pilot:
        assert world.session.runs() == []
        await press(pilot, "o")
        await press(pilot, "r", *("backspace" for _ in "demo"), *"other", "enter")
        assert isinstance(pilot.app.screen, SessionsScreen)
        await press(pilot, "u")
        assert [run.id for run in world.home.session("other").runs()] == [1]
        assert pilot.app.screen.row is not None
        assert pilot.app.screen.row.session.name == "other"
        assert not bench_of(pilot).deleted


async def test_a_long_name_leaves_every_column_its_place(world):
    name = "a-name-of-64-characters-" + 40 * "x"
    world.home.open_session(name)
    async with opened(world) as pilot:
        assert "changed" in words(pilot)
        assert "a-name-of-64" in words(pilot)
        assert name not in words(pilot)
