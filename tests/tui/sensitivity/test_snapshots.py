"""What a tensor's pruning costs, and the schedule that follows."""

from __future__ import annotations

from typing import Any

import pytest
from laboratory_double import measure
from pictures import Snap, at_each_size, looks

pytestmark = pytest.mark.usefixtures("started")


@at_each_size
def test_the_sensitivity_and_what_it_suggests(snap_compare: Snap, lab: Any, size: tuple[int, int]):
    measure(lab)
    assert looks(snap_compare, lab, size, "v", "down")
