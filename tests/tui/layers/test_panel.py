"""The layers table and the screen of one tensor, by keys alone."""

from __future__ import annotations

import json
import math
import shutil
import struct
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from threading import Event
from typing import Any

import driving
import numpy as np
import pytest
from driving import at_rest, bench_of, offered, press, settled, words
from layers_world import FILE, MODULES, NAMES, checkpoint, quantized, tensor_of
from safetensors.numpy import save_file
from textual.geometry import Region
from textual.pilot import Pilot
from waiting import LIMIT_S

from lmbench.session import events as ev
from lmbench.tui.kit.bars import columns_of, sparkbars
from lmbench.tui.kit.dialog import QuestionDialog
from lmbench.tui.kit.grid import Cell, Grid
from lmbench.tui.kit.sort_order import SortOrder
from lmbench.tui.layers import tensor_screen
from lmbench.tui.layers.tensor_screen import DistributionPanel, TensorScreen
from lmbench.tui.main_screen import MainScreen


def opened(
    world: Any, run: str = "002-prune", size: tuple[int, int] = (120, 30)
) -> AbstractAsyncContextManager[Pilot[None]]:
    return driving.opened(world, "3", run=run, size=size)


def grid(pilot: Pilot[None]) -> Grid:
    return pilot.app.screen.query_one(Grid)


def shown(pilot: Pilot[None]) -> list[str]:
    table = grid(pilot)
    return [table.render_line(y).text.rstrip() for y in range(table.size.height)]


def keys(pilot: Pilot[None]) -> list[str]:
    return [key for key, _ in grid(pilot).rows]


def sparse(step: int, *shares: float) -> ev.Sparsity:
    """A table in which each tensor of 100 by 10 has this share of zeros."""
    rows = tuple(
        {
            "name": name, "shape": [100, 10], "dense": 1000, "nnz": round(1000 * (1 - share)),
            "fine": 100 * share, "rows": 1.0, "cols": 2.0, "std": 0.05, "mean": 0.0,
            "abs_mean": 0.01 * (i + 1),
        }
        for i, (name, share) in enumerate(zip(NAMES, shares, strict=True))
    )  # fmt: skip
    total = sum(shares) / len(shares)
    count = 1000 * len(shares)
    return ev.Sparsity(
        step=step, epoch=1, tensors=rows, parameters=count, nonzero=round(count * (1 - total)),
        total=total,
    )  # fmt: skip


async def test_the_table_shows_sparsity_and_the_change_since_the_parent(full):
    full.write(full.session.run(1), sparse(6000, 0.0, 0.1, 0.5))
    full.write(full.session.run(2), sparse(3700, 0.8, 0.1, 0.25))
    async with opened(full) as pilot:
        lines = shown(pilot)
        assert keys(pilot) == list(NAMES)
        assert "80.0" in lines[1]
        assert "+80.0" in lines[1]
        assert "·" in lines[2]
        assert "-25.0" in lines[3]
        assert "total (tied once)" in lines[4]
        assert "38.3" in lines[4]
        assert "+18.3" in lines[4]


async def test_what_a_terminal_would_obey_is_not_painted(full):
    run, name = full.session.run(2), "\x1b]0;title\x07a"
    checkpoint(run)
    save_file({name: np.ones((4, 2), np.float32)}, run.path / "last" / "model.safetensors")
    event = sparse(3700, 0.8, 0.1, 0.25)
    row = {**event.tensors[0], "name": name, "shape": ["\x1b[2J", 3]}
    full.write(run, replace(event, tensors=(row,)))
    async with opened(full, size=(200, 50)) as pilot:
        assert "[2J×3" in words(pilot)
        assert "\x1b" not in words(pilot)
        await press(pilot, "enter")
        screen = await tensor_of(pilot)
        assert "]0;titlea" in words(pilot)
        assert "\x1b" not in words(pilot)
        cells = tuple(Cell("\x1b[2J\n!") for _ in grid(pilot).columns)
        screen.query_one(Grid).show(grid(pilot).columns, (("odd", cells),))
        assert "\x1b" not in shown(pilot)[1]
        assert "[2J !" in shown(pilot)[1]


def test_a_module_without_a_figure_stands_last_whether_it_has_none_or_it_is_nan():
    figures = {0: math.nan, 1: 12.0, 2: None, 3: 30.0, 4: math.nan, 5: 70.0}
    order = SortOrder("SQNR")
    assert order.of(range(6), figures.get, descending=True) == [5, 3, 1, 0, 2, 4]


async def test_it_is_live_and_repaints_only_the_lines_that_are_new(full, monkeypatch):
    run = full.session.run(2)
    full.write(run, sparse(3700, 0.8, 0.1, 0.25))
    async with opened(full) as pilot:
        painted: list[int] = []
        monkeypatch.setattr(Grid, "refresh_line", lambda self, y: painted.append(y))
        full.write(run, sparse(3800, 0.8, 0.2, 0.25))
        await settled(pilot)
        assert "20.0" in shown(pilot)[2]
        assert set(painted) == {2, 4, grid(pilot).size.height - 1}


async def test_new_figures_are_painted_in_a_table_that_is_scrolled(full, monkeypatch):
    run = full.session.run(2)
    full.write(run, sparse(3700, 0.8, 0.1, 0.25))
    async with opened(full) as pilot:
        painted: list[Region] = []
        grid(pilot).set_reactive(Grid.scroll_y, 1)
        assert grid(pilot).scroll_offset.y == 1
        monkeypatch.setattr(Grid, "refresh", lambda self, *regions, **_: painted.extend(regions))
        full.write(run, sparse(3800, 0.8, 0.2, 0.25))
        await settled(pilot)
        # The second of three rows, below the headings and less the line that is scrolled away.
        assert painted[0].y == 2 - 1


async def test_t_sorts_by_column_after_column_and_capital_t_turns_it_round(full):
    full.write(full.session.run(2), sparse(3700, 0.3, 0.9, 0.1))
    async with opened(full) as pilot:
        titles = []
        for _ in range(12):
            await press(pilot, "t")
            place = grid(pilot).sorted_by
            if place < 0:
                break
            titles.append(grid(pilot).columns[place].title)
            if titles[-1] == "sparsity":
                assert keys(pilot) == [NAMES[1], NAMES[0], NAMES[2]]
                await press(pilot, "T")
                assert keys(pilot) == [NAMES[2], NAMES[0], NAMES[1]]
                await press(pilot, "T")
        assert titles[0] == "tensor"
        assert "sparsity" in titles
        assert keys(pilot) == list(NAMES)


async def test_the_order_is_there_when_one_comes_back_and_the_cursor_keeps_its_tensor(full):
    run = full.session.run(2)
    full.write(run, sparse(3700, 0.3, 0.9, 0.1))
    async with opened(full, size=(80, 24)) as pilot:
        await press(pilot, "down", "down", *"tttt")
        assert grid(pilot).cursor_key == NAMES[2]
        order = keys(pilot)
        full.write(run, sparse(3800, 0.3, 0.2, 0.95))
        await settled(pilot)
        assert grid(pilot).cursor_key == NAMES[2]
    async with opened(full, size=(80, 24)) as pilot:
        assert grid(pilot).sorted_by >= 0
        assert keys(pilot) != order


async def test_a_quantized_run_shows_its_modules_and_x_its_sparsity(full):
    again = quantized("decoder", bits_weights=8, output_sqnr=41.0)
    full.write(full.session.run(3), *MODULES, again, sparse(1, 0.5, 0.5, 0.5))
    async with opened(full, "003-quantize") as pilot:
        assert keys(pilot) == [event.module for event in MODULES]
        assert "41.0" in shown(pilot)[5]
        await press(pilot, "t")
        assert keys(pilot)[0] == "decoder"
        await press(pilot, *"ttttt")
        assert grid(pilot).columns[grid(pilot).sorted_by].title == "SQNR"
        assert keys(pilot)[:2] == ["rnn.cells.0.eltwiseadd_gate", "rnn.cells.0.fc_gate_h"]
        await press(pilot, "x")
        assert keys(pilot)[0] == "encoder.weight"
        await press(pilot, "x")
        assert "SQNR" in shown(pilot)[0]


@pytest.mark.parametrize("size", [(80, 24), (120, 30), (200, 50)])
async def test_bits_scale_zero_point_clip_and_sqnr_of_a_module_have_room_at_any_size(full, size):
    full.write(full.session.run(3), *MODULES)
    async with opened(full, "003-quantize", size=size) as pilot:
        lines = [line.split() for line in shown(pilot)]
        assert lines[0][:5] == ["module", "bits", "scale", "zero", "clip"]
        assert lines[0][-1] == "SQNR"
        assert lines[1][:2] == ["encoder", "w8"]
        assert lines[2][:6] == ["0.fc_gate_x", "w8", "a8", "14.1", "-3", "avg"]
        assert lines[2][-1] == "12.2"
        assert lines[3] == ["0.fc_gate_h", "fp16", "70.2"]
        assert lines[4][1:5] == ["a8", "0.0123", "128", "laplace"]
        assert lines[4][-1] == "∞"
        assert shown(pilot)[0].count("SQNR") == (1 if size[0] == 120 else 2)


async def test_modes_are_short_and_stand_behind_the_rest(full):
    full.write(full.session.run(3), *MODULES)
    async with opened(full, "003-quantize", size=(80, 24)) as pilot:
        assert shown(pilot)[2].split()[6:] == ["sym/asym", "46.8", "12.2"]


async def test_enter_opens_the_weights_of_a_module_and_says_where_there_are_none(full):
    run = full.session.run(3)
    (run.path / "best").mkdir()
    save_file(
        {
            "encoder.weight_q": np.arange(-60, 60, dtype=np.int8).reshape(12, 10),
            "rnn.cells.0.fc_gate_h.wrapped_module.weight": np.ones((8, 2), np.float16),
        },
        run.path / "best" / "model.safetensors",
    )
    shared = {"version": 1, "shared": {"decoder.weight_q": "encoder.weight_q"}}
    (run.path / "best" / "quantization.json").write_text(json.dumps(shared))
    full.write(run, *MODULES)
    async with opened(full, "003-quantize") as pilot:
        for module, tensor in (
            ("encoder", "encoder.weight_q"),
            ("rnn.cells.0.fc_gate_h", "rnn.cells.0.fc_gate_h.wrapped_module.weight"),
            ("decoder", "encoder.weight_q"),
        ):
            while grid(pilot).cursor_key != module:
                await press(pilot, "down")
            assert "layers.open" in offered(pilot)
            await press(pilot, "enter")
            screen = await tensor_of(pilot)
            assert screen.report is not None
            assert screen.report.name == tensor
            await press(pilot, "escape")
        await press(pilot, "up")
        assert grid(pilot).cursor_key == "rnn.cells.0.eltwiseadd_gate"
        assert "layers.open" not in offered(pilot)
        await press(pilot, "enter")
        assert isinstance(pilot.app.screen, MainScreen)
        assert "rnn.cells.0.eltwiseadd_gate has no weights" in words(pilot)
        # A double click opens, too.
        grid(pilot).post_message(Grid.Opened("rnn.cells.0.eltwiseadd_gate"))
        await press(pilot)
        assert isinstance(pilot.app.screen, MainScreen)


async def test_columns_give_way_in_a_narrow_panel_but_sparsity_stays(full):
    full.write(full.session.run(2), sparse(3700, 0.3, 0.9, 0.1))
    async with opened(full, size=(40, 20)) as pilot:
        assert "sparsity" in shown(pilot)[0]
        assert "rows 0" not in shown(pilot)[0]
        assert all(len(line) <= 40 for line in shown(pilot))
        await pilot.resize_terminal(200, 50)
        await pilot.pause()
        assert "shape" in shown(pilot)[0]


@pytest.mark.parametrize(
    "run, words",
    [
        ("001-train", "This run has no table: it has finished without writing one."),
        ("003-quantize", "This run has quantized no module."),
        ("004-quantize", "This run has quantized no module yet."),
        ("005-train", "No table yet"),
        ("006-pack", "This run has written no file."),
        ("007-sensitivity", "This run has no table: only trainings"),
    ],
)
async def test_an_empty_table_says_what_fills_it_or_that_nothing_will(full, run, words):
    full.new("train", "waits")
    full.new("pack", "packed", full.session.run(1), status="finished")
    full.new("sensitivity", "scan", full.session.run(1), status="finished")
    async with opened(full, run) as pilot:
        assert not grid(pilot).display
        assert words in str(pilot.app.screen.query_one("#nothing").render())
        assert not offered(pilot) & {"layers.open", "layers.sort"}


async def test_a_packed_run_shows_how_its_file_holds_each_tensor(full):
    run = full.new("pack", "packed", full.session.run(1), status="finished", results=FILE)
    async with opened(full, run.path.name, size=(200, 50)) as pilot:
        lines = [line.split() for line in shown(pilot)]
        names = ["encoder.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.bias_ih_l0"]
        assert keys(pilot) == [*names, "words"]
        assert lines[1][:4] == ["encoder.weight", "33278×200", "code2", "bitmask"]
        assert lines[1][-3:] == ["84.5", "741,255", "35.9×"]
        assert lines[4] == ["rnn.bias_ih_l0", "800", "int8", "dense", "788", "4.1×"]
        assert lines[5] == ["words", "125,930"]
        assert (lines[6][:2], lines[6][-3:]) == (["whole", "file"], ["81.5", "993,585", "28.5×"])
        await press(pilot, *["t"] * 6)
        assert grid(pilot).columns[grid(pilot).sorted_by].title == "bytes"
        assert keys(pilot) == [names[0], "words", names[2], names[1], names[3]]
        await press(pilot, "enter")
        assert isinstance(pilot.app.screen, MainScreen)
        assert "5 packed is a file: open a tensor in the run that was packed" in words(pilot)


async def test_what_an_edited_record_says_of_its_file_is_shown_as_far_as_it_goes(full):
    tensors = ["?", {}, {"name": "\x1b[2Ja", "shape": [-2, "b", 0], "bytes": 0, "nonzero": "x"}]
    huge = 10**400
    tensors.append({"name": "b", "shape": [huge, huge], "bytes": huge, "nonzero": huge})
    results = {"tensors": tensors, "ratio": "many", "vocabulary_bytes": huge}
    run = full.new("pack", "packed", full.session.run(1), status="finished", results=results)
    async with opened(full, run.path.name, size=(200, 50)) as pilot:
        assert len(keys(pilot)) == 4
        assert "-2×b×0" in words(pilot)
        assert "\x1b" not in words(pilot)


async def test_enter_opens_a_tensor_with_its_gates_and_escape_comes_back(full):
    run = full.session.run(2)
    checkpoint(run)
    full.write(run, sparse(3700, 0.3, 0.2, 0.1))
    async with opened(full) as pilot:
        await press(pilot, "down", "down", "enter")
        screen = await tensor_of(pilot)
        assert screen.report is not None
        assert [p.name for p in screen.report.parts] == ["all", "i", "f", "g", "o"]
        head = str(screen.query_one("#head").render())
        assert "rnn.weight_hh_l0" in head
        assert "80×20" in head
        assert "last checkpoint, step 3,000" in head
        assert "zeros" in picture(screen)
        assert "25.0% of 1,600" in picture(screen)
        # The table of layers has it of all weights.
        assert "|mean| ≠0" in words(pilot)
        await press(pilot, "down", "down")
        assert screen.part is not None
        assert screen.part.name == "f"
        assert "100.0% of 400" in picture(screen)
        linear = picture(screen)
        await press(pilot, "up", "y")
        assert picture(screen) != linear
        await press(pilot, "escape")
        assert isinstance(pilot.app.screen, MainScreen)


async def test_arrows_turn_to_other_tensors_b_to_the_other_checkpoint(full):
    run = full.session.run(2)
    checkpoint(run)
    full.write(run, sparse(3700, 0.3, 0.2, 0.1))
    async with opened(full, size=(80, 24)) as pilot:
        await press(pilot, "enter")
        screen = await tensor_of(pilot)
        assert screen.tensor == "encoder.weight"
        await press(pilot, "right")
        await tensor_of(pilot)
        assert screen.tensor == "rnn.weight_hh_l0"
        await press(pilot, "left", "left")
        await tensor_of(pilot)
        assert screen.tensor == "rnn.weight_ih_l0"
        before = screen.report
        await press(pilot, "b")
        await tensor_of(pilot)
        assert "no checkpoint 'best' yet" in screen.problem
        checkpoint(run, "best", seed=1)
        await press(pilot, "f5")
        await tensor_of(pilot)
        assert screen.report is not None
        assert before is not None
        assert screen.report.parts[0].mean != before.parts[0].mean


async def test_two_keys_while_a_tensor_is_read_turn_two_tensors_on(full, monkeypatch):
    read, both_pressed = tensor_screen.inspect_tensor, Event()
    both_pressed.set()

    def read_late(*arguments):
        assert both_pressed.wait(LIMIT_S)
        return read(*arguments)

    monkeypatch.setattr(tensor_screen, "inspect_tensor", read_late)
    checkpoint(full.session.run(2))
    full.write(full.session.run(2), sparse(3700, 0.3, 0.2, 0.1))
    async with opened(full, size=(80, 24)) as pilot:
        await press(pilot, "enter")
        screen = await tensor_of(pilot)
        assert screen.report is not None
        names = screen.report.names
        place = names.index(screen.tensor)
        both_pressed.clear()
        await press(pilot, "right", "right")
        both_pressed.set()
        await at_rest(pilot)
        assert screen.tensor == screen.report.name == names[(place + 2) % len(names)]


async def test_a_checkpoint_from_before_the_pruning_of_its_step_is_marked_so(full):
    """Else the screen would show two sparsities for one step."""
    run = full.session.run(2)
    checkpoint(run)
    full.write(
        run,
        ev.Checkpoint(step=3700, epoch=4, which="last"),
        ev.PruneStep(step=3700, epoch=4, param="rnn.weight_hh_l0", target=0.8, reached=0.8),
        sparse(3700, 0.3, 0.2, 0.8),
    )
    async with opened(full) as pilot:
        await press(pilot, "down", "down", "enter")
        screen = await tensor_of(pilot)
        head = str(screen.query_one("#head").render())
        assert "last checkpoint, step 3,700, before pruning to 80.0%" in head


async def test_a_tensor_that_cannot_be_read_is_told_in_a_dialog(full):
    run = full.session.run(2)
    checkpoint(run)
    (run.path / "last" / "model.safetensors").write_bytes(b"rubbish")
    full.write(run, sparse(3700, 0.3, 0.2, 0.1))
    async with opened(full) as pilot:
        await press(pilot, "enter")
        await pilot.app.workers.wait_for_complete()
        await pilot.pause()
        assert isinstance(pilot.app.screen, QuestionDialog)
        words = " ".join(str(w.render()) for w in pilot.app.screen.query("Static"))
        assert "cannot be read as safetensors" in words
        await press(pilot, "escape", "escape")
        assert isinstance(pilot.app.screen, MainScreen)


async def test_the_arrows_go_on_from_a_tensor_that_cannot_be_read(full):
    run = full.session.run(2)
    checkpoint(run)
    kinds = {"a": "F32", "b": "BF16", "c": "F32"}
    head = {
        name: {"dtype": kind, "shape": [1 + (kind == "BF16")], "data_offsets": [4 * at, 4 * at + 4]}
        for at, (name, kind) in enumerate(kinds.items())
    }
    text = json.dumps(head).encode()
    path = run.path / "last" / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(12))
    async with opened(full) as pilot:
        bench_of(pilot).open("tensor", key=run.path.name, tensor="a")
        await at_rest(pilot)
        await press(pilot, "right")
        await at_rest(pilot)
        assert isinstance(pilot.app.screen, QuestionDialog)
        await press(pilot, "escape", "right")
        screen = await tensor_of(pilot)
        assert screen.report is not None
        assert screen.report.name == "c"


async def test_of_a_run_that_is_gone_each_key_says_so_and_nothing_else_is_shown(full):
    run = full.session.run(2)
    checkpoint(run)
    full.write(run, ev.Checkpoint(step=3700, epoch=4, which="last"), sparse(3700, 0.3, 0.2, 0.1))
    async with opened(full) as pilot:
        await press(pilot, "enter")
        await at_rest(pilot)
        assert "80×20" in words(pilot)
        assert "all rows · counts" in words(pilot)
        shutil.rmtree(run.path)
        for key in ("", "right", "b", "f5"):
            bench_of(pilot).recent_message = ""
            await (press(pilot, key) if key else settled(pilot))
            await at_rest(pilot)
            assert "002-prune is gone: its folder is not there" in bench_of(pilot).recent_message
            assert "002-prune is gone: its folder is not there" in picture(await tensor_of(pilot))
            stale = ("80×20", "elements", "all rows", "at step", "No sparsity", "checkpoint")
            assert not [text for text in stale if text in words(pilot)]
        # What is new of other runs does not say it again: the message stands in the keys' place.
        bench_of(pilot).recent_message = ""
        full.session.run(3).update(name="another name")
        await settled(pilot)
        await at_rest(pilot)
        assert bench_of(pilot).recent_message == ""


async def test_of_a_checkpoint_that_is_not_there_no_other_one_is_shown(full):
    checkpoint(full.session.run(2))
    full.write(full.session.run(2), sparse(3700, 0.3, 0.2, 0.1))
    async with opened(full) as pilot:
        await press(pilot, "enter", "b")
        await at_rest(pilot)
        assert "has no checkpoint 'best' yet" in picture(await tensor_of(pilot))
        assert "80×20" not in words(pilot)
        await press(pilot, "b")
        await at_rest(pilot)
        assert "80×20" in words(pilot)


def test_a_histogram_is_as_high_as_its_densest_part_and_log_lifts_the_rare():
    counts = np.zeros(512, np.int64)
    counts[256], counts[0] = 1000, 1
    linear, log = columns_of(counts, 64, False), columns_of(counts, 64, True)
    assert linear.argmax() == log.argmax() == 32
    assert linear.max() == log.max() == 1.0
    assert log[0] > 10 * linear[0]


def test_columns_hold_all_there_is_however_many_there_are():
    even = np.full(512, 7, np.int64)
    for width in (1, 3, 60, 511, 512, 600):
        heights = columns_of(even, width, False)
        assert len(heights) == min(width, 512)
        assert heights.min() == heights.max() == 1.0
    assert sparkbars([0] * 512, 5) == "     "


def picture(screen: TensorScreen) -> str:
    return str(screen.query_one(DistributionPanel).query_one("#picture").render())
