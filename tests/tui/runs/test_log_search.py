"""Searching the log and copying from it."""

from __future__ import annotations

import pytest
from driving import bench_of, opened, press, screen_of, words
from textual.pilot import Pilot

from lmbench.session import events as ev
from lmbench.tui.kit.dialog import TextDialog
from lmbench.tui.new_run.screen import NewRunScreen
from lmbench.tui.runs.log_lines import LogLines


def log_of(pilot: Pilot[None]) -> LogLines:
    return pilot.app.screen.query_one(LogLines)


def at(pilot: Pilot[None]) -> str:
    log = log_of(pilot)
    return log.lines[log.place].text.strip()


async def test_a_search_goes_from_match_to_match_and_round(full):
    full.write(
        full.session.run(3),
        *(ev.Warned(t=60.0 * n, message=f"thing {n % 10} of {n}") for n in range(40)),
    )
    async with opened(full, "5", run="003-quantize") as pilot:
        await press(pilot, "home", "slash", *"THING 7", "enter")
        assert bench_of(pilot).recent_message == "match 1 of 4"
        assert "n next match" in words(pilot)
        assert at(pilot).endswith("thing 7 of 7")
        assert "thing 7 of 7" in words(pilot)
        await press(pilot, "n", "n")
        assert at(pilot).endswith("thing 7 of 27")
        await press(pilot, "N")
        assert at(pilot).endswith("thing 7 of 17")
        await press(pilot, "n", "n", "n")
        assert at(pilot).endswith("thing 7 of 7")
        assert bench_of(pilot).recent_message == "match 1 of 4, from the other end again"


async def test_a_phrase_is_found_where_it_goes_on_in_the_next_row(full):
    message = " ".join(f"word{n}" for n in range(30))
    full.write(full.session.run(3), ev.Warned(t=60.0, message=message))
    async with opened(full, "5", run="003-quantize") as pilot:
        rows = [line.text.rstrip() for line in log_of(pilot).lines]
        broken = f"{rows[0].split()[-1]} {rows[1].split()[0]}"
        await press(pilot, "home", "slash", *broken.replace(" ", "_").replace("_", " "), "enter")
        assert bench_of(pilot).recent_message == "match 1 of 1"
        assert log_of(pilot).place == 0


async def test_the_match_that_is_gone_to_looks_unlike_the_others(full):
    full.write(full.session.run(3), *(ev.Warned(t=60.0 * n, message="thing") for n in range(3)))
    async with opened(full, "5", "home", "slash", *"thing", "enter", run="003-quantize") as pilot:
        await press(pilot, "n")
        looks = [
            [
                bool(s.style and s.style.reverse)
                for s in log_of(pilot).render_line(y)
                if s.text == "thing"
            ]
            for y in range(3)
        ]
        assert looks == [[False], [True], [False]]


@pytest.mark.parametrize("before", ["日本語 ", "İ "])
async def test_a_match_is_marked_behind_characters_of_any_width(full, before):
    full.write(full.session.run(3), ev.Warned(t=0.0, message=f"{before}epoch done"))
    async with opened(full, "5", "slash", *"epoch", "enter", run="003-quantize") as pilot:
        row = log_of(pilot).place
        marked = [s.text for s in log_of(pilot).render_line(row) if s.style and s.style.reverse]
        assert marked == ["epoch"]


async def test_what_is_not_there_is_not_searched_and_n_is_a_new_run(full):
    async with opened(full, "5", "slash", *"nowhere", "enter", run="001-train") as pilot:
        assert "There is no “nowhere” here." in words(pilot)
        await press(pilot, "backspace")
        assert "There is no" not in words(pilot)
        await press(pilot, "escape")
        await press(pilot, "n")
        screen_of(pilot, NewRunScreen)


async def test_ctrl_c_copies_what_is_selected_in_the_log(full):
    full.write(full.session.run(3), ev.Warned(t=1.0, message="copy this"))
    async with opened(full, "5", run="003-quantize") as pilot:
        log_of(pilot).text_select_all()
        await press(pilot, "ctrl+c")
        assert pilot.app.clipboard.strip().endswith("copy this")
        assert not isinstance(pilot.app.screen, TextDialog)
