"""Workers that are killed lose nothing. Long: ``python tests/faults/kills.py``."""

from __future__ import annotations

import pytest
from harness import run_harness


def test_workers_killed_at_some_moments_lose_nothing() -> None:
    kinds = ("--kind", "train", "--kind", "quantize")
    run_harness("kills.py", "--kills", "3", "--signals", "1", "--seed", "3", *kinds)


@pytest.mark.slow
def test_workers_killed_at_many_moments_lose_nothing() -> None:
    run_harness("kills.py", "--kills", "60", "--signals", "30", "--seed", "2")
