"""The user's settings."""

from __future__ import annotations

from pathlib import Path

from pictures import Snap, at_each_size, pressing

from lmbench.tui.bench.user_settings import Settings


@at_each_size
def test_the_settings(snap_compare: Snap, full, size):
    app = full.bench(settings=Settings(path=Path("workbench.yaml")))
    assert snap_compare(app, terminal_size=size, run_before=pressing("comma"))
