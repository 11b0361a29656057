"""The choice of the next run: by itself on a simulated clock, and from a working folder."""

from __future__ import annotations

import heapq
import os
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lmbench.config import EvaluateConfig
from lmbench.jobs.next_run import Entry, FolderQueue, Queue
from lmbench.session import Home, Run
from lmbench.session.files import file_stamp

RUNS, PLACES = 10_000, 100


class Cluster:
    """Places that take runs from one queue, on a clock that jumps from end to end.

    A third of the runs train, a third prune one of these, a third quantize one of those. Some fail,
    some are lost with the machine that worked on them and resumed some time later.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.queue = Queue()
        self.now = 0.0
        self.free = PLACES
        self.events: list[tuple[float, str, str]] = []
        self.entries: dict[str, Entry] = {}
        self.children: dict[str, list[str]] = {}
        self.started: list[str] = []
        self.starts: dict[str, list[float]] = {}
        self.ready_since: dict[str, int] = {}
        self.waits: list[tuple[str, int, int]] = []
        self.attempts_lost = 0
        third = RUNS // 3
        for number in range(RUNS):
            parent = number - third
            awaits = f"r{self.random.randrange(parent + 1)}" if parent >= 0 else None
            self.put(f"r{number}", Entry("queued", float(number), "cpu", awaits))
            if awaits is not None:
                self.children.setdefault(awaits, []).append(f"r{number}")

    def put(self, name: str, entry: Entry) -> None:
        self.entries[name] = entry
        self.queue.put(name, entry)
        for each in (name, *self.children.get(name, ())):
            if self.could_begin(each):
                self.ready_since.setdefault(each, len(self.started))

    def could_begin(self, name: str) -> bool:
        entry = self.entries[name]
        parent = self.entries.get(entry.awaits or "")
        done = parent is None or parent.status in ("finished", "failed")
        return entry.status == "queued" and done

    def status(self, name: str, status: str) -> None:
        self.put(name, replace(self.entries[name], status=status))

    def fill(self) -> None:
        while self.free and (name := self.queue.next("cpu")) is not None:
            assert self.could_begin(name), f"{name} was begun as {self.entries[name]}"
            self.waits.append((name, self.ready_since.pop(name), len(self.started)))
            self.started.append(name)
            self.starts.setdefault(name, []).append(self.now)
            self.status(name, "running")
            self.free -= 1
            end = self.random.choices(("finished", "failed", "lost"), (90, 5, 5))[0]
            heapq.heappush(self.events, (self.now + self.random.expovariate(1 / 60), end, name))
        # Nothing that could begin waits beside a place that is free.
        assert not self.free or not self.ready_since

    def run(self) -> None:
        self.fill()
        while self.events:
            self.now, what, name = heapq.heappop(self.events)
            if what == "resume":
                self.status(name, "queued")
            else:
                self.free += 1
                self.status(name, what)
                if what == "lost":
                    self.attempts_lost += 1
                    back = self.now + self.random.expovariate(1 / 600)
                    heapq.heappush(self.events, (back, "resume", name))
            self.fill()


@pytest.mark.parametrize("seed", [1, 2])
def test_of_ten_thousand_runs_on_a_hundred_places_none_is_lost_started_twice_or_starved(
    seed: int,
) -> None:
    cluster = Cluster(seed)
    cluster.run()
    assert {entry.status for entry in cluster.entries.values()} == {"finished", "failed"}
    assert len(cluster.started) == RUNS + cluster.attempts_lost
    assert len(cluster.starts) == RUNS
    assert cluster.free == PLACES
    # None was passed over by a younger one while it could have begun.
    age = np.array([cluster.entries[name].created for name in cluster.started])
    for name, since, begun in cluster.waits:
        assert age[since : begun + 1].max() == cluster.entries[name].created


def test_a_run_that_is_passed_over_is_begun_no_more_and_still_waited_for() -> None:
    queue = Queue()
    queue.put("a", Entry("queued", 1.0, "cpu"))
    queue.put("b", Entry("queued", 2.0, "cpu", awaits="a"))
    queue.put("c", Entry("queued", 3.0, "cuda:0"))
    assert (queue.next("cpu"), queue.next("cuda:0")) == ("a", "c")
    queue.pass_over("a")
    queue.put("a", Entry("queued", 1.0, "cpu"))
    assert queue.next("cpu") is None
    queue.take_up("a")
    queue.put("a", Entry("queued", 1.0, "cpu"))
    assert queue.next("cpu") == "a"
    # What is gone is waited for no longer.
    queue.put("a", None)
    assert queue.next("cpu") == "b"


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    session = Home(tmp_path).open_session("s")
    return [session.new_run(EvaluateConfig(device="cpu"), "evaluate") for _ in range(5)]


def test_records_are_read_again_only_where_they_changed(
    runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if all was written long ago, for the clock of the file system.
    monkeypatch.setattr("lmbench.jobs.next_run._TICK_NS", -(10**15))
    read: list[Run] = []
    original = Run.read

    def counted(run: Run) -> object:
        read.append(run)
        return original(run)

    queue = FolderQueue(runs[0].home)
    queue.look()
    monkeypatch.setattr(Run, "read", counted)
    queue.look()
    assert read == []
    assert queue.next("cpu", {}) == runs[0]
    runs[0].transition("finished")
    runs[1].transition("stopped")
    (runs[2].path / "run.json").write_text("{")
    read.clear()
    queue.look()
    assert read == runs[:3]
    assert queue.next("cpu", {}) == runs[3]
    assert queue.next("cpu", {runs[3]: file_stamp(runs[3].path / "run.json")}) == runs[4]
    runs[1].transition("queued")
    (runs[4].path / "run.json").unlink()
    queue.look()
    assert queue.next("cpu", {}) == runs[1]


def test_what_was_written_a_moment_ago_is_read_once_more(runs: list[Run]) -> None:
    """Two writes within a tick of the clock leave the same time; here even the file is the same."""
    path = runs[0].path / "run.json"
    queue = FolderQueue(runs[0].home)
    moment = time.time_ns()
    stamp = (moment, moment)

    def write(status: str) -> None:
        with path.open("r+") as file:
            text = file.read().replace('"queued"', f'"{status}"').replace('"failed"', f'"{status}"')
            file.seek(0)
            file.write(text)
        os.utime(path, ns=stamp)

    write("queued")
    queue.look()
    assert queue.next("cpu", {}) == runs[0]
    write("failed")
    queue.look()
    assert queue.next("cpu", {}) == runs[1]
