"""Runs a harness of this folder as a process, and expects that it finds no fault."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["run_harness"]


def run_harness(script: str, *arguments: str) -> None:
    path = Path(__file__).parent / script
    done = subprocess.run(
        [sys.executable, str(path), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(" 0 faults\n")
