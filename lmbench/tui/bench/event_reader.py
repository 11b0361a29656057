"""Following an ``events.jsonl`` without keeping what it said.

`EventLog` keeps every event, which is right for reports; a workbench that stays open for days
must not grow by them. `Tail` hands each event on once and forgets it. When a run resumes from an
earlier checkpoint the tail starts over and leaves out what no longer counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lmbench.session.events import Event, RunResumed, parse_event
from lmbench.session.log_lines import whole_lines

__all__ = ["Tail"]

# Python hands the interpreter from thread to thread at its own pace; a pause between slices lets
# the screen's thread in at once.
_PAUSE_S = 0.0005


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
        for position, line in whole_lines(self.path, self._position, pause_s=_PAUSE_S):
            if b'"run_resumed"' in line and isinstance(event := parse_event(line), RunResumed):
                found.append((event.offset, position))
        return found

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        for position, line in whole_lines(self.path, self._position, pause_s=_PAUSE_S):
            self._position = position + len(line)
            yield position, line
