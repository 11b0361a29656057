"""Curves that merely grow are drawn seldom enough; anything else is shown at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from driving import until
from workbench_world import STARTED, looked, step

from lmbench.config import TrainConfig
from lmbench.session import EventWriter, Home, Run
from lmbench.session import events as ev
from lmbench.tui.app import Workbench
from lmbench.tui.bench import bench
from lmbench.tui.bench.redraw_interval import LONGEST_S, SHARE, RedrawInterval
from lmbench.tui.bench.session_watcher import Watcher
from lmbench.tui.bench.snapshots import only_grew


class Hands:
    """A clock, and the processor's time beside it."""

    def __init__(self) -> None:
        self.now = self.used = 100.0

    def rest(self) -> RedrawInterval:
        return RedrawInterval(lambda: self.now, lambda: self.used)


def test_the_first_picture_is_due_at_once():
    assert Hands().rest().elapsed


def test_the_rest_is_as_long_as_the_work_calls_for():
    hands = Hands()
    interval = hands.rest()
    hands.used += 0.01
    interval.restart()
    hands.now += 0.01 / SHARE - 0.001
    assert not interval.elapsed
    hands.now += 0.002
    assert interval.elapsed


def test_only_what_was_used_since_the_last_picture_counts():
    hands = Hands()
    interval = hands.rest()
    hands.used += 0.015
    interval.restart()
    hands.now += 5
    hands.used += 0.001
    interval.restart()
    hands.now += 0.001 / SHARE + 0.001
    assert interval.elapsed


def test_however_much_was_used_a_picture_comes():
    hands = Hands()
    interval = hands.rest()
    hands.used += 60
    interval.restart()
    hands.now += LONGEST_S
    assert interval.elapsed


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def run(home) -> Run:
    run = home.open_session("default").new_run(TrainConfig(), "train", name="dense")
    # No process stands behind it, so nobody may find that its process is gone.
    run.update(status="finished")
    EventWriter(run.events_path).write(STARTED)
    return run


@pytest.mark.parametrize(
    "event",
    [
        step(2),
        ev.Warned(t=2.0, message="careful"),
        ev.PruneStep(t=2.0, step=2, epoch=1, param="w", target=0.5, reached=0.5),
    ],
)
def test_steps_and_notes_merely_grow(run, event):
    watcher = Watcher(run.session)
    writer = EventWriter(run.events_path)
    writer.write(step(1))
    before = looked(watcher)
    writer.write(event)
    assert only_grew(before, looked(watcher))


@pytest.mark.parametrize(
    "change",
    [
        lambda run: run.update(status="failed", reason="full"),
        lambda run: run.update(name="other"),
        lambda run: run.session.new_run(TrainConfig(), "train"),
        lambda run: EventWriter(run.events_path).write(
            ev.Score(t=2.0, split="valid", loss=5.0, ppl=148.4, tokens=10, tokens_per_s=9.0)
        ),
        lambda run: EventWriter(run.events_path).write(ev.Failed(t=2.0, reason="full")),
        lambda run: run.session.update(notes="read me"),
    ],
    ids=["status", "name", "new run", "score", "failed", "session"],
)
def test_anything_else_is_news(run, change: Callable[[Run], object]):
    watcher = Watcher(run.session)
    before = looked(watcher)
    change(run)
    assert not only_grew(before, looked(watcher))


async def test_the_workbench_rests_between_pictures_but_not_before_news(home, run, monkeypatch):
    monkeypatch.setattr(bench, "IDLE_INTERVAL_S", 0.01)
    monkeypatch.setattr(bench, "BUSY_INTERVAL_S", 0.01)
    app = Workbench(home, run.session)
    hands = Hands()
    writer = EventWriter(run.events_path)
    async with app.run_test() as pilot:

        def shown() -> int:
            view = app.snapshot.run(run.path.name)
            return len(view.curves.steps) if view else -1

        await until(pilot, lambda: shown() == 0)
        # What is selected is saved in the session's record, which counts as news.
        app.flush()
        await app.refresh_snapshot()
        app._redraw_interval = hands.rest()
        writer.write(step(1))
        await until(pilot, lambda: shown() == 1)
        hands.used += 0.01
        app._redraw_interval.restart()
        writer.write(step(2))
        looks = 0
        poll = Watcher.poll

        def counted(watcher: Watcher, **how: bool):
            nonlocal looks
            looks += 1
            return poll(watcher, **how)

        monkeypatch.setattr(Watcher, "poll", counted)
        await until(pilot, lambda: looks >= 5)
        assert shown() == 1, "the picture was not due"
        hands.now += LONGEST_S
        await until(pilot, lambda: shown() == 2)
        hands.used += 0.01
        app._redraw_interval.restart()
        writer.write(step(3))
        run.update(name="other")
        await until(pilot, lambda: shown() == 3)
        assert app.snapshot.by_key[run.path.name].name == "other"
