"""What was just said can be read on every screen, for a few seconds, and then nothing is sent."""

from __future__ import annotations

from functools import partial
from typing import Any

import driving
import pytest
from driving import bench_of, press, settled, until, words

from lmbench.config import TrainConfig
from lmbench.errors import LmbenchError
from lmbench.session import events as ev
from lmbench.tui.bench import messages
from lmbench.tui.bench.bench import SnapshotChanged
from lmbench.tui.bench.session_watcher import Watcher
from lmbench.tui.bench.user_settings import Settings
from lmbench.tui.kit.dialog import QuestionDialog
from lmbench.tui.kit.status_lines import StatusBar

pytestmark = pytest.mark.usefixtures("started")

SCREENS: dict[str, tuple[str, ...]] = {
    "main": (),
    "new run": ("n",),
    "schedule": ("S",),
    "sessions": ("o",),
    "settings": ("comma",),
    "help": ("question_mark",),
    "tensor": ("home", "down", "3", "enter"),
    "compare": ("c",),
    "laboratory": ("home", "l"),
    "sensitivity": ("v",),
    "chains": ("N",),
}
opened = partial(driving.opened, run="001-train")
TOLD = "the answer to a key"


@pytest.mark.parametrize("name", SCREENS)
async def test_what_was_said_stands_on_every_screen(lab, name):
    async with opened(lab, *SCREENS[name]) as pilot:
        assert TOLD not in words(pilot)
        bench_of(pilot).show_message(TOLD)
        await press(pilot)
        assert TOLD in words(pilot)


@pytest.mark.parametrize("keys", [("n",), ("home", "l")], ids=["key bar", "status bar"])
async def test_after_a_few_seconds_the_line_is_as_before(lab, monkeypatch, keys):
    async with opened(lab, *keys) as pilot:
        bench_of(pilot).recent_message = ""
        await press(pilot)
        before = words(pilot).splitlines()[-2:]
        monkeypatch.setattr(messages, "MESSAGE_SHOWN_S", 0.05)
        bench_of(pilot).show_message(TOLD)
        await press(pilot)
        await until(pilot, lambda: not bench_of(pilot).recent_message)
        await press(pilot)
        assert words(pilot).splitlines()[-2:] == before


async def test_an_answer_is_left_with_its_screen(full, monkeypatch):
    full.session.run(2).update(status="stopped")
    async with opened(full) as pilot:
        app = bench_of(pilot)
        news = app.last_message
        app.show_message(TOLD)
        await press(pilot)
        assert TOLD in words(pilot)
        await press(pilot, "c")
        assert TOLD not in words(pilot)
        await press(pilot, "escape")
        assert TOLD not in words(pilot)
        assert app.last_message == news
        assert news in words(pilot)


async def test_what_is_said_for_a_moment_is_left_with_its_screen(full):
    async with opened(full, "c", "Z") as pilot:
        assert "Z does nothing here" in words(pilot)
        await press(pilot, "escape")
        assert "Z does nothing here" not in words(pilot)


async def test_what_is_said_for_a_moment_goes_with_the_next_key_that_does_something(full):
    async with opened(full, "n", "backspace") as pilot:
        assert "does nothing here" in words(pilot)
        await press(pilot, "backspace")
        assert "does nothing here" in words(pilot)
        await press(pilot, "down")
        assert "does nothing here" not in words(pilot)
        bench_of(pilot).show_message(TOLD)
        await press(pilot, "up")
        assert TOLD in words(pilot)


async def test_what_was_under_way_is_not_said_beside_that_it_failed(full):
    async with opened(full) as pilot:
        app = bench_of(pilot)
        app.show_message("packing demo …")
        app.show_error(LmbenchError("the disk is full"))
        await press(pilot)
        assert "packing" not in words(pilot)
        await press(pilot, "enter")
        assert "packing" not in words(pilot)


async def test_news_are_told_on_a_screen_that_is_opened_meanwhile(full):
    async with opened(full) as pilot:
        full.session.run(2).update(status="failed", reason="the disk is full")
        await settled(pilot)
        await press(pilot, "n")
        assert "the disk is full" in words(pilot)


@pytest.mark.parametrize("keys, stays", [("", True), ("d", True), ("c", False)])
async def test_an_answer_does_not_outlast_its_moment_on_another_screen(full, keys, stays):
    async with opened(full) as pilot:
        app = bench_of(pilot)
        news = app.last_message
        app.show_message(TOLD)
        await press(pilot, *keys)
        app._clear_recent()
        assert app.last_message == (TOLD if stays else news)


async def test_an_answer_that_closes_its_screen_has_its_moment_on_the_one_below(full):
    async with opened(full, "c") as pilot:
        app = bench_of(pilot)
        app.show_message(TOLD)
        await press(pilot, "escape")
        assert TOLD in words(pilot)
        app._clear_recent()
        assert app.last_message != TOLD


async def test_trouble_that_is_over_is_told_no_more(full):
    run = full.session.run(3)
    async with opened(full) as pilot:
        app = bench_of(pilot)
        run.update(status="failed", reason="the disk is full")
        await settled(pilot)
        assert app.last_message == "3 int8 failed: the disk is full"
        await press(pilot, "end", "d", "y")
        await pilot.app.workers.wait_for_complete()
        await settled(pilot)
        app.recent_message = ""
        await press(pilot, "c")
        assert not app.last_message
        kept, record = full.session.path / "kept", full.session.path / "session.json"
        record.rename(kept)
        record.write_text("no record")
        await settled(pilot)
        assert "session.json" in app.last_message
        kept.replace(record)
        await settled(pilot)
        assert not app.last_message


async def test_that_a_run_is_gone_is_told_until_it_is_back(full):
    folder = full.session.run(3).path
    async with opened(full) as pilot:
        folder.rename(full.session.path / "away")
        await settled(pilot)
        assert "3 int8 is gone" in words(pilot)
        (full.session.path / "away").rename(folder)
        await settled(pilot)
        assert "is gone" not in words(pilot)
        assert not bench_of(pilot).last_message


async def test_the_same_words_said_again_are_shown_again(lab, monkeypatch):
    async with opened(lab, "n") as pilot:
        monkeypatch.setattr(messages, "MESSAGE_SHOWN_S", 0.05)
        bench_of(pilot).show_message(TOLD)
        await until(pilot, lambda: not bench_of(pilot).recent_message)
        monkeypatch.setattr(messages, "MESSAGE_SHOWN_S", 3600.0)
        bench_of(pilot).show_message(TOLD)
        await press(pilot)
        assert TOLD in words(pilot)


async def test_an_answer_is_not_cut_short_by_the_one_before_it(lab, monkeypatch):
    async with opened(lab) as pilot:
        app = bench_of(pilot)
        monkeypatch.setattr(messages, "MESSAGE_SHOWN_S", 0.05)
        app.show_message("the one before")
        (timer,) = [t for t in app._timers if t._interval == messages.MESSAGE_SHOWN_S]
        monkeypatch.setattr(messages, "MESSAGE_SHOWN_S", 3600.0)
        app.show_message(TOLD)
        await until(pilot, lambda: timer._task is None or timer._task.done())
        assert app.recent_message == TOLD


async def test_a_note_of_a_run_takes_no_key_and_no_progress_away(full):
    async with opened(full) as pilot:
        bench_of(pilot).recent_message = ""
        full.write(full.session.run(2), ev.Warned(t=9e9, message="something is odd"))
        await settled(pilot)
        assert "something is odd" in bench_of(pilot).last_message
        assert "left" in pilot.app.screen.query_one(StatusBar).line().plain


async def test_an_answer_outlasts_a_note(full):
    async with opened(full) as pilot:
        bench_of(pilot).show_message(TOLD)
        full.write(full.session.run(2), ev.Warned(t=9e9, message="something is odd"))
        await settled(pilot)
        assert TOLD in words(pilot)


async def test_an_error_of_every_look_is_told_once(full, monkeypatch):
    def broken(watcher: Watcher, **how: bool) -> Any:
        raise ZeroDivisionError("a defect in looking")

    async with opened(full) as pilot:
        poll = Watcher.poll
        monkeypatch.setattr(Watcher, "poll", broken)
        for _ in range(3):
            await settled(pilot)
        assert isinstance(pilot.app.screen, QuestionDialog)
        assert len(pilot.app.screen_stack) == 3
        await press(pilot, "enter")
        await settled(pilot)
        assert not isinstance(pilot.app.screen, QuestionDialog)
        monkeypatch.setattr(Watcher, "poll", poll)
        await settled(pilot)
        monkeypatch.setattr(Watcher, "poll", broken)
        await settled(pilot)
        assert isinstance(pilot.app.screen, QuestionDialog)


async def test_a_complaint_that_stands_there_already_is_not_stacked_and_another_one_is(full):
    async with opened(full) as pilot:
        depth = len(pilot.app.screen_stack)
        for words_of_it in ("one thing", "one thing", "another thing"):
            bench_of(pilot).show_error(LmbenchError(words_of_it))
            await press(pilot)
        assert len(pilot.app.screen_stack) == depth + 2


@pytest.mark.parametrize(
    "wanted, away, told", [(True, True, 1), (True, False, 0), (False, True, 0)]
)
async def test_the_terminal_notifies_of_an_end_where_that_is_wanted(
    full, monkeypatch, wanted, away, told
):
    app = full.bench(settings=Settings(notify=wanted))
    async with app.run_test() as pilot:
        await settled(pilot)
        sent: list[str] = []
        monkeypatch.setattr(app._driver, "write", sent.append)
        app.app_focus = not away
        full.session.run(2).update(status="finished")
        await settled(pilot)
        notices = [text for text in sent if "\x1b]9;2 agp-80 finished\x07" in text]
        assert len(notices) == told
        assert all("\x1b]777;notify;lmbench;2 agp-80 finished\x07" in text for text in notices)


async def test_what_is_otherwise_in_another_session_is_no_news(full):
    other = full.home.open_session("other")
    for config, kind in ((TrainConfig(), "train"), (TrainConfig(), "prune")):
        other.new_run(config, kind).update(status="failed", reason="old trouble")
    async with opened(full) as pilot:
        full.live(full.session.run(1))
        await settled(pilot)
        bench_of(pilot).change_session(other)
        await settled(pilot)
        assert bench_of(pilot).last_message == "session other"


async def test_a_snapshot_of_the_session_before_changes_nothing_of_this_one(full):
    other = full.home.open_session("other")
    for _ in range(3):
        other.new_run(TrainConfig(), "train").update(status="finished")
    async with opened(full) as pilot:
        late = bench_of(pilot).snapshot
        bench_of(pilot).change_session(other)
        await settled(pilot)
        marks = ("001-train", "003-train")
        bench_of(pilot).mark(marks)
        bench_of(pilot).post_message(SnapshotChanged(late))
        await settled(pilot)
        assert bench_of(pilot).marked == marks
        assert bench_of(pilot).snapshot.session == other
