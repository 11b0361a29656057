"""Workers whose writes fail lose nothing. Long: ``python tests/faults/failing_calls.py``."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from harness import run_harness
from small_disks import small_disk
from system_calls import strace_works

needs_strace = pytest.mark.skipif(not strace_works(), reason="no strace that injects faults here")


@pytest.fixture
def mounting(tmp_path: Path) -> None:
    try:
        with small_disk(tmp_path):
            pass
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk cannot be mounted here")


@needs_strace
def test_a_fault_at_some_writes_of_a_run_loses_nothing() -> None:
    kinds = ("--kind", "train", "--kind", "quantize", "--kind", "supervisor")
    run_harness("failing_calls.py", "--sample", "2", *kinds)


@pytest.mark.slow
@needs_strace
@pytest.mark.timeout(3 * 3600)
def test_a_fault_at_any_write_of_a_run_loses_nothing() -> None:
    run_harness("failing_calls.py")


def test_a_training_on_a_full_disk_or_in_a_read_only_folder_says_so(mounting: None) -> None:
    run_harness("small_disks.py", "--points", "3")


@pytest.mark.slow
def test_a_training_that_lacks_room_or_permission_at_any_moment_says_so(mounting: None) -> None:
    run_harness("small_disks.py")
