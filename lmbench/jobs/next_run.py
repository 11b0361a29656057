"""Which run begins next: the oldest that waits, and waits for no other. No torch here.

`Queue` decides, from what it was told of each run; `FolderQueue` tells it what the folders say, and
reads a record again only where its file has changed, so that a look at thousands of runs that wait
costs little more than a `stat` of each.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush

from lmbench.config import parse_config
from lmbench.errors import LmbenchError
from lmbench.jobs.queue import queue_device
from lmbench.session.files import file_stamp
from lmbench.session.store import Home, Run, RunRecord, Status

__all__ = ["Entry", "FolderQueue", "Queue", "entry_of"]

# A file that was written so shortly before it was read may be written again within one tick of the
# file system's clock, and look the same.
_TICK_NS = 100_000_000

Stamp = tuple[int, int, int]
"""What `file_stamp` tells a file's content by."""


@dataclass(frozen=True)
class Entry:
    """What matters of a run: `device` is None where another place than this machine begins it;
    `awaits` is the run that it starts from, if it is of a sweep and so begins only when that has
    finished, or failed for good."""

    status: Status
    created: float
    device: str | None
    awaits: str | None = None


class Queue:
    """The runs of a working folder by name, and which of those that wait for a device is next."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._passed_over: set[str] = set()
        self._children: defaultdict[str, set[str]] = defaultdict(set)
        # By device what could begin when it was last put in, the oldest first.
        self._heaps: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)

    def put(self, name: str, entry: Entry | None) -> None:
        """Take in how a run stands now; None where it is gone, or its record cannot be read."""
        if entry is None:
            self._entries.pop(name, None)
        else:
            self._entries[name] = entry
            if entry.awaits is not None:
                self._children[entry.awaits].add(name)
        for each in (name, *self._children.get(name, ())):
            known = self._entries.get(each)
            if known is not None and known.device is not None and self._can_begin(each):
                heappush(self._heaps[known.device], (known.created, each))

    def _can_begin(self, name: str) -> bool:
        entry = self._entries.get(name)
        if entry is None or entry.status != "queued" or name in self._passed_over:
            return False
        parent = self._entries.get(entry.awaits) if entry.awaits is not None else None
        # Behind a run that failed it begins, to say so and fail as well.
        return parent is None or parent.status in ("finished", "failed")

    def next(self, device: str) -> str | None:
        """The run to begin now on a device; it stays the next until it is put otherwise."""
        heap = self._heaps[device]
        while heap:
            created, name = heap[0]
            entry = self._entries.get(name)
            known = entry is not None and (entry.device, entry.created) == (device, created)
            if known and self._can_begin(name):
                return name
            heappop(heap)
        return None

    def pass_over(self, name: str) -> None:
        """Begin a run no more, until it is taken up again; what waits for it goes on waiting."""
        self._passed_over.add(name)

    def take_up(self, name: str) -> None:
        """Begin a run again from when it is put next."""
        self._passed_over.discard(name)


def entry_of(record: RunRecord) -> Entry:
    """What matters of a record. Settings that cannot be read fail at once, on any device."""
    try:
        device = queue_device(parse_config(record.kind, record.config))
    except LmbenchError:
        device = "cpu"
    if record.place != "local":
        device = None
    return Entry(record.status, record.created, device, record.parent if record.point else None)


class FolderQueue:
    """The queue of a working folder, which `look` brings up to date."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._queue = Queue()
        # By run.json's path: what told its content apart when it was read, and the run's name.
        self._stamps: dict[str, tuple[Stamp | None, str]] = {}
        self._runs: dict[str, Run] = {}

    def look(self) -> None:
        """Read what has changed since the last look."""
        seen = set()
        for run, path, stamp in self._files():
            seen.add(path)
            before = self._stamps.get(path)
            if before is not None and before[0] == stamp:
                continue
            name = run.ref
            record = run.read_if_readable()
            # Of a damaged one nothing is begun, and nothing waits for it.
            entry = entry_of(record) if record else None
            settled = time.time_ns() - stamp[2] > _TICK_NS
            self._stamps[path] = (stamp if settled else None, name)
            self._runs[name] = run
            self._queue.take_up(name)
            self._queue.put(name, entry)
        for path in self._stamps.keys() - seen:
            _, name = self._stamps.pop(path)
            del self._runs[name]
            self._queue.put(name, None)

    def _files(self) -> Iterator[tuple[Run, str, Stamp]]:
        for run in self._home.all_runs():
            path = f"{run.path}{os.sep}run.json"
            if (stamp := file_stamp(path)) is not None:
                yield run, path, stamp

    def next(self, device: str, hopeless: Mapping[Run, Stamp | None]) -> Run | None:
        """The run to begin now on a device; those that are `hopeless` are left out while their
        ``run.json`` is what it was: who resumes one writes it anew."""
        while (name := self._queue.next(device)) is not None:
            run = self._runs[name]
            if run not in hopeless or hopeless[run] != file_stamp(run.path / "run.json"):
                return run
            self._queue.pass_over(name)
        return None
