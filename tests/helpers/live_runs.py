"""Runs that look as if this very process worked on them."""

from __future__ import annotations

import os
from typing import Any

from lmbench.session import Run
from lmbench.session.process import process_started


def make_live(run: Run, status: str = "running", **record: Any) -> None:
    pid = os.getpid()
    run.update(**{"status": status, "pid": pid, "process_started": process_started(pid), **record})
