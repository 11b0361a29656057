"""Reading an ``events.jsonl`` as it grows, without keeping its events.

`EventLog` keeps every event, for reports; a workbench that stays open for days must not grow by
them. `EventReader` yields each event once. When a run resumes from an earlier checkpoint the reader
starts over and leaves out the events after that checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lmbench.session.events import Event, RunResumed, parse_event
from lmbench.session.log_lines import whole_lines

__all__ = ["EventReader"]

# A pause between slices lets the screen's thread have the interpreter at once.
_PAUSE_S = 0.0005


class EventReader:
    """Reads what was added to a log since the last `read`.

    `generation` rises when events that were already yielded no longer count: what was derived
    from them is to be discarded. `unread` counts whole lines that are damaged or of a kind that
    this version does not know.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.generation = 0
        self.unread = 0
        self._position = 0
        self._seen: tuple[int, int, int] | None = None
        self._skipped = False

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
        if self._seen is not None and self._was_replaced(stamp, self._seen):
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

    def skip(self) -> None:
        """Leave out what the log holds now; once it changes, `read` gives all of it."""
        self._seen = self._stamp()
        self._skipped = True

    @property
    def position(self) -> int:
        """The bytes that were read: whole lines."""
        return self._position

    def _was_replaced(self, stamp: tuple[int, int, int], before: tuple[int, int, int]) -> bool:
        rewritten = stamp[1] == before[1] and stamp[2] != before[2]
        skipped, self._skipped = self._skipped, False
        return skipped or rewritten or stamp[0] != before[0] or stamp[1] < self._position

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
        for position, line in whole_lines(self.path, self._position, pause_s=_PAUSE_S):
            if b'"run_resumed"' in line and isinstance(event := parse_event(line), RunResumed):
                found.append((event.offset, position))
        return found

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        for position, line in whole_lines(self.path, self._position, pause_s=_PAUSE_S):
            self._position = position + len(line)
            yield position, line
