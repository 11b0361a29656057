"""The laboratory."""

from __future__ import annotations

from typing import Any

import pytest
from pictures import Snap, at_each_size, looks

pytestmark = pytest.mark.usefixtures("started")


@at_each_size
def test_the_laboratory_with_candidates(snap_compare: Snap, lab: Any, size: tuple[int, int]):
    draft = ("l", "enter", "u", "down", "b", "c", "enter")
    slider = ("tab", "tab", "3")
    assert looks(snap_compare, lab, size, *draft, *slider)
