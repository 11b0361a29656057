"""The log of a run to which nothing has happened yet, and then something."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from driving import at_rest, bench_of, opened, press, press_in_turn, select, settled, words
from rich.color import Color
from rich.style import Style
from textual.events import MouseMove
from textual.geometry import Offset
from textual.pilot import Pilot
from textual.widgets import RichLog

from lmbench.session import events as ev
from lmbench.tui.runs.log_lines import LogLines
from lmbench.tui.runs.log_panel import LogPanel

NOTHING = "Nothing has happened in"


def lines(pilot: Pilot[None]) -> list[str]:
    log = pilot.app.screen.query_one(LogPanel).query_one(RichLog)
    return [strip.text.strip() for strip in log.lines]


async def test_the_words_that_nothing_has_happened_go_when_something_does(full):
    run = full.session.run(4)
    async with opened(full, "5", run="004-quantize", size=(200, 50)) as pilot:
        for _ in range(2):
            await settled(pilot)
            (line,) = lines(pilot)
            assert line.startswith(NOTHING)
        full.write(run, ev.Warned(t=1.0, message="something"))
        await settled(pilot)
        (line,) = lines(pilot)
        assert line.endswith("something")
        full.write(run, ev.Warned(t=2.0, message="more"))
        await settled(pilot)
        first, second = lines(pilot)
        assert first.endswith("something")
        assert second.endswith("more")


async def test_a_worker_that_has_written_nothing_is_said_to_have(full):
    run = full.session.run(4)
    async with opened(full, "5", "x", run="004-quantize") as pilot:
        assert lines(pilot) == ["The worker of 4 int8 of agp has written nothing yet."]
        run.log_path.write_text("")
        full.live(run)
        await settled(pilot)
        await at_rest(pilot)
        assert lines(pilot) == ["The worker of 4 int8 of agp has written nothing yet."]
        run.log_path.write_text("loading\n")
        await settled(pilot)
        await at_rest(pilot)
        assert lines(pilot) == ["loading"]
        await select(pilot, "003-quantize")
        await at_rest(pilot)
        assert lines(pilot) == ["The worker of 3 int8 has written nothing."]


async def test_the_log_is_wrapped_again_when_the_terminal_becomes_narrow(full):
    full.write(full.session.run(1), ev.Warned(t=1.0, message="word " * 30 + "last"))
    async with opened(full, "5", run="001-train", size=(200, 50)) as pilot:
        await pilot.resize_terminal(80, 24)
        await settled(pilot)
        log = pilot.app.screen.query_one(LogPanel).query_one(RichLog)
        assert max(strip.cell_length for strip in log.lines) <= log.scrollable_content_region.width
        assert lines(pilot)[-1].endswith("last")
        assert log.is_vertical_scroll_end


async def test_the_log_stays_at_its_end_where_only_the_height_changes(full):
    full.write(full.session.run(1), *(ev.Warned(t=1.0, message=f"line {n}") for n in range(60)))
    async with opened(full, "5", run="001-train", size=(80, 40)) as pilot:
        assert "line 59" in words(pilot)
        await pilot.resize_terminal(80, 24)
        await at_rest(pilot)
        assert "line 59" in words(pilot)
        await press_in_turn(pilot, "z", "z")
        assert "line 59" in words(pilot)
        await press_in_turn(pilot, "z", "escape")
        assert "line 59" in words(pilot)
        await press_in_turn(pilot, "5", "home", "z", "z")
        assert pilot.app.screen.query_one(RichLog).scroll_offset.y == 0


async def test_a_drag_over_the_log_scrolls_only_at_its_first_and_last_line(full):
    full.write(full.session.run(1), *(ev.Warned(t=1.0, message=f"line {n}") for n in range(60)))
    async with opened(full, "5", run="001-train") as pilot:
        log = pilot.app.screen.query_one(RichLog)
        assert log.size.height == 7

        async def drag(*rows: int) -> None:
            await pilot.mouse_down(log, offset=(1, rows[0]))
            for before, row in pairwise(rows):
                # Pilot's own move says nothing of how far it went.
                x, y = log.region.offset + Offset(20, row)
                move = MouseMove(log, x, y, 0, row - before, 1, False, False, False, x, y)
                pilot.app.screen._forward_event(move)
                await asyncio.sleep(0.15)
            await pilot.mouse_up(log, offset=(20, rows[-1]))

        await drag(1, 2, 3, 4, 5)
        await press(pilot, "ctrl+c")
        assert [line[10:] for line in pilot.app.clipboard.splitlines()] == [
            f"line {n}" for n in (54, 55, 56, 57)
        ] + ["line 58"]
        assert log.is_vertical_scroll_end
        await drag(4, 3, 2, 1, 0)
        assert not log.is_vertical_scroll_end
        await drag(3, 4, 5, 6, 6)
        assert log.is_vertical_scroll_end


async def test_another_runs_log_has_nothing_selected(full):
    async with opened(full, "5", run="001-train") as pilot:
        log = pilot.app.screen.query_one(LogLines)
        log.text_select_all()
        await select(pilot, "002-prune")
        assert log.text_selection is None
        await press(pilot, "ctrl+c")
        assert pilot.app.clipboard == ""


async def test_only_the_time_is_faint_and_nothing_that_is_selected(full):
    async with opened(full, "5", run="001-train") as pilot:
        log = pilot.app.screen.query_one(LogLines)

        def styles() -> dict[str, Style]:
            return {s.text: s.style or Style() for s in log.render_line(log.size.height - 1)}

        bench_of(pilot).set_theme("lmbench-ansi")
        await at_rest(pilot)
        clock, said = (style for text, style in styles().items() if text.strip())
        assert clock.dim
        assert not said.dim
        assert said.color == Color.from_ansi(2)
        log.text_select_all()
        assert not any(style.dim for style in styles().values())


async def test_a_log_that_is_written_anew_ends_at_its_end(full):
    """Wherever it was scrolled to: its lines are others at another width."""
    full.write(full.session.run(1), *(ev.Warned(t=1.0, message="word " * 30) for _ in range(60)))
    async with opened(full, "5", run="001-train", size=(200, 50)) as pilot:
        log = pilot.app.screen.query_one(LogPanel).query_one(RichLog)
        assert log.is_vertical_scroll_end
        log.scroll_to(y=3, animate=False)
        await at_rest(pilot)
        await pilot.resize_terminal(100, 50)
        await at_rest(pilot)
        assert log.is_vertical_scroll_end


async def test_a_log_that_another_panel_had_covered_is_wrapped_to_its_own_width(full):
    full.write(full.session.run(1), ev.Warned(t=1.0, message="word " * 30 + "last"))
    async with opened(full, "5", run="002-prune", size=(120, 30)) as pilot:
        await press(pilot, "1", "z", "k", "z")
        await settled(pilot)
        covered = lines(pilot)
        assert covered[-1].endswith("last")
        await press(pilot, "j", "k")
        await settled(pilot)
        assert lines(pilot) == covered
