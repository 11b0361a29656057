"""The workbench in a tmux window of its own: keys in, screens out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import waiting

from lmbench.jobs import launch
from lmbench.session import Home

__all__ = ["Tmux", "kill_all"]

LIMIT_S = 180
# Two million words take longer.
REAL_LIMIT_S = 1200
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Tmux:
    """A tmux server of our own with one window."""

    def __init__(self, home: Path, columns: int, rows: int) -> None:
        self.server = f"lmbench-{uuid.uuid4().hex[:8]}"
        self.home = home
        self.real = (home / "data" / "wikitext-2").is_dir()
        self.limit_s = REAL_LIMIT_S if self.real else LIMIT_S
        environment = {
            "LMBENCH_HOME": str(home),
            "LMBENCH_CONFIG": str(home),
            "TERM": "xterm-256color",
        }
        # The tests run on one thread each, and a tiny model gains nothing from more; the real
        # corpus is for all cores, as a user has them.
        inherited = {k: v for k, v in os.environ.items() if not (self.real and k in _THREADS)}
        command = f"{sys.executable} -m lmbench; echo LEFT $?; exec sleep 600"
        self._call(
            "new-session", "-d", "-x", str(columns), "-y", str(rows), command,
            env=inherited | environment,
        )  # fmt: skip

    def _call(self, *words: str, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            ["tmux", "-f", "/dev/null", "-L", self.server, *words],
            capture_output=True, text=True, check=True, env=env,
        )  # fmt: skip
        return done.stdout

    def press(self, *keys: str) -> None:
        """At the pace of someone who types."""
        for key in keys:
            self._call("send-keys", key)
            time.sleep(0.15)

    def type(self, text: str) -> None:
        self._call("send-keys", "-l", text)
        time.sleep(0.3)

    def screen(self) -> str:
        return self._call("capture-pane", "-p")

    def until(
        self, holds: Callable[[], object], what: str = "", limit_s: float | None = None
    ) -> None:
        """Wait for something; where it never comes, the screen is part of the failure."""
        limit_s = limit_s or self.limit_s
        waiting.until(holds, lambda: f"{what} on\n{self.screen()}", limit_s=limit_s, every_s=0.1)

    def wait_for(self, pattern: str, limit_s: float | None = None) -> str:
        """Until the screen shows the pattern; gives the screen."""
        screens: list[str] = []

        def there() -> bool:
            screens[:] = [self.screen()]
            return re.search(pattern, screens[0]) is not None

        self.until(there, f"no {pattern!r}", limit_s)
        return screens[0]

    def wait_until_gone(self, pattern: str, limit_s: float | None = None) -> None:
        self.until(lambda: not re.search(pattern, self.screen()), f"still {pattern!r}", limit_s)

    def close(self) -> None:
        subprocess.run(["tmux", "-L", self.server, "kill-server"], check=False)


def kill_all(home: Path) -> None:
    """No worker outlives its test."""
    for run in Home(home).all_runs():
        if run.status() in ("queued", "running", "paused"):
            launch.request(run, "kill")
