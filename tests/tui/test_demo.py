"""The recorded session, played back."""

from __future__ import annotations

import dataclasses
import json
import re
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from driving import at_rest, bench_of, press, settled
from sampler_double import SamplerDouble, wrote
from textual.pilot import Pilot
from workbench_world import looked

from lmbench.errors import LmbenchError
from lmbench.session import Home
from lmbench.tui.app import Workbench
from lmbench.tui.bench.session_watcher import Watcher
from lmbench.tui.demo import Player, recording
from lmbench.tui.generate.alternatives import AlternativesList
from lmbench.tui.generate.panel import GeneratePanel, PromptInput
from lmbench.tui.generate.text_column import TextColumn
from lmbench.tui.generate.texts import new_text

START = 1_773_489_600.0


def archive(path: Path) -> Path:
    """Two runs: ten seconds each, a step a second."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("session.json", json.dumps({"version": 1, "name": "x", "created": 0}))
        for number, name in ((1, "001-train"), (2, "002-prune")):
            record = {
                "version": 1, "id": number, "name": f"run {number}", "kind": name[4:],
                "status": "finished", "results": {"valid_ppl": 100.0 + number},
                "parent": "demo/001-train" if number == 2 else None,
            }  # fmt: skip
            file.writestr(f"runs/{name}/run.json", json.dumps(record))
            events = [{"v": 1, "kind": "run_started", "t": 5000.0, "device": "cpu",
                       "precision": "fp32", "threads": 2, "parameters": 5, "epochs": 1,
                       "steps_per_epoch": 10, "total_steps": 10}]  # fmt: skip
            events += [
                {"v": 1, "kind": "step", "t": 5000.0 + i, "step": i, "epoch": 1, "batch": i,
                 "loss": 5.0, "ppl": 148.0, "lr": 1.0, "grad_norm": 1.0, "tokens_per_s": 9.0}
                for i in range(1, 11)
            ]  # fmt: skip
            file.writestr(f"runs/{name}/events.jsonl", "\n".join(map(json.dumps, events)) + "\n")
    return path


def played(tmp_path, seconds, speed=1.0):
    player = Player(archive(tmp_path / "a.zip"), Home(tmp_path), speed)
    session = player.start(START)
    more = player.advance(START + seconds)
    return looked(Watcher(session)), more


def test_the_first_run_is_history_and_the_second_waits(tmp_path):
    snapshot, more = played(tmp_path, 0.0)
    first, second = snapshot.runs
    assert first.status == "finished"
    assert first.valid_ppl == 101.0
    assert len(first.curves.steps) == 10
    assert second.status == "queued"
    assert more


def test_a_run_goes_on_at_the_pace_it_was_recorded_at(tmp_path):
    snapshot, _ = played(tmp_path, 2.0 + 4.5)
    second = snapshot.runs[1]
    assert second.status == "running"
    assert len(second.curves.steps) == 4
    assert second.valid_ppl is None
    assert second.step is not None
    assert second.step.t == pytest.approx(START + 2 + 4)


def test_twice_the_speed_is_twice_as_far(tmp_path):
    snapshot, _ = played(tmp_path, (2.0 + 8.5) / 2, speed=2.0)
    assert len(snapshot.runs[1].curves.steps) == 8


def test_at_its_end_the_recording_is_as_it_was_recorded(tmp_path):
    snapshot, more = played(tmp_path, 1000.0)
    assert not more
    assert [run.status for run in snapshot.runs] == ["finished", "finished"]
    assert snapshot.runs[1].valid_ppl == 102.0


def test_without_a_recording_one_line_says_so(tmp_path):
    with pytest.raises(LmbenchError, match="no recording to play"):
        Player(tmp_path / "none.zip", Home(tmp_path)).start(START)


@pytest.mark.skipif(not recording().exists(), reason="no recording in this checkout")
def test_the_recording_that_comes_with_lmbench_plays_to_its_end_and_tells_of_no_machine(tmp_path):
    with zipfile.ZipFile(recording()) as file:
        text = "".join(file.read(name).decode() for name in file.namelist())
    assert re.findall(r"""[\s"'(:=]/\w+/""", text) == [], "a path from the root of a disk"
    player = Player(recording(), Home(tmp_path))
    session = player.start(START)
    assert not player.advance(START + 1e6)
    snapshot = looked(Watcher(session))
    assert {run.status for run in snapshot.runs} == {"finished"}
    assert not any(run.problem for run in snapshot.runs)
    dense, pruned, int8, both = (run.read().size for run in session.runs())
    assert not dense.as_packed
    assert all(size.as_packed for size in (pruned, int8, both))
    order = [size.bytes or 0 for size in (both, pruned, int8, dense)]
    assert order == sorted(set(order)), "not the sizes that packing gives"


@asynccontextmanager
async def showing(home: Home) -> AsyncIterator[Pilot[None]]:
    """The recording that comes with lmbench at its end, the generation panel in front."""
    player = Player(recording(), home)
    app = Workbench(
        home, player.start(START), player=player, clock=lambda: START + 1e6, follow=False
    )
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await press(pilot, "home", "g")
        await at_rest(pilot)
        yield pilot


async def test_a_recording_writes_nothing_and_says_why(tmp_path):
    async with showing(Home(tmp_path)) as pilot:
        panel = pilot.app.screen.query_one(GeneratePanel)
        before = [(draft.key, draft.words) for draft in panel.drafts]
        panel.query_one(PromptInput).focus()
        await press(pilot, *"the", "enter")
        assert bench_of(pilot).last_message == "A recording has no model to write with."
        assert not panel.check_action("write", ())
        assert not panel.check_action("reseed", ())
        await press(pilot, "down", "enter", "w", "r")
        assert [(draft.key, draft.words) for draft in panel.drafts] == before
    assert SamplerDouble.made == []


async def test_a_next_step_of_a_recorded_run_is_refused_as_other_requests_are(tmp_path):
    async with showing(Home(tmp_path)) as pilot:
        bench = bench_of(pilot)
        bench.select(next(view.key for view in bench.snapshot.runs if view.kind == "prune"))
        await press(pilot, "escape", "K")
        assert bench.recent_message == "this is a recording: its runs take no requests"


async def test_what_was_written_when_it_was_recorded_is_shown(tmp_path):
    async with showing(Home(tmp_path)) as pilot:
        panel = pilot.app.screen.query_one(GeneratePanel)
        bench = bench_of(pilot)
        for view in bench.snapshot.runs:
            bench.select(view.key)
            await settled(pilot)
            await bench.workers.wait_for_complete()
            if panel.drafts:
                break
        assert panel.drafts[0].words
        assert panel.drafts[0].recorded


async def test_an_alternative_of_a_recorded_text_is_not_branched_from(tmp_path):
    async with showing(Home(tmp_path)) as pilot:
        bench = bench_of(pilot)
        panel = pilot.app.screen.query_one(GeneratePanel)
        word = wrote(0, 0, "the")
        view = bench.snapshot.runs[0]
        column = panel.query(TextColumn).first()
        column.text.show(dataclasses.replace(new_text(0, view, "", 0), words=[word]))
        panel.post_message(AlternativesList.Taken(word, word.alternatives[1]))
        await press(pilot)
        assert bench.last_message == "A recording has no model to write with."
    assert SamplerDouble.made == []
