"""The append-only log that holds a run's events: who writes it, and who keeps up with it.

The log only ever grows. When a run resumes from a checkpoint, what it had logged after that
checkpoint no longer counts: a `RunResumed` event names the offset from which earlier lines are
superseded. `EventReader` yields each event that counts once, and keeps none.
"""

from __future__ import annotations

import bisect
import itertools
import math
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from lmbench.session.events import Event, RunResumed, event_line, parse_event
from lmbench.session.files import file_stamp
from lmbench.session.log_lines import lines_of, whole_blocks

__all__ = ["EventReader", "EventWriter", "ends_torn", "read_events"]

# So much is read however late it is: most logs have no more.
_LEAST_BYTES = 512 * 1024
# Parts of a log that are searched for resumes.
_SEARCHED_BYTES = 1024 * 1024
_RESUMED = b'"run_resumed"'


class EventWriter:
    """Appends events to a log; each is written as a whole line. One process writes a log."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO = path.open("ab", buffering=0)
        # A killed writer may have torn its last line off; the next one must stand alone.
        self._torn = ends_torn(path)

    @property
    def offset(self) -> int:
        """Bytes in the log: where the next event will stand."""
        return self.path.stat().st_size if self.path.exists() else 0

    def write(self, event: Event) -> None:
        """Append an event.

        Raises:
            OSError: the disk is full. What was written of the line counts for nothing.
        """
        line = event_line(event)
        if not self.path.exists():
            # Removed by someone; what follows is worth keeping all the same.
            self._file.close()
            self._file, self._torn = self.path.open("ab", buffering=0), False
        rest = memoryview(b"\n" + line if self._torn else line)
        self._torn = True
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            # Of a file that is open the system does not say which.
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self._torn = False

    def close(self) -> None:
        self._file.close()


def ends_torn(path: Path) -> bool:
    """Does the file end in the midst of a line?"""
    with path.open("rb") as file:
        if not file.seek(0, 2):
            return False
        file.seek(-1, 2)
        return file.read() != b"\n"


class EventReader:
    """Reads what was added to a log since the last `read`.

    `generation` rises when events that were already yielded no longer count: what was derived
    from them is to be discarded. `unread` counts whole lines that are damaged or of a kind that
    this version does not know. `unfinished` says that the last `read` had no time for all of it.

    Args:
        pause_s: slept after each part of a long log, which lets other threads in at once.
    """

    def __init__(self, path: Path, *, pause_s: float = 0.0) -> None:
        self.path = path
        self._pause_s = pause_s
        self._path = str(path)
        self.generation = 0
        self.unread = 0
        self.unfinished = False
        self.position = 0
        """The bytes that were read: whole lines."""
        self._crc = 0
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
        for position, block in whole_blocks(self.path, self.position, pause_s=self._pause_s):
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
        skipped, self._skipped = self._skipped, False
        if skipped or stamp[0] != before[0] or stamp[1] < self.position:
            return True
        # A file that is being written to has its new time before its new size.
        return stamp[1] == before[1] and stamp[2] != before[2] and not self._is_as_read()

    def _is_as_read(self) -> bool:
        """Does the file still begin with what was read of it?"""
        crc, left = 0, self.position
        try:
            with self.path.open("rb") as file:
                while left and (data := file.read(min(left, _SEARCHED_BYTES))):
                    crc, left = zlib.crc32(data, crc), left - len(data)
        except OSError:
            return False
        return not left and crc == self._crc

    def _forget(self) -> None:
        """What was read was of another file."""
        self._resumes.clear()
        self._void_from.clear()
        self._searched = 0
        self._restart()

    def _restart(self) -> None:
        self.position = self._crc = 0
        self.unread = 0
        self.unfinished = False
        self.generation += 1

    def _new_resumes(self) -> list[int]:
        """The offsets that resumes go back to that were not known before."""
        found = []
        at, size = self._searched, _SEARCHED_BYTES
        blocks = whole_blocks(self.path, at, size=size, pause_s=self._pause_s)
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
            self._crc = zlib.crc32(line, self._crc)
            if self._is_void(position):
                continue
            event = parse_event(line)
            if event is None:
                self.unread += 1
            else:
                yield event


def read_events(path: Path) -> list[Event]:
    """The events of a log that count, as it stands."""
    return list(EventReader(path).read())
