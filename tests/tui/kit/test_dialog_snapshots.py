"""How the dialogs look at three sizes: questions, a line of text, lists, errors, the palette."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from driving import bench_of, press, press_in_turn, screen_of, settled, words
from pictures import at_each_size
from textual.command import CommandPalette
from textual.pilot import Pilot
from textual.widgets import Button

from lmbench.errors import LmbenchError
from lmbench.session import Run
from lmbench.session import events as ev
from lmbench.tui.kit.dialog import QuestionDialog

pytestmark = pytest.mark.usefixtures("started")

DIALOGS: dict[str, tuple[str, ...]] = {
    "leaving_with_a_run_alive": ("q",),
    "deleting_a_run": ("end", "d"),
    "renaming_a_run": ("r",),
    "why_a_run_failed": ("end", "enter"),
    "exporting_a_plot": ("2", "e"),
    "the_forms_of_a_comparison": ("c", "e"),
    "the_presets_of_the_laboratory": ("home", "l", "p"),
    "the_presets_of_schedules": ("S", "ctrl+o"),
    "saving_a_schedule": ("S", "ctrl+s"),
    "saving_a_session_as": ("o", "a"),
    "the_palette": ("ctrl+p", *"pl"),
}


@pytest.fixture(autouse=True)
def _same_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Paths that are the same on every machine, and a palette that is as on a fast one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(CommandPalette, "_BUSY_COUNTDOWN", 600.0)
    monkeypatch.setattr(CommandPalette, "_RESULT_BATCH_TIME", 600.0)
    monkeypatch.setattr("lmbench.tui.sessions.screen.read_sessions", lambda home: [])
    monkeypatch.setattr("lmbench.tui.sessions.screen.SessionsScreen._show_path", lambda self: None)
    log = property(lambda run: Path("sessions", "demo", "runs", run.path.name, "log.txt"))
    monkeypatch.setattr(Run, "log_path", log)


@at_each_size
@pytest.mark.parametrize("name", DIALOGS)
def test_a_dialog(snap_compare: Any, lab: Any, name: str, size: tuple[int, int]):
    run = lab.session.run(3)
    run.update(status="failed", reason="the loss is not finite at step 12")
    (run.path / "last").mkdir()

    async def before(pilot: Pilot[None]) -> None:
        await settled(pilot)
        await press_in_turn(pilot, *DIALOGS[name])

    assert snap_compare(lab.bench(), terminal_size=size, run_before=before)


TRACEBACK = """Traceback (most recent call last):
  File "/home/someone/lmbench/lmbench/jobs/worker.py", line 164, in _work
    outcome = kind.work(job)
  File "/home/someone/lmbench/lmbench/training/loop.py", line 241, in _epoch
    loss = self._model(batch.inputs, hidden, targets=batch.targets, reduction="mean")
  File "/home/someone/.venv/lib/python3.11/site-packages/torch/nn/modules/module.py", line 1751
    return self._call_impl(*args, **kwargs)
  File "/home/someone/.venv/lib/python3.11/site-packages/torch/nn/functional.py", line 3458
    return torch._C._nn.cross_entropy_loss(input, target, weight, _Reduction.get_enum(reduction))
torch.OutOfMemoryError: [enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't
allocate memory: you tried to allocate 4658920000 bytes. Error code 12 (Cannot allocate memory)
"""
OUT_OF_MEMORY = (
    "out of memory (4.7 GB more were asked for): choose a smaller --batch-size, --bptt or --nhid, "
    "or stop what else takes memory on this machine, then resume it"
)


def died(lab: Any) -> None:
    """The last run of the tree has died in the midst of torch."""
    run = lab.session.run(3)
    run.update(status="failed", reason=OUT_OF_MEMORY)
    (run.path / "last").mkdir()
    lab.write(run, ev.Failed(t=1.0, reason=OUT_OF_MEMORY, traceback=TRACEBACK))


@at_each_size
def test_why_a_run_died_in_the_midst_of_torch(snap_compare: Any, lab: Any, size: tuple[int, int]):
    died(lab)

    async def before(pilot: Pilot[None]) -> None:
        await settled(pilot)
        await press(pilot, "end", "enter")

    assert snap_compare(lab.bench(), terminal_size=size, run_before=before)


async def test_the_answers_stay_on_the_screen_and_arrows_scroll_what_is_too_long(lab: Any):
    died(lab)
    async with lab.bench().run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await press(pilot, "end", "enter")
        screen = screen_of(pilot, QuestionDialog)
        assert all(screen.region.contains_region(b.region) for b in screen.query(Button))
        assert "Its log" not in words(pilot)
        await press(pilot, "pagedown", "pagedown")
        assert "Its log" in words(pilot)
        assert "R resume from its last checkpoint" in words(pilot)
        await press(pilot, *["up"] * 30)
        assert "out of memory" in words(pilot)


@at_each_size
def test_a_mistake_in_many_words(snap_compare: Any, full: Any, size: tuple[int, int]):
    mistake = (
        "schedule 80.yaml: pruner 'l0': weights: 'rnn.weight_ih_l9' is not a parameter of this "
        "model (has encoder.weight, rnn.weight_ih_l0, rnn.weight_hh_l0, rnn.weight_ih_l1, "
        "rnn.weight_hh_l1, decoder.weight, decoder.bias)"
    )

    async def before(pilot: Pilot[None]) -> None:
        await settled(pilot)
        bench_of(pilot).show_error(LmbenchError(mistake))
        await press(pilot)

    assert snap_compare(full.bench(), terminal_size=size, run_before=before)
