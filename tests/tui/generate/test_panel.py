"""The generation panel by keys alone, with a sampler that needs no torch."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import driving
import pytest
from driving import at_rest, bench_of, burst, press, settled, until
from sampler_double import TEXT, SamplerDouble, wrote
from textual.pilot import Pilot
from waiting import LIMIT_S
from workbench_world import NOON

from lmbench.jobs.hosts.sampler_messages import (
    Began,
    Died,
    Ended,
    Forget,
    Halt,
    Offered,
    Opening,
    Refused,
    Write,
)
from lmbench.session import Session
from lmbench.session import events as ev
from lmbench.tui.bench.themes import THEMES
from lmbench.tui.generate.alternatives import AlternativesList, bar_of
from lmbench.tui.generate.panel import GeneratePanel, PromptInput
from lmbench.tui.generate.sampling_controls import SamplingControls
from lmbench.tui.generate.saved_samples import SavedSamples
from lmbench.tui.generate.text_column import TextColumn
from lmbench.tui.generate.tinted_text import GeneratedText, TintedText, surprisal_style

WORDS = TEXT.split()


@asynccontextmanager
async def opened(
    world: Any, size: tuple[int, int] = (80, 24), run: str = "001-train"
) -> AsyncIterator[Pilot[None]]:
    app = world.bench()
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        app.select(run)
        if not app.screen.query_one(GeneratePanel).has_focus_within:
            await press(pilot, "4")
        yield pilot


async def typed(pilot: Pilot[None], text: str) -> None:
    await press(pilot, *("space" if c == " " else c for c in text))


async def go_to(pilot: Pilot[None], run: str) -> None:
    bench_of(pilot).select(run)
    await at_rest(pilot)


def panel(pilot: Pilot[None]) -> GeneratePanel:
    return pilot.app.screen.query_one(GeneratePanel)


def dials(pilot: Pilot[None]) -> SamplingControls:
    return panel(pilot).query_one(SamplingControls)


def among(pilot: Pilot[None]) -> AlternativesList:
    return panel(pilot).query_one(AlternativesList)


def drafts(pilot: Pilot[None]) -> tuple[GeneratedText, ...]:
    return panel(pilot).drafts


def views(pilot: Pilot[None]) -> list[TintedText]:
    return [c.text for c in panel(pilot).query(TextColumn) if c.display]


def sampler() -> SamplerDouble:
    return SamplerDouble.made[-1]


def written(draft: GeneratedText) -> list[str]:
    return [word.text for word in draft.words]


def heads(pilot: Pilot[None]) -> list[str]:
    return [str(c._head.content) for c in panel(pilot).query(TextColumn) if c.display]


async def test_page_up_stays_in_the_text_where_the_prompt_has_its_first_lines(full):
    async with opened(full) as pilot:
        panel(pilot).query_one(PromptInput).value = "the game " * 20
        await press(pilot, "enter")
        (view,) = views(pilot)
        view.focus()
        (draft,) = drafts(pilot)
        view.put_cursor(len(draft.words) - 1)
        await press(pilot, "pageup")
        assert view.has_focus
        assert view.cursor is not None
        await press(pilot, "up")
        assert view.cursor is None


async def test_enter_in_the_prompt_writes_from_the_selected_run(full):
    async with opened(full) as pilot:
        assert isinstance(pilot.app.focused, PromptInput)
        await typed(pilot, "the game")
        await press(pilot, "enter")
        (request,) = sampler().writes
        assert request.run.endswith("001-train")
        assert request.settings["prompt"] == "the game"
        assert request.settings["temperature"] == 0.8
        (draft,) = drafts(pilot)
        assert draft.prompt == ("the", "game")
        assert written(draft) == WORDS
        assert draft.state == "done"
        assert "● 1 dense" in heads(pilot)[0]
        assert "124.1 · 29.3 MB · 500/s" in heads(pilot)[0]


@pytest.mark.parametrize("size", [(80, 24), (110, 30), (120, 30)])
async def test_what_an_empty_prompt_stands_for_is_whole(full, size):
    async with opened(full, size) as pilot:
        prompt = panel(pilot).query_one(PromptInput)
        assert prompt.render_line(0).text.rstrip() == "a beginning; Enter writes on"


async def test_a_burst_of_arrows_goes_through_the_settings_into_the_text(full):
    async with opened(full) as pilot:
        await press(pilot, "enter")
        burst(pilot, "down", "down", "right", "right", "right")
        await until(pilot, lambda: views(pilot)[0].cursor == 2)


async def test_typing_a_prompt_wakes_the_sampler_before_it_is_asked(full):
    async with opened(full) as pilot:
        assert SamplerDouble.made == []
        await typed(pilot, "x")
        assert sampler().started == 1
        assert sampler().sent == []
    assert sampler().closed


async def test_a_run_that_is_training_answers_from_its_last_checkpoint_and_says_so(full):
    (full.session.run(2).path / "last").mkdir()
    async with opened(full, (120, 30), "002-prune") as pilot:
        assert "will write from its last checkpoint, step 3,000" in heads(pilot)[0]
        await press(pilot, "enter")
        assert sampler().writes[0].settings["checkpoint"] == "last"
        assert heads(pilot)[0].endswith("last checkpoint, step 3,000")


async def test_the_best_checkpoint_of_a_run_that_has_ended_is_taken(full):
    for which in ("best", "last"):
        (full.session.run(1).path / which).mkdir()
    async with opened(full) as pilot:
        await press(pilot, "enter")
        assert sampler().writes[0].settings["checkpoint"] == "best"


async def test_down_and_up_go_from_prompt_to_settings_to_words_and_back(full):
    async with opened(full) as pilot:
        await press(pilot, "enter", "down")
        assert pilot.app.focused is dials(pilot)
        await press(pilot, "down")
        assert pilot.app.focused is views(pilot)[0]
        await press(pilot, "up")
        assert pilot.app.focused is dials(pilot)
        await press(pilot, "up")
        assert isinstance(pilot.app.focused, PromptInput)


async def test_settings_are_chosen_by_arrows_and_changed_by_digits_and_signs(full):
    async with opened(full) as pilot:
        await press(pilot, "down", "1", "full_stop", "5", "right", "plus", "right", "minus")
        assert dials(pilot).values["temperature"] == 1.5
        assert dials(pilot).values["top_k"] == 50
        assert dials(pilot).values["top_p"] == 0.95
        await press(pilot, "right", "backspace", "backspace", "7", "right", "2", "5", "enter")
        settings = sampler().writes[0].settings
        assert (settings["seed"], settings["words"]) == (117, 25)
        await press(pilot, "right", "space", "right", "space", "right", "space", *["left"] * 2, "h")
        assert dials(pilot).values["no_unk"] is True
        assert dials(pilot).values["cache"] == 500
        assert dials(pilot).values["runtime"] == "auto"
        assert dials(pilot).dial.name == "words"


async def test_a_small_number_is_shown_as_it_is_typed_and_can_be_typed_on(full):
    async with opened(full) as pilot:
        await press(pilot, "down", *"0.00001", "right", "left")
        assert dials(pilot).values["temperature"] == 1e-5
        assert "temp 0.00001 " in str(dials(pilot).render())
        await press(pilot, "backspace", "2", "enter")
        assert sampler().writes[0].settings["temperature"] == 2e-5


async def test_a_setting_at_its_end_says_so(full):
    async with opened(full) as pilot:
        await press(pilot, "down", "right", "right", "plus")
        assert pilot.app.recent_message == "top-p is at its most"  # type: ignore[attr-defined]
        await press(pilot, "left", "left", "0", "minus")
        assert pilot.app.recent_message == "temp is at its least"  # type: ignore[attr-defined]
        # Also where what was typed is below the first step.
        await press(pilot, "right", "right", *"0.02", "minus")
        assert pilot.app.recent_message == "top-p is at its least"  # type: ignore[attr-defined]
        assert dials(pilot).values["top_p"] == 0.02


async def test_a_setting_out_of_bounds_is_told_and_escape_takes_it_back(full):
    async with opened(full) as pilot:
        await press(pilot, "down", "right", "right", "7", "enter")
        assert SamplerDouble.made == []
        assert pilot.app.recent_message == "top-p: above 0 to 1"  # type: ignore[attr-defined]
        assert dials(pilot).values["top_p"] == 1.0
        await press(pilot, "escape", "enter")
        assert sampler().writes[0].settings["top_p"] == 1.0


async def test_more_words_than_can_be_shown_are_refused(full):
    async with opened(full) as pilot:
        await press(pilot, "down", *["left"] * 4, *"9999", "enter")
        assert SamplerDouble.made == []
        assert pilot.app.recent_message == "words: 1 to 2,000"  # type: ignore[attr-defined]


async def test_a_number_beyond_its_bounds_is_told_as_it_is_typed_and_takes_no_more_digits(full):
    async with opened(full) as pilot:
        await press(pilot, "down", *"1000")
        assert not pilot.app.recent_message  # type: ignore[attr-defined]
        await press(pilot, *"99999")
        assert pilot.app.recent_message == "temp: 0 to 1,000"  # type: ignore[attr-defined]
        assert "temp 10009 " in str(dials(pilot).render())
        await press(pilot, "backspace", "enter")
        assert sampler().writes[0].settings["temperature"] == 1000
        await press(pilot, "right", "right", "0", "full_stop", "9", "enter")
        assert sampler().writes[1].settings["top_p"] == 0.9
        await press(pilot, "right", *"9223372036854775807", "enter")
        assert sampler().writes[2].settings["seed"] == 2**63 - 1


@pytest.mark.parametrize(
    "name, most, beyond",
    [("temperature", 1e3, 1001.0), ("top_p", 1.0, 1.1), ("seed", 2**63 - 1, 2**63)],
)
def test_the_bounds_in_words_are_those_that_hold(name, most, beyond):
    dials = SamplingControls()
    assert not dials._problem(name, most)
    assert dials._problem(name, beyond)


async def test_words_stream_in_one_by_one_with_their_rate(full, monkeypatch):
    monkeypatch.setattr(SamplerDouble, "answers", False)
    async with opened(full) as pilot:
        await press(pilot, "enter")
        request = sampler().writes[0]
        assert "starting the sampler" in heads(pilot)[0]
        sampler().received(Opening(id=request.id))
        await pilot.pause()
        assert "opening the model" in heads(pilot)[0]
        sampler().received(Began(id=request.id, runtime="torch", unknown=("zyzzyva",)))
        for at in range(3):
            sampler().received(wrote(request.id, at, WORDS[at]))
        await pilot.pause()
        assert written(drafts(pilot)[0]) == WORDS[:3]
        assert "North America on" in screen_text(views(pilot)[0])
        assert "zyzzyva" in pilot.app.last_message  # type: ignore[attr-defined]
        sampler().received(wrote(99, 3, "stray"))
        sampler().received(wrote(request.id, 7, "late"))
        await pilot.pause()
        assert written(drafts(pilot)[0]) == WORDS[:3]


async def test_w_stops_while_it_writes_and_writes_when_it_does_not(full, monkeypatch):
    monkeypatch.setattr(SamplerDouble, "answers", False)
    async with opened(full) as pilot:
        await press(pilot, "enter", "down", "w")
        request = sampler().writes[0]
        assert sampler().sent[-1] == Halt(id=request.id)
        sampler().received(Ended(id=request.id, halted=True, problem="the disk is full"))
        await pilot.pause()
        assert drafts(pilot)[0].state == "halted"
        assert "the disk is full" in pilot.app.last_message  # type: ignore[attr-defined]
        await press(pilot, "w")
        assert len(sampler().writes) == 2
        assert Forget(id=request.id) in sampler().sent


async def test_a_text_that_another_run_takes_the_place_of_is_halted_and_kept_up_to_date(
    full, monkeypatch
):
    monkeypatch.setattr(SamplerDouble, "answers", False)
    async with opened(full) as pilot:
        await press(pilot, "enter")
        (first,) = sampler().writes
        sampler().received(Began(id=first.id, runtime="torch"))
        sampler().received(wrote(first.id, 0, WORDS[0]))
        await go_to(pilot, "003-quantize")
        await press(pilot, "enter")
        second = sampler().writes[1]
        assert Halt(id=first.id) in sampler().sent
        sampler().received(wrote(first.id, 1, WORDS[1]))
        sampler().received(Ended(id=first.id, halted=True))
        sampler().received(Offered(id=first.id, runtimes=("naive",)))
        sampler().write(second)
        await settled(pilot)
        assert written(drafts(pilot)[0]) == WORDS
        await go_to(pilot, "001-train")
        assert written(drafts(pilot)[0]) == WORDS[:2]
        assert drafts(pilot)[0].state == "halted"
        await press(pilot, "down", "w")
        assert len(sampler().writes) == 3
        # A death reaches the text that is out of sight, too.
        await go_to(pilot, "003-quantize")
        await press(pilot, "w", "w")
        last = drafts(pilot)[0]
        sampler().received(Died(reason="the sampler is gone: killed"))
        await settled(pilot)
        assert not any(text.alive for text in panel(pilot)._requests.texts)
        assert last.problem == "the sampler is gone: killed; w writes again"


async def test_a_cursor_on_a_word_shows_what_else_was_likely(full):
    async with opened(full, size=(80, 30)) as pilot:
        await press(pilot, "enter", "down", "down")
        assert not among(pilot).display
        await press(pilot, "right", "right", "right", "right")
        assert among(pilot).display
        assert among(pilot).word is drafts(pilot)[0].words[3]
        assert [row.text for row in among(pilot).rows] == ["the", "a", "its", "March", "an"]
        lines = list_text(among(pilot))
        assert "before" in lines
        assert "after" in lines
        assert "▸March" in lines
        assert "<0.1%" in lines
        await press(pilot, "left", "home")
        assert views(pilot)[0].cursor == 0
        await press(pilot, "end")
        assert views(pilot)[0].cursor == len(WORDS) - 1
        await press(pilot, "home", "down", "up", "escape")
        assert views(pilot)[0].cursor is None
        assert not among(pilot).display


async def test_enter_on_an_alternative_rewinds_and_branches(full):
    async with opened(full) as pilot:
        await typed(pilot, "in")
        await press(pilot, "enter", "down", "down", "enter")
        assert bench_of(pilot).recent_message == "← → go to a word first"
        await press(pilot, "right", "right", "right", "enter")
        assert pilot.app.focused is among(pilot)
        await press(pilot, "up", "enter")
        first, branch = sampler().writes
        assert branch.of == first.id
        assert branch.kept == (0, 11)
        assert branch.chosen == 21
        assert branch.opening == 3
        assert branch.settings["prompt"] == "in"
        (draft,) = drafts(pilot)
        assert draft.id == branch.id
        assert written(draft) == [*WORDS[:2], "branched", *WORDS[3:]]
        assert pilot.app.focused is views(pilot)[0]
        assert not among(pilot).display


async def test_another_run_takes_the_alternatives_of_the_last_ones_text_away(full):
    async with opened(full) as pilot:
        await press(pilot, "enter", "down", "down", "right")
        assert "bits" in list_text(among(pilot))
        for run in ("002-prune", "001-train"):
            await go_to(pilot, run)
            assert among(pilot).word is None
            assert not among(pilot).display


async def test_escape_leaves_the_alternatives_and_b_goes_there(full):
    async with opened(full) as pilot:
        await press(pilot, "enter", "down", "down", "right", "b", "j", "k", "end", "home")
        assert pilot.app.focused is among(pilot)
        await press(pilot, "escape")
        assert pilot.app.focused is views(pilot)[0]
        assert len(sampler().writes) == 1


async def test_r_writes_with_another_seed_and_u_hides_unk(full):
    async with opened(full) as pilot:
        await press(pilot, "enter", "down", "r", "u", "w")
        first, second, third = (request.settings for request in sampler().writes)
        assert first["seed"] != second["seed"]
        assert (second["no_unk"], third["no_unk"]) == (False, True)


async def test_w_and_r_write_with_the_number_that_is_typed(full):
    async with opened(full) as pilot:
        await press(pilot, "down", "1", "full_stop", "5", "w")
        await press(pilot, *["right"] * 3, "4", "2", "r")
        first, second = (request.settings for request in sampler().writes)
        assert (first["temperature"], second["temperature"]) == (1.5, 1.5)
        # A number that is drawn stays, too, when the dials are left.
        await press(pilot, "down")
        assert dials(pilot).values["seed"] == second["seed"]


async def test_a_text_that_is_branched_off_while_it_is_written_is_halted_and_so_recorded(
    full, monkeypatch
):
    monkeypatch.setattr(SamplerDouble, "answers", False)
    async with opened(full) as pilot:
        await typed(pilot, "in")
        await press(pilot, "enter", "down", "down")
        sampler().write(sampler().writes[0], end=False)
        await press(pilot, "right", "right", "enter", "down", "enter")
        first, branch = sampler().writes
        halts = [message for message in sampler().sent if isinstance(message, Halt)]
        assert [halt.id for halt in halts] == [first.id] == [branch.of]
        assert sampler().sent.index(halts[0]) < sampler().sent.index(branch)


async def test_i_goes_to_the_prompt_and_y_copies_the_text(full):
    async with opened(full) as pilot:
        await typed(pilot, "in")
        await press(pilot, "enter", "down", "y")
        assert pilot.app.clipboard == f"in {TEXT}"
        await press(pilot, "i")
        assert isinstance(pilot.app.focused, PromptInput)


async def test_pieces_of_words_are_copied_as_words(full, monkeypatch):
    monkeypatch.setattr(SamplerDouble, "answers", False)
    async with opened(full) as pilot:
        await typed(pilot, "the cat")
        await press(pilot, "enter", "down", "down")
        for at, piece in enumerate(("s", "▁ga", "me", "▁was")):
            sampler().received(wrote(sampler().writes[0].id, at, piece))
        await press(pilot, "y")
        assert pilot.app.clipboard == "the cats game was"


async def test_a_search_in_the_text_puts_the_cursor_on_each_match(full):
    first, last = TEXT.split()[0], TEXT.split()[-1]
    async with opened(full) as pilot:
        await typed(pilot, "in")
        await press(pilot, "enter", "down", "down", "right", "slash", *last, "enter")
        assert among(pilot).word is drafts(pilot)[0].words[len(TEXT.split()) - 1]
        await press(pilot, "slash", *["backspace"] * len(last), *first, "enter", "n", "N")
        assert among(pilot).word is drafts(pilot)[0].words[0]


async def test_a_search_beside_other_texts_says_which_one_was_searched(full, monkeypatch):
    async with opened(full, (120, 30)) as pilot:
        pilot.app.mark(("001-train", "003-quantize"))  # type: ignore[attr-defined]
        await press(pilot, "enter", "down", "down", "slash", *"nowhere", "enter")
        said = str(pilot.app.screen.query_one(".problem").render())
        assert said.startswith("There is no “nowhere” in the text of 1 dense")
        assert "] goes to the next text" in said


async def test_marked_runs_answer_side_by_side_with_the_same_prompt_and_seed(full):
    async with opened(full, (120, 30)) as pilot:
        pilot.app.mark(("001-train", "003-quantize"))  # type: ignore[attr-defined]
        await press(pilot, "enter")
        one, other = sampler().writes
        assert {r.run[-9:] for r in (one, other)} == {"001-train", "-quantize"}
        assert one.settings == {**other.settings, "checkpoint": one.settings["checkpoint"]}
        assert len(views(pilot)) == 2
        assert "124.1" in heads(pilot)[0]
        assert "7.4MB" in heads(pilot)[1].replace(" MB", "MB")
        await press(pilot, "down", "down", "right", "right_square_bracket", "right", "right")
        assert pilot.app.focused is views(pilot)[1]
        assert views(pilot)[0].cursor is None
        assert among(pilot).word is drafts(pilot)[1].words[1]
        await press(pilot, "left_square_bracket")
        assert pilot.app.focused is views(pilot)[0]


async def test_a_write_has_the_cache_that_is_set_and_its_head_says_so(full):
    async with opened(full) as pilot:
        await press(pilot, "enter")
        assert sampler().writes[0].settings["cache"] == 0
        assert "cache" not in heads(pilot)[0]
        await press(pilot, "down", *["left"] * 2, "space", "enter")
        assert sampler().writes[1].settings["cache"] == 500
        assert heads(pilot)[0].startswith("● 1 dense + cache")


async def test_both_writes_without_and_with_the_cache_side_by_side(full):
    async with opened(full, (120, 30)) as pilot:
        await press(pilot, "down", *["left"] * 2, "minus", "enter")
        plain, cached = sampler().writes
        assert (plain.settings["cache"], cached.settings["cache"]) == (0, 500)
        assert plain.settings == {**cached.settings, "cache": 0}
        assert ["+ cache" in head for head in heads(pilot)] == [False, True]
        # Each branch goes on as its text was written.
        await press(pilot, "down", "right", "enter", "down", "enter")
        assert sampler().writes[2].settings["cache"] == 0
        await press(pilot, "right_square_bracket", "right", "enter", "down", "enter")
        branch = sampler().writes[3]
        assert (branch.of, branch.settings["cache"]) == (cached.id, 500)
        # Both are there when one comes back, and both are let go of for the next.
        before = drafts(pilot)
        for run in ("003-quantize", "001-train"):
            await go_to(pilot, run)
        assert drafts(pilot) == before
        await press(pilot, "4", "enter")
        assert all(Forget(id=draft.id) in sampler().sent for draft in before)


async def test_beside_their_texts_with_a_cache_two_marked_runs_have_room(full):
    async with opened(full, (120, 30)) as pilot:
        pilot.app.mark(("001-train", "002-prune", "003-quantize"))  # type: ignore[attr-defined]
        await press(pilot, "down", *["left"] * 2, "minus", "enter")
        assert [(r.run[-9:], r.settings["cache"]) for r in sampler().writes] == [
            ("001-train", 0), ("001-train", 500), ("002-prune", 0), ("002-prune", 500),
        ]  # fmt: skip
        said = "3 runs are marked; the first 2 write"
        assert pilot.app.recent_message == said  # type: ignore[attr-defined]
        # It is not true for long.
        assert pilot.app.last_message != said  # type: ignore[attr-defined]
        await pilot.resize_terminal(80, 24)
        await at_rest(pilot)
        assert ["+ cache" in head for head in heads(pilot)] == [False, True] * 2


async def test_the_text_is_of_the_run_in_the_frame_when_the_marks_are_gone(full):
    async with opened(full, run="002-prune") as pilot:
        await press(pilot, "down", *["left"] * 2, "minus", "enter")
        before = drafts(pilot)
        assert [draft.run_id for draft in before] == [2, 2]
        bench = bench_of(pilot)
        bench.mark(("001-train", "002-prune"))
        bench.select("003-quantize")
        await press(pilot)
        assert drafts(pilot) == before
        await press(pilot, "1", "u")
        await at_rest(pilot)
        assert drafts(pilot) == ()
        assert panel(pilot).border_subtitle == "▲ 3 int8"
        assert "The selected run will write" in heads(pilot)[0]
        # They come back with their run.
        await go_to(pilot, "002-prune")
        assert drafts(pilot) == before


async def test_of_marked_runs_the_only_one_that_can_write_is_named(full):
    for name in ("early", "late"):
        full.new("quantize", name)
    async with opened(full) as pilot:
        pilot.app.mark(("001-train", "005-quantize", "006-quantize"))  # type: ignore[attr-defined]
        await press(pilot)
        assert heads(pilot)[0].startswith("Of the marked runs 1 dense will write. 5 early has")


async def test_m_changes_between_the_marked_runs_and_the_selected_one(full):
    async with opened(full) as pilot:
        pilot.app.mark(("001-train", "003-quantize"))  # type: ignore[attr-defined]
        await press(pilot, "down", "m", "w")
        assert len(sampler().writes) == 1
        await press(pilot, "m", "w")
        assert len(sampler().writes) == 3


async def test_no_more_than_four_runs_write_and_the_rest_is_told(full):
    async with opened(full, (200, 50)) as pilot:
        full.new("train", "fifth", status="finished")
        full.session.run(4).update(status="finished")
        await settled(pilot)
        bench = bench_of(pilot)
        bench.mark(tuple(view.key for view in bench.snapshot.runs))
        await press(pilot, "enter")
        assert len(sampler().writes) == 4
        assert "the first 4 write" in bench.recent_message


async def test_that_not_all_marked_runs_will_write_is_said_before(full):
    async with opened(full, (200, 50)) as pilot:
        for name in ("fifth", "sixth"):
            run = full.new("train", name, status="finished")
            full.write(run, ev.Checkpoint(step=1, epoch=1, which="best"))
        full.session.run(4).update(status="finished")
        await settled(pilot)
        bench = bench_of(pilot)
        bench.mark(tuple(view.key for view in bench.snapshot.runs)[1:])
        await press(pilot)
        assert "5 runs are marked; the first 4 write." in heads(pilot)[0]


async def test_a_run_that_ended_without_a_checkpoint_is_said_to_have_no_model_before_it_is_asked(
    full,
):
    run = full.new("train", "early", status="failed")
    async with opened(full, run=run.path.name) as pilot:
        await settled(pilot)
        assert "it ended before its first checkpoint" in heads(pilot)[0]
        await press(pilot, "enter")
        assert SamplerDouble.made == []


async def test_a_size_that_no_file_has_is_marked_so_in_the_head_too(full):
    run = full.session.run(1)
    run.update(results={**run.read().results, "packed_bytes": 450_000})
    async with opened(full) as pilot:
        await press(pilot, "enter")
        assert "≈450 kB" in heads(pilot)[0]


async def test_a_text_that_was_written_in_the_midst_of_a_training_has_its_figures_of_then(full):
    run = full.session.run(2)
    async with opened(full, run="002-prune") as pilot:
        await press(pilot, "enter")
        before = heads(pilot)[0]
        full.write(
            run,
            ev.Epoch(
                t=NOON + 2000, epoch=4, step=3700, train_loss=1.0, valid_loss=1.0, valid_ppl=2.7,
                best_valid_loss=1.0, best_epoch=4, lr=1.0, seconds=1.0,
            ),
        )  # fmt: skip
        await settled(pilot)
        view = pilot.app.snapshot.run("002-prune")  # type: ignore[attr-defined]
        assert view.valid_ppl < 3
        assert heads(pilot)[0] == before


async def test_a_text_keeps_the_figures_of_its_model_when_the_run_goes_on(full):
    run = full.session.run(1)
    async with opened(full, size=(120, 30)) as pilot:
        await press(pilot, "enter")
        (draft,) = pilot.app.screen.query_one(GeneratePanel).drafts
        before = draft.figures
        run.update(results={**run.read().results, "valid_ppl": 11.0})
        await settled(pilot)
        assert draft.figures.startswith("11.0")
        run.update(attempt=run.read().attempt + 1, results={"valid_ppl": 10.0})
        await settled(pilot)
        assert draft.figures.startswith("11.0")
        assert before


async def test_a_text_of_the_first_checkpoint_says_of_which_step(full):
    run = full.new("train", "young")
    full.live(run)
    full.write(run, ev.RunStarted(device="cpu", total_steps=500, epochs=1))
    async with opened(full, (120, 30), run=run.path.name) as pilot:
        await press(pilot, "enter")
        assert heads(pilot)[0].endswith("\nlast checkpoint")
        full.write(run, ev.Checkpoint(which="last", step=132, epoch=1))
        await settled(pilot)
        assert heads(pilot)[0].endswith("\nlast checkpoint, step 132")
        full.write(run, ev.Checkpoint(which="last", step=264, epoch=1))
        await settled(pilot)
        assert heads(pilot)[0].endswith("\nlast checkpoint, step 132")


async def test_a_refusal_stands_where_the_text_would(full, monkeypatch):
    monkeypatch.setattr(SamplerDouble, "answers", False)
    async with opened(full) as pilot:
        await press(pilot, "enter")
        sampler().received(Refused(id=sampler().writes[0].id, reason="no checkpoint 'best' yet"))
        await pilot.pause()
        assert drafts(pilot)[0].state == "failed"
        assert "no checkpoint 'best' yet" in screen_text(views(pilot)[0])


async def test_a_death_ends_the_texts_that_were_being_written_and_w_writes_again(full, monkeypatch):
    async with opened(full) as pilot:
        await press(pilot, "enter")
        sampler().received(Died(reason="the sampler is gone: killed"))
        await pilot.pause()
        assert drafts(pilot)[0].state == "done"
        monkeypatch.setattr(SamplerDouble, "answers", False)
        await press(pilot, "down", "w")
        sampler().received(Died(reason="the sampler is gone: killed"))
        await pilot.pause()
        assert "killed; w writes again" in screen_text(views(pilot)[0])
        await press(pilot, "w")
        assert isinstance(sampler().sent[-1], Write)


async def test_prompt_and_settings_are_there_when_one_comes_back(full):
    async with opened(full) as pilot:
        await typed(pilot, "in")
        await press(pilot, "down", "2", "right")
        await pilot.app.workers.wait_for_complete()
    kept = await kept_by(full, "sampling")
    assert kept["prompt"] == "in"
    assert kept["sampling"]["temperature"] == 2.0
    async with opened(full) as pilot:
        assert panel(pilot).query_one(PromptInput).value == "in"
        assert dials(pilot).values["temperature"] == 2.0


@pytest.mark.parametrize(
    "kept", [3, {"temperature": "hot", "top_k": -1, "runtime": "abacus"}, {"runtime": ["x"]}]
)
async def test_what_was_kept_and_does_not_fit_is_passed_over(full, kept):
    full.session.update(workbench={"sampling": kept, "prompt": 7})
    app = full.bench()
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await press(pilot, "escape", "4")
        values = dials(pilot).values
        assert (values["temperature"], values["top_k"], values["runtime"]) == (0.8, 40, "as-is")


async def test_a_text_that_is_asked_for_again_is_halted_and_so_recorded(full, monkeypatch):
    monkeypatch.setattr(SamplerDouble, "answers", False)
    async with opened(full) as pilot:
        await press(pilot, "enter", "enter")
        first, second = sampler().writes
        asked = [m for m in sampler().sent if m.id == first.id]
        assert asked == [first, Halt(id=first.id), Forget(id=first.id)]
    assert sampler().sent[-1] == Halt(id=second.id)
    assert sampler().closed


async def test_a_run_with_the_number_of_a_deleted_one_has_none_of_its_texts(full):
    async with opened(full) as pilot:
        await press(pilot, "enter")
        assert written(drafts(pilot)[0]) == WORDS
        run = full.session.run(1)
        run.update(created=run.read().created + 60, name="another")
        await bench_of(pilot).refresh_snapshot()
        await at_rest(pilot)
        assert drafts(pilot) == ()
        await go_to(pilot, "003-quantize")
        await go_to(pilot, "001-train")
        assert drafts(pilot) == ()


async def test_a_new_run_shows_no_text_of_a_deleted_one_of_its_name(full):
    created = full.home.find_run("demo/1").read().created
    line = {"run": "demo/001-train", "prompt": "in", "text": "another's text"}
    path = full.session.samples_path
    for t, shown in ((created - 60, False), (created + 60, True)):
        path.write_text(json.dumps({**line, "t": t}))
        async with opened(full) as pilot:
            await at_rest(pilot)
            assert ("another's" in screen_text(views(pilot)[0])) == shown


async def test_what_a_run_wrote_before_is_there_until_something_is_written(full):
    def line(run: str, text: str, **more: Any) -> str:
        line = {"run": f"demo/{run}", "prompt": "in", "text": text, "tokens_per_s": 4.0, **more}
        return json.dumps(line)

    new = line("001-train", "the new <eos> one", settings={"cache": 2000})
    fast = line("002-prune", "fast", tokens_per_s=10**400)
    lines = [line("001-train", "old"), new, fast, "{torn"]
    full.session.samples_path.write_text("\n".join(lines))
    async with opened(full) as pilot:
        await at_rest(pilot)
        assert screen_text(views(pilot)[0]).strip() == "in the new ¶ one"
        assert "4/s · written before" in heads(pilot)[0]
        # The model may have been another one then.
        assert "124.1" not in heads(pilot)[0]
        assert "1 dense + cache" in heads(pilot)[0]
        await press(pilot, "down", "down", "right")
        assert not among(pilot).display
        await go_to(pilot, "003-quantize")
        assert drafts(pilot) == ()
        await press(pilot, "w")
        assert written(drafts(pilot)[0]) == WORDS
        await go_to(pilot, "001-train")
        assert screen_text(views(pilot)[0]).strip() == "in the new ¶ one"
        await go_to(pilot, "003-quantize")
        assert written(drafts(pilot)[0]) == WORDS


async def test_a_renamed_session_has_its_texts_under_its_new_name(full):
    line = {"run": "demo/001-train", "prompt": "in", "text": "the earlier one"}
    full.session.samples_path.write_text(json.dumps(line))
    async with opened(full) as pilot:
        await at_rest(pilot)
        renamed = Session(full.session.path.rename(full.session.path.parent / "other"))
        bench_of(pilot).attach(renamed)
        await bench_of(pilot).refresh_snapshot()
        await go_to(pilot, "003-quantize")
        await go_to(pilot, "001-train")
        await at_rest(pilot)
        assert screen_text(views(pilot)[0]).strip() == "in the earlier one"


async def test_a_session_without_runs_says_what_is_needed(world):
    async with opened(world) as pilot:
        assert heads(pilot) == ["A run is needed: n starts one."]
        await press(pilot, "enter")
        assert SamplerDouble.made == []


async def test_growing_and_shrinking_keeps_text_and_cursor(full):
    async with opened(full, (120, 30)) as pilot:
        await press(pilot, "enter", "down", "down", "right", "right")
        before = screen_text(views(pilot)[0])
        for size in ((80, 24), (200, 50), (40, 12), (120, 30)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            await pilot.pause()
            assert views(pilot)[0].cursor == 1
        assert screen_text(views(pilot)[0]) == before


async def test_control_characters_of_a_vocabulary_never_reach_the_terminal(full, monkeypatch):
    monkeypatch.setattr(SamplerDouble, "answers", False)
    async with opened(full) as pilot:
        await press(pilot, "enter")
        id = sampler().writes[0].id
        sampler().received(wrote(id, 0, "\x1b[2Jboo\n"))
        sampler().received(wrote(id, 1, "x" * 300))
        await pilot.pause()
        text = screen_text(views(pilot)[0])
        assert "\x1b" not in text
        assert "boo" in text
        assert max(len(line) for line in text.splitlines()) <= views(pilot)[0].size.width


async def test_more_surprising_words_look_different_in_each_theme(full):
    async with opened(full) as pilot:
        await press(pilot, "enter")
        bench = bench_of(pilot)
        for theme in THEMES:
            bench.set_theme(theme.name)
            await pilot.pause()
            styles = [str(surprisal_style(bench, bits)) for bits in (3.0, 7.0, 15.0)]
            assert len(set(styles)) == 3
            assert "North America" in screen_text(views(pilot)[0])


@pytest.mark.parametrize(
    "share, bar", [(0, "    "), (0.001, "▏   "), (0.5, "██  "), (1, "████"), (7, "████")]
)
def test_bars_are_drawn_to_an_eighth_of_a_cell(share, bar):
    assert bar_of(share, 4) == bar


async def kept_by(world: Any, key: str) -> dict[str, Any]:
    """What the session keeps of the workbench, once `key` is there (it is written in a thread)."""
    async with asyncio.timeout(LIMIT_S):
        while key not in (kept := world.session.read().workbench):
            await asyncio.sleep(0.05)
    return kept


def screen_text(view: TintedText) -> str:
    return "\n".join(view.render_line(y).text.rstrip() for y in range(view.size.height))


def list_text(view: AlternativesList) -> str:
    return "\n".join(view.render_line(y).text for y in range(view.size.height))


async def test_a_sample_that_is_read_while_the_panel_is_taken_down_asks_for_none_of_its_parts(full):
    async with driving.opened(full, size=(120, 30)) as pilot:
        panel = pilot.app.screen.query_one(GeneratePanel)
        view = bench_of(pilot).selected_run
        assert view is not None
        await panel.query_one(SamplingControls).remove()
        await panel._read_samples(view, SavedSamples(full.session))
