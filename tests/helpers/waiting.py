"""Other processes: several at once, and waiting for what they bring about."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

# Far longer than anything takes on a slow machine.
LIMIT_S = 120.0


def until(
    holds: Callable[[], object],
    what: object = "it never came about",
    *,
    limit_s: float = LIMIT_S,
    every_s: float = 0.01,
) -> None:
    """Return once the condition holds; fail, with `what`, if it never does."""
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end, what() if callable(what) else what
        time.sleep(every_s)


def four_at_once(code: str, *arguments: str) -> list[str]:
    """Let four interpreters run `code`, which reads a line when it is ready; what each printed."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    answers = [worker.communicate(timeout=60) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4, answers
    return [out for out, _ in answers]
