"""What the list of runs and the lines below it say of a run, at the widths that there are."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from dataclasses import replace

import pytest
from driving import at_rest, bench_of, opened, press, settled, words
from pictures import SIZES
from rich.cells import cell_len
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Static
from workbench_world import NOON

from lmbench.session import events as ev
from lmbench.tui.kit.dialog import QuestionDialog
from lmbench.tui.kit.status_lines import KeyBar
from lmbench.tui.runs.tree import RunTree

SPARKS = set("▁▂▃▄▅▆▇█")


def lines(pilot: Pilot[None]) -> list[str]:
    tree = pilot.app.screen.query_one(RunTree)
    return [tree.render_line(y + 1).text for y in range(len(tree.shown))]


def detail(pilot: Pilot[None]) -> list[str]:
    """The lines below the list, as they can be seen."""
    static = pilot.app.screen.query_one("#detail", Static)
    if not static.display:
        return []
    return [static.render_line(y).text.rstrip() for y in range(static.size.height)]


async def test_a_wide_list_has_sparsity_size_and_the_course_of_the_loss(full):
    async with opened(full, run="001-train", size=(200, 50)) as pilot:
        dense, pruned, _, int8 = lines(pilot)
        assert "29.3 MB" in dense
        assert "≈7.4 MB" in int8
        assert re.search(r"\d\.\d%", pruned)
        assert len(SPARKS & set(dense)) > 1
        assert len(SPARKS & set(pruned)) > 1
        assert not SPARKS & set(int8)


async def test_a_column_that_no_run_has_anything_for_leaves_its_room_to_the_others(full):
    # Names of 22 cells leave 19: enough for the spark line only where there are no sizes.
    full.session.run(4).update(name="int8 of agp-80" + "x")
    async with opened(full, run="001-train", size=(200, 50)) as pilot:
        assert not SPARKS & set("".join(lines(pilot)))
        for number in (1, 3):
            run = full.session.run(number)
            run.update(results={k: v for k, v in run.read().results.items() if k != "bytes"})
        await settled(pilot)
        assert SPARKS & set(lines(pilot)[0])


async def test_a_narrow_list_keeps_status_and_perplexity(full):
    async with opened(full, run="001-train") as pilot:
        assert "✓" in lines(pilot)[0]
        assert "124.1" in lines(pilot)[0]


async def test_the_cells_that_no_perplexity_takes_go_to_names_that_are_cut(world):
    first = world.new("train", "first-steps", status="finished", results={"valid_ppl": 75.8})
    world.new("train", "plain", status="finished", results={"valid_ppl": 124.1})
    world.live(world.new("train", "second"))
    world.new("train", "third-step")
    async with opened(world) as pilot:
        assert "1 first-steps ✓" in lines(pilot)[0]
        assert [line[-5:] for line in lines(pilot)] == [" 75.8", "124.1", "    –", "ueued"]
        signs = {line.index("✓") for line in lines(pilot)[:2]}
        assert len(signs) == 1
        first.update(results={"valid_ppl": 12_345.0})
        await settled(pilot)
        assert "1 first-ste… ✓ 12,345" in lines(pilot)[0]
        first.update(name="1st", results={"valid_ppl": 75.8})
        await settled(pilot)
        assert lines(pilot)[0].endswith("✓   75.8")


async def test_a_long_name_takes_the_cells_beside_a_run_without_perplexity(world):
    world.new("train", "plain", status="finished", results={"valid_ppl": 124.1})
    world.new("prune", "gradual-80-x", status="stopped")
    world.new("prune", "gradual-80-by-step", status="stopped")
    async with opened(world) as pilot:
        plain, fits, long = lines(pilot)
        assert plain.endswith("1 plain       ✓ 124.1")
        assert fits.endswith("2 gradual-80-x □    –")
        assert long.endswith("3 gradual-80-by-… □ –"), long


@pytest.mark.parametrize("size", SIZES)
async def test_a_run_at_its_last_step_keeps_its_percent_sign(world, size):
    run = world.new("train", "first-step-of-a-long-way")
    world.write(
        run,
        ev.RunStarted(
            t=NOON, device="cpu", threads=2, parameters=1, epochs=1, steps_per_epoch=9,
            total_steps=9,
        ),
        ev.Step(
            t=NOON, step=9, epoch=1, batch=9, loss=4.0, ppl=54.6, lr=1.0, grad_norm=1.0,
            tokens_per_s=1.0, memory=1, utilisation=1.0,
        ),
    )  # fmt: skip
    world.live(run)
    async with opened(world, size=size) as pilot:
        assert "▶100% " in lines(pilot)[0]


@pytest.mark.parametrize("size", SIZES)
async def test_below_stand_kind_test_size_and_the_course_of_the_selected_run(full, size):
    async with opened(full, run="001-train", size=size) as pilot:
        said = " ".join(detail(pilot))
        assert said.startswith("train · test 118.3")
        assert "29.3 MB" in said
        assert "0.0%" not in said
        assert len(SPARKS & set(said)) > 2
        bench_of(pilot).select("003-quantize")
        await press(pilot)
        assert "≈7.4 MB" in " ".join(detail(pilot))
        assert "+0.5 ppl" in " ".join(detail(pilot))
        assert not SPARKS & set(" ".join(detail(pilot)))


async def test_no_line_below_is_broken_within_a_figure(full):
    pruned = full.session.run(2)
    pruned.update(
        results={"bytes": 29_300_000, "test_ppl": 118.3, "parameters": 1000, "nonzero": 147}
    )
    async with opened(full, run="002-prune") as pilot:
        found = detail(pilot)
        width = pilot.app.screen.query_one("#detail").size.width
        assert all(cell_len(line) <= width for line in found)
        assert found[0] == "prune · test 118.3"
        assert any("29.3 MB" in line for line in found)
        assert any(line.startswith("+") and "ppl" in line for line in found)


REASON = "the loss is not finite at step 12"


@pytest.mark.parametrize("size", [*SIZES, (260, 60), (80, 18)])
@pytest.mark.parametrize("status", ["failed", "lost", "unreadable"])
async def test_why_a_run_failed_is_said_at_any_width(full, size, status, monkeypatch):
    monkeypatch.setattr("lmbench.tui.bench.session_watcher._WITNESS_S", 0.0)
    run = full.session.run(3)
    if status == "failed":
        run.update(status="failed", reason=REASON)
    elif status == "lost":
        full.live(run)
        run.update(process_started=1.0)
    else:
        (run.path / "run.json").write_bytes(b"{")
    async with opened(full, run="003-quantize", size=size) as pilot:
        view = bench_of(pilot).selected_run
        assert view is not None
        said = " ".join(detail(pilot))
        if status != "unreadable":
            assert view.status == status
        assert said.startswith((view.reason or view.problem or "no reason is known")[:10])
        if size == (260, 60):
            assert said.endswith("(enter: more)")


@pytest.mark.parametrize("size", SIZES)
async def test_a_long_reason_is_cut_with_a_sign_and_says_where_the_rest_is(full, size):
    full.session.run(3).update(status="failed", reason=f"No space left ({'/a/path' * 60})")
    async with opened(full, run="003-quantize", size=size) as pilot:
        *_, last = found = detail(pilot)
        assert found[0].startswith("No space left")
        assert last.endswith("… (enter: more)")


async def test_a_low_panel_says_nothing_below_but_why_a_run_failed(full):
    full.session.run(3).update(status="failed", reason=REASON)
    async with opened(full, run="001-train", size=(80, 18)) as pilot:
        assert detail(pilot) == []
        bench_of(pilot).select("003-quantize")
        await press(pilot)
        (line,) = detail(pilot)
        assert line.startswith("the loss is not")
        assert line.endswith("…")


@pytest.mark.parametrize("size", SIZES)
async def test_no_figure_is_cut_by_the_scrollbar(full, size):
    for number in range(40):
        full.new("train", f"run {number}", status="finished", results={"valid_ppl": 75.5})
    async with opened(full, size=size) as pilot:
        tree = pilot.app.screen.query_one(RunTree)
        assert tree.show_vertical_scrollbar
        await press(pilot, "end")
        last = tree.render_line(tree.size.height - 1).text
        assert re.search(r" 75\.5( |$)", last)
        assert len(last) == tree.scrollable_content_region.width


@pytest.mark.parametrize("size", SIZES)
async def test_headings_stand_over_their_columns(full, size):
    async with opened(full, run="001-train", size=size) as pilot:
        tree = pilot.app.screen.query_one(RunTree)
        head, dense = tree.render_line(0).text, tree.render_line(1).text
        assert head.index("ppl") + 3 == dense.index("124.1") + 5


async def test_a_new_run_is_selected_once_it_is_read_and_until_then_another_one_is(full):
    async with opened(full, run="001-train") as pilot:
        bench = bench_of(pilot)
        run = full.new("quantize", "new")
        bench.select(run.path.name)
        await press(pilot)
        assert bench.selected == "001-train"
        await settled(pilot)
        assert bench.selected == run.path.name
        await press(pilot, "up")
        assert bench.selected != run.path.name


async def test_an_evaluation_with_cache_has_that_figure_below_the_list(full):
    results = {"test_ppl": 118.3, "test_cache_ppl": 97.0}
    full.new("evaluate", "1 cache", full.session.run(1), status="finished", results=results)
    async with opened(full, run="005-evaluate") as pilot:
        said = " ".join(detail(pilot))
        assert "test with cache 97.00" in said
        assert "118.3" not in said


async def test_where_the_session_is_gone_its_list_says_so_and_nothing_offers_a_run(full):
    async with opened(full) as pilot:
        shutil.rmtree(full.session.path)
        await settled(pilot)
        empty = pilot.app.screen.query_one("#empty", Static)
        assert empty.render_line(0).text.startswith("no such file")
        assert "starts" not in words(pilot)


async def test_a_damaged_log_is_reported_at_once_the_cause_before_the_path(full):
    async with opened(full, run="001-train") as pilot:
        with full.session.run(1).events_path.open("ab") as file:
            file.write(b"garbage\n")
        await settled(pilot)
        assert bench_of(pilot).last_message.startswith("1 dense: 1 line passed over")
        assert detail(pilot)[0].startswith("1 line passed over")


async def test_events_that_are_cut_off_or_removed_are_reported_at_once_until_they_are_back(full):
    path = full.session.run(1).events_path
    whole = path.read_bytes()
    async with opened(full, "5", run="001-train") as pilot:
        cut = "1 dense: its events are not whole any more: the file was cut off"
        for change, said in (
            (lambda: os.truncate(path, 1000), cut),
            (path.unlink, "1 dense: its events are gone"),
        ):
            change()
            await settled(pilot)
            assert bench_of(pilot).last_message.startswith(said)
            assert detail(pilot)[0].startswith("its events are ")
        assert "1 dense has no events." in words(pilot)
        path.write_bytes(whole)
        await settled(pilot)
        assert bench_of(pilot).last_message == ""
        assert "dense has no events" not in words(pilot)


async def test_the_cursor_lays_nothing_out_and_asks_for_the_keys_once(full, monkeypatch):
    for number in range(30):
        full.new("train", f"run {number}", status="finished", results={"valid_ppl": 75.5})
    counted = Counter()
    for cls, name in ((Screen, "_refresh_layout"), (KeyBar, "_offered")):
        kept = getattr(cls, name)

        def count(self, *arguments, kept=kept, name=name, **named):
            counted[name] += 1
            return kept(self, *arguments, **named)

        monkeypatch.setattr(cls, name, count)
    async with opened(full, run="010-train", size=(120, 30)) as pilot:
        await press(pilot, "down")
        counted.clear()
        await press(pilot, "down")
        assert counted == {"_offered": 1}


async def test_the_frame_says_how_far_the_runs_are_read(full):
    async with opened(full) as pilot:
        bench, whole = bench_of(pilot), bench_of(pilot).snapshot
        bench.snapshot = replace(whole, unread=3)
        await at_rest(pilot)
        assert "reading 1 of 4 runs" in words(pilot)
        partly = tuple(replace(view, read=0.34) if view.id == 1 else view for view in whole.runs)
        bench.snapshot = replace(whole, runs=partly, unread=1)
        await at_rest(pilot)
        assert "reading run 1: 34%" in words(pilot)
        bench.snapshot = whole
        await at_rest(pilot)
        assert "reading" not in words(pilot)


async def test_a_narrow_frame_leaves_out_what_does_not_fit(full):
    async with opened(full, size=(80, 24)) as pilot:
        bench, whole = bench_of(pilot), bench_of(pilot).snapshot
        bench.snapshot = replace(whole, count=200, unread=81)
        await press(pilot, "space")
        assert " reading 119 of 200 ━" in words(pilot)
        await pilot.resize_terminal(200, 50)
        await at_rest(pilot)
        assert " reading 119 of 200 runs · 1 marked ━" in words(pilot)


async def test_what_was_painted_for_another_width_is_painted_anew(full):
    """Textual tells of a size after it has painted it."""
    async with opened(full) as pilot:
        tree = pilot.app.screen.query_one(RunTree)
        right = words(pilot)
        tree._columns = (0, 1, 2)
        tree._repaint(tree.shown)
        await at_rest(pilot)
        assert words(pilot) != right
        tree.on_resize()
        await at_rest(pilot)
        assert words(pilot) == right


@pytest.mark.parametrize("size", SIZES)
async def test_the_cursor_is_painted_where_it_is_in_a_list_that_is_scrolled(full, size):
    for number in range(60):
        full.new("train", f"run {number}", status="finished", results={"valid_ppl": 75.5})
    async with opened(full, "end", size=size) as pilot:
        assert pilot.app.screen.query_one(RunTree).scroll_offset.y
        for _ in range(3):
            await press(pilot, "up")
            (line,) = [line for line in words(pilot).splitlines() if "▸" in line]
            run = bench_of(pilot).selected_run
            assert run is not None
            assert f" {run.id} run" in line


async def test_a_change_is_new_when_its_parent_is_that_the_filter_hides(full):
    async with opened(full, size=(200, 50)) as pilot:
        await press(pilot, "slash", *"int8")
        assert len(lines(pilot)) == 2
        before = words(pilot)
        full.session.run(1).update(results={"valid_ppl": 11.0})
        await settled(pilot)
        changed = [
            (old, new)
            for old, new in zip(before.splitlines(), words(pilot).splitlines(), strict=True)
            if old != new and "int8" in old
        ]
        assert changed


async def test_a_run_s_name_stands_in_titles_as_it_is(full):
    name = r"a[/b] [@click=app.quit]z \ "
    full.session.run(2).update(name=name, status="failed", reason="a reason")
    async with opened(full, "enter", run="002-prune") as pilot:
        assert f"2 {name.strip()}: failed" in words(pilot)
        await press(pilot, "escape", "5")
        assert f"events of 2 {name.strip()}" in words(pilot)


async def test_a_key_that_the_user_gave_away_is_no_next_step(full):
    async with opened(full, run="001-train", size=(120, 30)) as pilot:
        bench_of(pilot).set_keymap({"runs.sort": "P"})
        await settled(pilot)
        await press(pilot, "down", "home")
        assert not isinstance(pilot.app.screen, QuestionDialog), words(pilot)
        assert detail(pilot)[-1] == "Q quantize  K pack"


async def test_an_order_of_the_list_that_is_none_is_the_tree_s(full):
    record = full.session.read()
    full.session.write(record.model_copy(update={"workbench": {"runs": {"sort": []}}}))
    async with opened(full, run="001-train") as pilot:
        assert pilot.app.screen.query_one(RunTree).sort == "tree"


async def test_a_run_that_cannot_be_read_cannot_be_resumed(full):
    (full.session.run(2).path / "run.json").write_text("{")
    async with opened(full, "R", run="002-prune") as pilot:
        assert bench_of(pilot).recent_message == "2 002-prune cannot be read"
