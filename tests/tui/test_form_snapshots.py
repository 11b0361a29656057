"""How forms, editor, sessions, help, welcome and settings look, at three sizes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from lmbench.session import Home, Session
from lmbench.tui.app import Workbench
from lmbench.tui.bench.user_settings import Settings
from lmbench.tui.new_run.corpus_size import CorpusSize
from lmbench.tui.schedule.screen import ScheduleScreen
from lmbench.tui.sessions.screen import _Row

# 2026-03-14 12:00 UTC
NOON = 1_773_489_600.0
SIZES = [(80, 24), (120, 30), (200, 50)]
at_each_size = pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)

Snap = Callable[..., bool]


@pytest.fixture(autouse=True)
def _same_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A corpus of a known size, and paths that are the same on every machine."""

    async def size(data: str | None, *_: Any) -> CorpusSize:
        return CorpusSize(data or "wikitext-2", 33_278, 2_088_628, 217_646)

    monkeypatch.setattr("lmbench.tui.new_run.about_panel.size_of", size)
    monkeypatch.setattr("lmbench.tui.new_run.screen.default_name", lambda home: "wikitext-2")
    monkeypatch.chdir(tmp_path)


def pressing(*keys: str) -> Callable[[Pilot[Any]], Awaitable[None]]:
    async def before(pilot: Pilot[Any]) -> None:
        app = pilot.app
        assert isinstance(app, Workbench)
        await app.look()
        await pilot.pause()
        for key in keys:
            await pilot.press(key)
            await pilot.pause()
        await app.workers.wait_for_complete()
        app.say("")
        # What was typed is judged a moment later.
        await pilot.pause(0.2)
        await pilot.pause()

    return before


@at_each_size
def test_the_form_with_a_published_command_and_an_estimate(snap_compare: Snap, full, size):
    full.session.run(1).update(shape={"ntoken": 33_278}, device="cpu", config={"tied": True})
    before = pressing("n", "down", "right", "right", "down", "down")
    assert snap_compare(full.bench(), terminal_size=size, run_before=before)


@at_each_size
def test_the_form_with_a_mistake(snap_compare: Snap, full, size):
    before = pressing("n", *["down"] * 7, *"1.5")
    assert snap_compare(full.bench(), terminal_size=size, run_before=before)


@at_each_size
def test_the_form_of_a_pruning_with_the_list_of_schedules(snap_compare: Snap, full, size):
    before = pressing("n", "p", "down", "down", "down", "enter")
    assert snap_compare(full.bench(), terminal_size=size, run_before=before)


@at_each_size
def test_the_schedule_editor(snap_compare: Snap, full, size):
    assert snap_compare(full.bench(), terminal_size=size, run_before=pressing("S"))


@at_each_size
def test_the_schedule_editor_with_mistakes(snap_compare: Snap, full, size):
    async def before(pilot: Pilot[Any]) -> None:
        await pressing("S")(pilot)
        screen = pilot.app.screen
        assert isinstance(screen, ScheduleScreen)
        text = screen.editor.text.replace("0.74", "1.74", 1).replace("frequency", "frequncy", 1)
        screen.editor.load_text(text.replace("_ih_l1", "_ih_l7"))
        await pilot.pause(0.3)
        await pressing("ctrl+g")(pilot)

    assert snap_compare(full.bench(), terminal_size=size, run_before=before)


@at_each_size
def test_the_sessions(snap_compare: Snap, full, size, monkeypatch):
    folder = Path("sessions")
    rows = [
        _Row(full.session, 4, "1 running, 1 queued", 58_642_000, NOON - 9e5, NOON - 60),
        _Row(Session(folder / "pruning study"), 12, "", 311_000_000, NOON - 5e6, NOON - 4e5),
        _Row(Session(folder / "old"), 0, "", 900, 0.0, 0.0, "session.json: not readable"),
    ]
    monkeypatch.setattr("lmbench.tui.sessions.screen._look", lambda home: rows)
    monkeypatch.setattr("lmbench.tui.sessions.screen.SessionsScreen._tell", lambda self: None)
    assert snap_compare(full.bench(), terminal_size=size, run_before=pressing("o"))


@at_each_size
def test_the_help(snap_compare: Snap, full, size):
    before = pressing("question_mark")
    assert snap_compare(full.bench(), terminal_size=size, run_before=before)


@at_each_size
def test_the_welcome(snap_compare: Snap, size):
    app = Workbench(Home(Path()), None, clock=lambda: NOON, follow=False)
    assert snap_compare(app, terminal_size=size, run_before=pressing())


@at_each_size
def test_the_settings(snap_compare: Snap, full, size):
    app = full.bench(settings=Settings(path=Path("workbench.yaml")))
    assert snap_compare(app, terminal_size=size, run_before=pressing("comma"))
