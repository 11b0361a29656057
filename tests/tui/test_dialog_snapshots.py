"""How the dialogs look at three sizes: questions, a line of text, lists, errors, the palette."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from driving import bench_of, press, settled
from textual.pilot import Pilot

from lmbench.errors import LmbenchError
from lmbench.session import Run

pytestmark = pytest.mark.usefixtures("started")

SIZES = [(80, 24), (120, 30), (200, 50)]
sized = pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)

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
    """Paths that are the same on every machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lmbench.tui.screens.sessions._look", lambda home: [])
    monkeypatch.setattr("lmbench.tui.screens.sessions.SessionsScreen._tell", lambda self: None)
    log = property(lambda run: Path("sessions", "demo", "runs", run.path.name, "log.txt"))
    monkeypatch.setattr(Run, "log_path", log)


@sized
@pytest.mark.parametrize("name", DIALOGS)
def test_a_dialog(snap_compare: Any, lab: Any, name: str, size: tuple[int, int]):
    lab.session.run(3).update(status="failed", reason="the loss is not finite at step 12")

    async def before(pilot: Pilot[None]) -> None:
        await settled(pilot)
        await press(pilot, *DIALOGS[name], workers="compare")
        await pilot.pause(0.4)

    assert snap_compare(lab.bench(), terminal_size=size, run_before=before)


@sized
def test_a_mistake_in_many_words(snap_compare: Any, full: Any, size: tuple[int, int]):
    words = (
        "schedule 80.yaml: pruner 'l0': weights: 'rnn.weight_ih_l9' is not a parameter of this "
        "model (has encoder.weight, rnn.weight_ih_l0, rnn.weight_hh_l0, rnn.weight_ih_l1, "
        "rnn.weight_hh_l1, decoder.weight, decoder.bias)"
    )

    async def before(pilot: Pilot[None]) -> None:
        await settled(pilot)
        bench_of(pilot).complain(LmbenchError(words))
        await press(pilot)

    assert snap_compare(full.bench(), terminal_size=size, run_before=before)
