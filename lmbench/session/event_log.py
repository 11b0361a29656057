"""The append-only log that holds a run's events: who writes it, and who keeps up with it.

The log only ever grows. When a run resumes from a checkpoint, what it had logged after that
checkpoint no longer counts: a `RunResumed` event names the offset from which earlier lines are
superseded, and `EventLog` leaves those out.
"""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path
from typing import BinaryIO

from lmbench.session.events import Event, RunResumed, event_line, parse_event
from lmbench.session.log_lines import whole_lines

__all__ = ["EventLog", "EventWriter", "ends_torn"]


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


class EventLog:
    """The events of a log that count, kept up to date by `poll`.

    `generation` rises whenever events that were already given out stopped counting (the run
    resumed from an earlier checkpoint, or the file was replaced): a consumer that keeps something
    derived starts over from `events` then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[Event] = []
        self.generation = 0
        self._offsets: list[int] = []
        self._position = 0
        self._inode = 0

    def poll(self) -> list[Event]:
        """Read what is new; gives the events added since the last call (see `generation`)."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            if self._position:
                self._restart()
            return []
        if self._position and (stat.st_size < self._position or stat.st_ino != self._inode):
            self._restart()
        self._inode = stat.st_ino
        given_out = len(self.events)
        for position, line in whole_lines(self.path, self._position):
            event = parse_event(line)
            if isinstance(event, RunResumed):
                given_out = self._supersede(event.offset, given_out)
            if event is not None:
                self.events.append(event)
                self._offsets.append(position)
            self._position = position + len(line)
        return self.events[given_out:]

    def end_of(self, *kinds: type[Event]) -> int:
        """The offset behind the last event of one of these kinds; 0 where there is none."""
        for number in reversed(range(len(self.events))):
            if isinstance(self.events[number], kinds):
                return [*self._offsets, self._position][number + 1]
        return 0

    def _restart(self) -> None:
        self.events.clear()
        self._offsets.clear()
        self._position = 0
        self.generation += 1

    def _supersede(self, offset: int, given_out: int) -> int:
        """Drop the events at or after `offset`; how many of those given out before still count."""
        keep = bisect_left(self._offsets, offset)
        del self.events[keep:]
        del self._offsets[keep:]
        if keep < given_out:
            self.generation += 1
        return min(keep, given_out)
