"""Workers that are killed lose nothing. Long: ``python tests/faults/kills.py``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).parent / "kills.py"


def harness(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, str(KILLS), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ": 0 faults" in done.stdout


def test_workers_killed_at_some_moments_lose_nothing() -> None:
    harness(
        "--kills", "4", "--signals", "1", "--seed", "1", "--kind", "train", "--kind", "quantize"
    )


@pytest.mark.slow
def test_workers_killed_at_many_moments_lose_nothing() -> None:
    harness("--kills", "60", "--signals", "30", "--seed", "2")
