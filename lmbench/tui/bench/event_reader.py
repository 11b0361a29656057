"""Following an ``events.jsonl`` without keeping what it said.

`EventLog` keeps every event, which is right for reports; a workbench that stays open for days
must not grow by them. `Tail` hands each event on once and forgets it. When a run resumes from an
earlier checkpoint the tail starts over and leaves out what no longer counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lmbench.session.events import Event, RunResumed, parse_event

__all__ = ["LogPart", "Tail", "read_log"]

# Python hands the interpreter from thread to thread at its own pace; a pause between slices lets
# the screen's thread in at once.
_SLICE_BYTES = 64 * 1024
_BREATH_S = 0.0005


@dataclass(frozen=True)
class LogPart:
    """Whole lines of a worker's log, the offset where they end, and whether earlier ones no longer
    count."""

    lines: tuple[str, ...]
    position: int
    anew: bool = False


def read_log(path: Path, position: int, most: int = _SLICE_BYTES) -> LogPart:
    """The lines that a log got since `position`; of many only the last `most` bytes.

    Reads a file: call it in a thread. A log that is not there has no lines.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            anew = size < position
            begin = max(0 if anew else position, size - most)
            torn = begin > 0 and begin != position
            file.seek(begin)
            data = file.read(most)
    except OSError:
        return LogPart((), 0, anew=position > 0)
    whole, newline, _ = data.rpartition(b"\n")
    if not newline:
        return LogPart((), 0 if anew else position, anew)
    lines = whole.decode("utf-8", "replace").splitlines()
    return LogPart(tuple(lines[torn:]), begin + len(whole) + 1, anew)


class Tail:
    """Reads what was added to a log since the last look.

    `generation` rises when events that were already handed out no longer count: whoever keeps
    something derived begins anew. `unread` counts whole lines that are damaged or of a kind that
    this version does not know.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.generation = 0
        self.unread = 0
        self._position = 0
        self._seen: tuple[int, int, int] | None = None

    def changed(self) -> bool:
        """Has the file another size, time or identity than at the last `read`? One stat call."""
        return self._stamp() != self._seen

    def read(self) -> Iterator[Event]:
        """The events added since the last call, in order; check `generation` before using them.

        The whole file is walked again after a resume, a truncation or a replacement.
        """
        stamp = self._stamp()
        if stamp is None:
            if self._seen is not None:
                self._restart()
            self._seen = None
            return
        if self._seen is not None and (stamp[0] != self._seen[0] or stamp[1] < self._position):
            self._restart()
        self._seen = stamp
        resumes = self._resumes()
        if self._position and any(offset < self._position for offset, _ in resumes):
            self._restart()
            resumes = self._resumes()
        for position, line in self._lines():
            if any(offset <= position < at for offset, at in resumes):
                continue
            event = parse_event(line)
            if event is None:
                self.unread += 1
            else:
                yield event

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            stat = self.path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    def _restart(self) -> None:
        self._position = 0
        self.unread = 0
        self.generation += 1

    def _resumes(self) -> list[tuple[int, int]]:
        """For each resume in what is new: the offset from which lines are void, and its own."""
        found = []
        for position, line in self._walk(self._position):
            if b'"run_resumed"' in line and isinstance(event := parse_event(line), RunResumed):
                found.append((event.offset, position))
        return found

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        for position, line in self._walk(self._position):
            self._position = position + len(line)
            yield position, line

    def _walk(self, start: int) -> Iterator[tuple[int, bytes]]:
        """Whole lines from `start` on, with their offsets; a torn last line is left for later."""
        try:
            file = self.path.open("rb")
        except OSError:
            return
        with file:
            file.seek(start)
            position, rest = start, b""
            while data := file.read(_SLICE_BYTES):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    yield position, line + b"\n"
                    position += len(line) + 1
                if len(data) == _SLICE_BYTES:
                    time.sleep(_BREATH_S)
