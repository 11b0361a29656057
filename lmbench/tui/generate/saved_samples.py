"""What a session's ``samples.jsonl`` holds: texts that were written before."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

from lmbench.session import Session
from lmbench.session.files import file_stamp
from lmbench.session.log_lines import last_lines

__all__ = ["Sample", "SavedSamples"]

# Texts older than what stands in so many bytes at the file's end are not looked for.
_TAIL_BYTES = 1 << 20


@dataclass(frozen=True)
class Sample:
    """A text that a run wrote; `tokens_per_s` and `time` are None where they are not known, `cache`
    is 0 where it was written without one."""

    prompt: str
    words: tuple[str, ...]
    tokens_per_s: float | None
    cache: int = 0
    time: float | None = None


class SavedSamples:
    """The newest text of each run of a session, kept until the file changes."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._path = session.samples_path
        self._stamp: tuple[int, int, int] | None = None
        self._newest: dict[str, Sample] = {}

    @property
    def outdated(self) -> bool:
        """Has the file changed since it was read? One stat call."""
        return self._stamp != file_stamp(self._path)

    def read(self) -> None:
        """Damaged lines are passed over."""
        stamp, newest = file_stamp(self._path), dict[str, Sample]()
        for line in last_lines(self._path, _TAIL_BYTES):
            if found := _parse(line):
                newest[found[0]] = found[1]
        self._stamp, self._newest = stamp, newest

    def last_of(self, key: str, created: float = 0.0) -> Sample | None:
        """The newest text of the run with this key, its folder's name, and none of a deleted run
        that was called so before it was `created`; None where there is none."""
        found = self._newest.get(key)
        before = found is not None and found.time is not None and found.time < created
        return None if before else found


def _parse(line: bytes) -> tuple[str, Sample] | None:
    """The text of one line and the folder of its run, whatever its session was called then."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    run, prompt, text = (document.get(name) for name in ("run", "prompt", "text"))
    rate, written = (_positive(document.get(name)) for name in ("tokens_per_s", "t"))
    settings = document.get("settings")
    if not (isinstance(run, str) and isinstance(prompt, str) and isinstance(text, str)):
        return None
    words = tuple(text.split())
    if not words:
        return None
    cache = settings.get("cache") if isinstance(settings, dict) else 0
    cache = cache if isinstance(cache, int) else 0
    return run.rpartition("/")[2], Sample(prompt, words, rate, cache, written)


def _positive(found: Any) -> float | None:
    fits = isinstance(found, int | float) and 0 < found <= sys.float_info.max
    return float(found) if fits else None
