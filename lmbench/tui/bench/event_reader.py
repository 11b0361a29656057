"""Reading an ``events.jsonl`` as it grows, without keeping its events.

`EventLog` keeps every event, for reports; a workbench that stays open for days must not grow by
them. `EventReader` yields each event once. When a run resumes from an earlier checkpoint the reader
starts over and leaves out the events after that checkpoint.
"""

from __future__ import annotations

import bisect
import itertools
import math
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from lmbench.session.events import Event, RunResumed, parse_event
from lmbench.session.log_lines import lines_of, whole_blocks

__all__ = ["EventReader", "file_stamp"]

# A pause between slices lets the screen's thread have the interpreter at once.
_PAUSE_S = 0.0005
# So much is read however late it is: most logs have no more.
_LEAST_BYTES = 512 * 1024
# Parts of a log that are searched for resumes.
_SEARCHED_BYTES = 1024 * 1024
_RESUMED = b'"run_resumed"'


def file_stamp(path: Path | str) -> tuple[int, int, int] | None:
    """What tells whether a file was replaced or written to; None where there is no file."""
    try:
        stat = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


class EventReader:
    """Reads what was added to a log since the last `read`.

    `generation` rises when events that were already yielded no longer count: what was derived
    from them is to be discarded. `unread` counts whole lines that are damaged or of a kind that
    this version does not know. `unfinished` says that the last `read` had no time for all of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._path = str(path)
        self.generation = 0
        self.unread = 0
        self.unfinished = False
        self.position = 0
        """The bytes that were read: whole lines."""
        # For each resume up to `_searched`: the offset from which lines are void, and its own.
        self._resumes: list[tuple[int, int]] = []
        # Of each, what it or a later one goes back to at the furthest.
        self._void_from: list[int] = []
        self._searched = 0
        self._seen: tuple[int, int, int] | None = None
        self._skipped = False

    def changed(self) -> bool:
        """Is there more to read, or has the file another size, time or identity than at the last
        `read`? One stat call."""
        return self.unfinished or file_stamp(self._path) != self._seen

    def read(self, deadline: float = math.inf) -> Iterator[Event]:
        """The events added since the last call, in order; check `generation` before using them.

        The whole file is walked again after a resume, a truncation or a replacement.

        Args:
            deadline: by ``time.monotonic``; once it is past, the next call goes on where this one
                stopped. Half a megabyte is read in any case.
        """
        stamp = file_stamp(self._path)
        if stamp is None:
            if self._seen is not None:
                self._forget()
            self._seen = None
            return
        if self._seen is not None and self._was_replaced(stamp, self._seen):
            self._forget()
        self._seen = stamp
        if any(offset < self.position for offset in self._new_resumes()):
            self._restart()
        self.unfinished = False
        enough = self.position + _LEAST_BYTES
        for position, block in whole_blocks(self.path, self.position, pause_s=_PAUSE_S):
            yield from self._events(lines_of(block, position))
            if self.position >= enough and time.monotonic() > deadline:
                self.unfinished = True
                return

    def skip(self) -> None:
        """Leave out what the log holds now; once it changes, `read` gives all of it."""
        self._seen = file_stamp(self._path)
        self._skipped = True

    @property
    def share_read(self) -> float:
        """How much of the log that is, in [0, 1], while `read` is `unfinished`; else 1."""
        return self.position / self.size if self.unfinished and self.size else 1.0

    @property
    def size(self) -> int:
        """The log's bytes when it was last looked at; 0 where there was none."""
        return self._seen[1] if self._seen else 0

    def _was_replaced(self, stamp: tuple[int, int, int], before: tuple[int, int, int]) -> bool:
        rewritten = stamp[1] == before[1] and stamp[2] != before[2]
        skipped, self._skipped = self._skipped, False
        return skipped or rewritten or stamp[0] != before[0] or stamp[1] < self.position

    def _forget(self) -> None:
        """What was read was of another file."""
        self._resumes.clear()
        self._void_from.clear()
        self._searched = 0
        self._restart()

    def _restart(self) -> None:
        self.position = 0
        self.unread = 0
        self.unfinished = False
        self.generation += 1

    def _new_resumes(self) -> list[int]:
        """The offsets that resumes go back to that were not known before."""
        found = []
        blocks = whole_blocks(self.path, self._searched, size=_SEARCHED_BYTES, pause_s=_PAUSE_S)
        for position, block in blocks:
            self._searched = position + len(block)
            if _RESUMED not in block:
                continue
            for at, line in lines_of(block, position):
                if _RESUMED in line and isinstance(event := parse_event(line), RunResumed):
                    self._resumes.append((event.offset, at))
                    found.append(event.offset)
        if found:
            offsets = (offset for offset, _ in reversed(self._resumes))
            self._void_from = list(itertools.accumulate(offsets, min))[::-1]
        return found

    def _is_void(self, position: int) -> bool:
        """Does a later resume go back to this line, or further?"""
        later = bisect.bisect_right(self._resumes, position, key=lambda resume: resume[1])
        return later < len(self._resumes) and self._void_from[later] <= position

    def _events(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[Event]:
        for position, line in lines:
            self.position = position + len(line)
            if self._is_void(position):
                continue
            event = parse_event(line)
            if event is None:
                self.unread += 1
            else:
                yield event
