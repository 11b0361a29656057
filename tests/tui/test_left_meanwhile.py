"""Screens that are left while what they asked for is under way in a thread."""

from __future__ import annotations

import gc
import shutil
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
from driving import bench_of, opened, press, screen_of, until, words
from laboratory_double import measure
from textual.pilot import Pilot
from textual.widget import Widget

from lmbench.errors import LmbenchError
from lmbench.jobs import chains
from lmbench.session import Home, Run, Session
from lmbench.session.archive import pack
from lmbench.tui import welcome_screen
from lmbench.tui.app import Workbench
from lmbench.tui.help_screen import HelpScreen
from lmbench.tui.kit import make_and_launch
from lmbench.tui.main_screen import MainScreen
from lmbench.tui.new_run.chains_screen import ChainsScreen
from lmbench.tui.new_run.screen import NewRunScreen
from lmbench.tui.sessions import screen as sessions


async def test_what_a_screen_had_painted_goes_when_it_is_left(full: Any):
    """At the latest with the next screen: so long Textual keeps the one that was left."""
    async with opened(full) as pilot:
        painted = []
        for _ in range(2):
            await press(pilot, "question_mark")
            widgets = screen_of(pilot, HelpScreen).query(Widget)
            painted.append([weakref.ref(widget._styles_cache) for widget in widgets])
            await press(pilot, "escape")
        gc.collect()
        assert [ref() for ref in painted[0]] == [None] * len(painted[0])


class Gate:
    """Holds a thread until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def wait(self) -> None:
        self.reached.set()
        assert self.open.wait(30)

    async def left(self, pilot: Pilot[None], *keys: str, by: Sequence[str] = ("escape",)) -> Any:
        """Press keys that bring a thread here, leave by others, let the thread go on; the screen
        that was come to."""
        await press(pilot, *keys)
        await until(pilot, self.reached.is_set)
        await press(pilot, *by)
        there = pilot.app.screen
        self.open.set()
        return there

    def hold(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        """Whoever calls this function waits before it."""
        held = getattr(owner, name)

        def slowly(*arguments: Any, **more: Any) -> Any:
            self.wait()
            return held(*arguments, **more)

        patch.setattr(owner, name, slowly)


@pytest.fixture
def gate() -> Any:
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def fetch(gate: Gate, started: list[Run], monkeypatch: pytest.MonkeyPatch) -> Gate:
    """The corpus of a new run takes until the gate is open, and tells how far it has come."""

    def slowly(config: Any, home: Home, progress: Any, **_: Any) -> None:
        progress("fetching wikitext-2", 1, 4)
        gate.wait()
        progress("fetching wikitext-2", 2, 4)

    monkeypatch.setattr(make_and_launch, "check_training", slowly)
    monkeypatch.setattr(chains, "check_training", slowly)
    return gate


async def test_the_fetch_is_told_on_the_form_and_the_run_starts_behind_it(world, started, fetch):
    async with opened(world, "n") as pilot:
        await press(pilot, "ctrl+s")
        await until(pilot, lambda: "fetching wikitext-2 25%" in words(pilot))
        fetch.open.set()
        await until(pilot, lambda: isinstance(pilot.app.screen, MainScreen))
        assert bench_of(pilot).last_message == "started 1 lstm-2x200"
    assert [run.id for run in started] == [1]


async def test_escape_from_the_form_during_the_fetch_starts_nothing(world, started, fetch):
    async with opened(world, "n") as pilot:
        assert isinstance(await fetch.left(pilot, "ctrl+s"), MainScreen)
        await pilot.app.workers.wait_for_complete()
        await press(pilot)
        assert bench_of(pilot).last_message == "not started"
        screen_of(pilot, MainScreen)
    assert started == []
    assert world.session.runs() == []


async def test_what_fails_after_escape_is_no_news(world, started, gate, monkeypatch):
    def fails(*_: Any, **__: Any) -> None:
        gate.wait()
        raise LmbenchError("no network")

    monkeypatch.setattr(make_and_launch, "check_training", fails)
    async with opened(world, "n") as pilot:
        await gate.left(pilot, "ctrl+s")
        await pilot.app.workers.wait_for_complete()
        await press(pilot)
        screen_of(pilot, MainScreen)


async def test_escape_once_the_run_is_made_cannot_hide_that_it_starts(
    world, started, gate, monkeypatch
):
    monkeypatch.setattr(make_and_launch, "check_training", lambda *_, **__: None)
    gate.hold(monkeypatch, make_and_launch, "make_run")
    async with opened(world, "n") as pilot:
        there = await gate.left(pilot, "ctrl+s", by=("escape", "comma"))
        await pilot.app.workers.wait_for_complete()
        await press(pilot)
        assert bench_of(pilot).last_message == "started 1 lstm-2x200"
        assert bench_of(pilot).selected == "001-train"
        assert pilot.app.screen is there
    assert [run.id for run in started] == [1]


@pytest.mark.parametrize(
    "key, module, making",
    [
        ("n", make_and_launch, "make_run"),
        ("v", make_and_launch, "make_run"),
        ("N", chains, "make_step"),
    ],
)
async def test_a_run_that_starts_after_another_session_was_opened_leads_to_nothing(
    lab, started, gate, monkeypatch, key, module, making
):
    measure(lab)
    other = Session(lab.session.path.with_name("other"))
    shutil.copytree(lab.session.path, other.path)
    monkeypatch.setattr(module, "check_training", lambda *_, **__: None)
    gate.hold(monkeypatch, module, making)
    async with opened(lab, key, run="001-train") as pilot:
        bench = bench_of(pilot)
        await press(pilot, "ctrl+s")
        await until(pilot, gate.reached.is_set)
        await press(pilot, "escape")
        bench.change_session(other)
        await bench.refresh_snapshot()
        bench.select("001-train")
        gate.open.set()
        await pilot.app.workers.wait_for_complete()
        # A run of the same name, made there.
        shutil.copytree(started[0].path, other.runs_path / started[0].path.name)
        await bench.refresh_snapshot()
        await press(pilot)
        assert (bench.session, bench.selected) == (other, "001-train")


async def test_a_form_that_is_covered_when_its_run_starts_goes_when_it_is_free(
    world, started, fetch
):
    async with opened(world, "n") as pilot:
        await fetch.left(pilot, "ctrl+s", by=("f1",))
        await pilot.app.workers.wait_for_complete()
        await press(pilot)
        screen_of(pilot, HelpScreen)
        await press(pilot, "escape")
        screen_of(pilot, MainScreen)
    assert len(started) == 1


async def test_escape_while_a_suggested_pruning_is_started_starts_nothing(lab, started, fetch):
    measure(lab)
    async with opened(lab, "v", run="001-train") as pilot:
        assert isinstance(await fetch.left(pilot, "ctrl+s"), MainScreen)
        await pilot.app.workers.wait_for_complete()
        await press(pilot)
        assert bench_of(pilot).last_message == "not started"
    assert started == []


async def test_escape_from_the_chains_during_the_fetch_queues_nothing(world, started, fetch):
    async with opened(world, "N") as pilot:
        screen_of(pilot, ChainsScreen)
        await fetch.left(pilot, "ctrl+s")
        await until(pilot, lambda: bench_of(pilot).last_message == "nothing was queued")
        screen_of(pilot, MainScreen)
    assert started == []
    assert world.session.runs() == []


async def test_chains_that_are_called_off_after_the_last_look_make_no_run(
    world, started, gate, monkeypatch
):
    """The corpora are there, so that no progress is told which could end it."""
    monkeypatch.setattr(chains, "check_training", lambda *_, **__: gate.wait())
    async with opened(world, "N") as pilot:
        await gate.left(pilot, "ctrl+s")
        await until(pilot, lambda: bench_of(pilot).last_message == "nothing was queued")
    assert world.session.runs() == []


async def test_a_form_is_not_left_half_way_by_a_second_start(world, started, fetch):
    async with opened(world, "n") as pilot:
        await press(pilot, "ctrl+s", "ctrl+s")
        await until(pilot, fetch.reached.is_set)
        screen_of(pilot, NewRunScreen)
        fetch.open.set()
        await pilot.app.workers.wait_for_complete()
    assert len(started) == 1


async def test_a_session_that_is_packed_after_one_has_left_is_told(world, gate, monkeypatch):
    gate.hold(monkeypatch, sessions, "pack")
    async with opened(world, "o") as pilot:
        await press(pilot, "p", "enter")
        await until(pilot, gate.reached.is_set)
        assert "packing demo" in words(pilot)
        await press(pilot, "escape")
        gate.open.set()
        await until(pilot, lambda: bench_of(pilot).last_message.startswith("demo is in"))
        assert "demo is in" in words(pilot)
        screen_of(pilot, MainScreen)


async def test_a_session_that_is_unpacked_after_one_has_left_is_told(world, gate, monkeypatch):
    pack(world.home.open_session("guest"), world.home.path / "guest.lmbench")
    shutil.rmtree(world.home.session("guest").path)
    gate.hold(monkeypatch, sessions, "unpack")
    async with opened(world, "o") as pilot:
        await gate.left(pilot, "o", *"guest.lmbench", "enter")
        await until(pilot, lambda: bench_of(pilot).last_message.startswith("unpacked"))
        screen_of(pilot, MainScreen)


async def test_a_rename_is_followed_even_where_the_screen_was_left(world, gate, monkeypatch):
    gate.hold(monkeypatch, sessions, "rename_session")
    async with opened(world, "o") as pilot:
        await gate.left(pilot, "r", *"fresh", "enter")
        await until(pilot, lambda: bench_of(pilot).last_message == "demo is now fresh")
        assert bench_of(pilot).session == world.home.session("fresh")


async def test_save_as_does_not_take_away_the_screen_of_who_has_left(world, gate, monkeypatch):
    gate.hold(monkeypatch, sessions, "copy_session")
    async with opened(world, "o") as pilot:
        there = await gate.left(pilot, "a", *"second", "enter", by=("escape", "comma"))
        await until(pilot, lambda: "saved as second" in bench_of(pilot).last_message)
        assert pilot.app.screen is there
        assert bench_of(pilot).session == world.session


async def test_a_fetch_from_the_welcome_screen_is_told_after_it_was_left(
    tmp_path, gate, monkeypatch
):
    def get(name: str, home: Any, progress: Any) -> Any:
        progress("train.txt", 1, 4)
        gate.wait()
        progress("train.txt", 2, 4)
        return home / name

    monkeypatch.setattr(welcome_screen, "data_get", get)
    app = Workbench(Home(tmp_path), None, follow=False)
    async with app.run_test(size=(80, 24)) as pilot:
        assert isinstance(await gate.left(pilot, "w"), MainScreen)
        await until(pilot, lambda: "p trains on it" in app.last_message)
