"""The sweep of a session: each run, and the settings over their seeds."""

from __future__ import annotations

from typing import Any

import pytest
from pictures import Snap, at_each_size, pressing

pytestmark = pytest.mark.usefixtures("started")


@at_each_size
def test_the_runs_of_a_sweep(snap_compare: Snap, study: Any, size: tuple[int, int]):
    app = study.bench()
    assert snap_compare(app, terminal_size=size, run_before=pressing("W", "down", "down"))


@at_each_size
def test_the_settings_of_a_sweep(snap_compare: Snap, study: Any, size: tuple[int, int]):
    keys = ("W", "a", "t", "t", "G", "b", "right_square_bracket", "right_square_bracket")
    assert snap_compare(study.bench(), terminal_size=size, run_before=pressing(*keys))


def test_a_session_without_a_sweep(snap_compare: Snap, full: Any):
    assert snap_compare(full.bench(), terminal_size=(80, 24), run_before=pressing("W"))
