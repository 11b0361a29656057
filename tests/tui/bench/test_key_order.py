"""A burst of keys, as a slow line delivers it, does what the same keys do one by one."""

from __future__ import annotations

import pytest
from driving import at_rest, bench_of, burst, opened, screen_of, settled, until
from textual._compositor import Compositor
from textual.events import Key
from textual.message import Message
from textual.pilot import Pilot

from lmbench.tui.kit.dialog import QuestionDialog
from lmbench.tui.kit.driver import KeyParser
from lmbench.tui.log_file import log_path
from lmbench.tui.main_screen import MainScreen
from lmbench.tui.new_run.screen import NewRunScreen
from lmbench.tui.runs.panel import RunsPanel
from lmbench.tui.schedule.screen import ScheduleScreen

pytestmark = pytest.mark.usefixtures("started")


async def test_letters_do_not_overtake_the_keys_that_delete_before_them(full):
    async with opened(full, "S") as pilot:
        editor = screen_of(pilot, ScheduleScreen).editor
        burst(pilot, *["down"] * 9, "end", "backspace", "backspace", "5", "1")
        await until(pilot, lambda: "51" in editor.text)
        assert editor.document.get_line(9) == "    final_sparsity: 0.51"


async def test_what_is_typed_after_an_arrow_lands_in_the_next_field(full):
    async with opened(full, "n") as pilot:
        form = screen_of(pilot, NewRunScreen).form
        burst(pilot, *["down"] * 4, "6", "4", "down", "3", "2", "down", "down", "0")
        await until(pilot, lambda: form.values["dropout"] == "0")
        assert (form.values["emsize"], form.values["nhid"]) == ("64", "32")


async def test_a_key_that_closes_its_screen_does_not_hold_up_the_next(full):
    async with opened(full, "n") as pilot:
        burst(pilot, "escape", "question_mark", "escape", "2")
        await until(pilot, lambda: bench_of(pilot).recall("focus", "") == "plots")
        screen_of(pilot, MainScreen)


async def test_a_key_whose_handler_fails_does_not_hold_up_the_next(full, monkeypatch):
    def broken(panel: RunsPanel, event: Key) -> None:
        if event.key == "down":
            raise ZeroDivisionError("a defect in taking a key")

    monkeypatch.setattr(RunsPanel, "on_key", broken, raising=False)
    async with opened(full) as pilot:
        # The second one closes the dialog that tells of the first.
        burst(pilot, "down", "escape", "2")
        await until(pilot, lambda: bench_of(pilot).recall("focus", "") == "plots")
    assert "a defect in taking a key" in log_path(full.home).read_text()


async def test_a_key_that_a_dialog_takes_does_not_hold_up_the_next(full):
    async with opened(full, "d", run="003-quantize") as pilot:
        assert isinstance(pilot.app.screen, QuestionDialog)
        burst(pilot, "right", "left", "escape", "2")
        await until(pilot, lambda: bench_of(pilot).recall("focus", "") == "plots")


@pytest.mark.parametrize("late", [Key("a", "a"), Key("alt+n", "n")], ids=["letter", "alt"])
async def test_a_key_that_comes_when_the_screens_are_gone_is_for_nobody(
    full, late: Message, monkeypatch: pytest.MonkeyPatch
):
    app = full.bench()
    close = app._close_all

    async def close_and_be_late() -> None:
        await close()
        await app._dispatch_message(late)

    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        monkeypatch.setattr(app, "_close_all", close_and_be_late)
    assert not log_path(full.home).exists()


async def test_an_error_when_the_screens_are_gone_is_in_the_log(
    full, monkeypatch: pytest.MonkeyPatch
):
    app = full.bench()
    close = app._close_all

    async def close_and_complain() -> None:
        await close()
        app.show_error(ZeroDivisionError("too late"))

    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        monkeypatch.setattr(app, "_close_all", close_and_complain)
    assert "too late" in log_path(full.home).read_text()


def arrive(pilot: Pilot[None], sent: str) -> None:
    """As the terminal sends it, in one piece."""
    parser = KeyParser()
    for message in (*parser.feed(sent), *parser.feed("")):
        pilot.app.post_message(message)


@pytest.mark.parametrize("letter", ["n", "N"])
async def test_escape_and_a_letter_that_arrive_together_are_two_keys(full, letter):
    async with opened(full, "n") as pilot:
        app, form = pilot.app, screen_of(pilot, NewRunScreen)
        # Alone neither letter opens anything from a field of the form, which takes it.
        arrive(pilot, f"\x1b{letter}")
        await until(
            pilot, lambda: app.screen is not form and not isinstance(app.screen, MainScreen)
        )


async def test_alt_and_a_letter_to_which_something_is_bound_are_one_key(full):
    async with opened(full) as pilot:
        pilot.app.set_keymap({"main.panel_plots": "alt+p"})
        arrive(pilot, "\x1bp")
        await until(pilot, lambda: bench_of(pilot).recall("focus", "") == "plots")


async def test_the_focus_moves_without_the_whole_screen_being_painted(
    full, monkeypatch: pytest.MonkeyPatch
):
    whole: list[bool] = []
    paint = Compositor.render_full_update

    def counted(self: Compositor, simplify: bool = False) -> object:
        whole.append(simplify)
        return paint(self, simplify)

    async with opened(full, size=(120, 30)) as pilot:
        # Textual's own first screen, which this one covers, is laid out late, and then it has all
        # painted.
        monkeypatch.setattr(pilot.app.screen_stack[0], "_compositor_refresh", lambda: None)
        await at_rest(pilot)
        monkeypatch.setattr(Compositor, "render_full_update", counted)
        for key, panel in (("2", "plots"), ("3", "layers"), ("4", "generate"), ("escape", "runs")):
            await pilot.press(key)
            await until(pilot, lambda panel=panel: bench_of(pilot).recall("focus", "") == panel)
            await at_rest(pilot)
        assert not whole
