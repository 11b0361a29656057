"""Runs and runtimes side by side."""

from __future__ import annotations

from typing import Any

import pytest
from laboratory_double import benchmarked
from pictures import Snap, at_each_size, looks

pytestmark = pytest.mark.usefixtures("started")


@at_each_size
def test_runs_compared(snap_compare: Snap, lab: Any, size: tuple[int, int]):
    assert looks(snap_compare, lab, size, "c", "down")


@at_each_size
def test_runtimes_compared(snap_compare: Snap, lab: Any, size: tuple[int, int]):
    benchmarked(lab)
    assert looks(snap_compare, lab, size, "c", "r", "down", "down")
