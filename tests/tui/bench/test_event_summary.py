"""A finished run's events are read once: their summary beside the log gives the same view."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
from workbench_world import STARTED, looked, step

from lmbench.session import EventWriter, Run, Session
from lmbench.session import events as ev
from lmbench.session.event_log import EventReader
from lmbench.tui.bench import event_summary, session_watcher
from lmbench.tui.bench.session_watcher import Watcher
from lmbench.tui.bench.snapshots import RunView

NAME = ".events-summary.npz"


@pytest.fixture(autouse=True)
def summaries_of_small_logs(monkeypatch):
    monkeypatch.setattr(event_summary, "_WORTH_BYTES", 0)


def read_all(session: Session) -> dict[str, RunView]:
    return dict(looked(Watcher(session)).by_key)


@pytest.fixture
def ended(full) -> Run:
    """A pruning with every curve, finished."""
    run = full.session.run(2)
    run.update(status="finished")
    return run


def parsed_lines(monkeypatch) -> list[int]:
    """Counts the lines that are parsed from now on, in its one element."""
    count = [0]
    read = EventReader.read

    def counted(self, deadline):
        for event in read(self, deadline):
            count[0] += 1
            yield event

    monkeypatch.setattr(EventReader, "read", counted)
    return count


def test_a_summary_gives_the_view_that_the_log_gives(full, ended, monkeypatch):
    first = read_all(full.session)[ended.path.name]
    assert (ended.path / NAME).is_file()
    count = parsed_lines(monkeypatch)
    second = read_all(full.session)[ended.path.name]
    assert count == [0]
    for name in ("steps", "valid", "prunes", "lr_drops"):
        before, now = getattr(first.curves, name), getattr(second.curves, name)
        assert before.names == now.names
        assert np.array_equal(before.data, now.data, equal_nan=True)
    for name in ("sparsity", "targets"):
        before, now = getattr(first.curves, name), getattr(second.curves, name)
        assert list(before) == list(now)
        assert all(np.array_equal(before[key].data, now[key].data) for key in before)
    same = {f.name for f in dataclasses.fields(RunView)} - {"curves", "run"}
    assert {n: getattr(first, n) for n in same} == {n: getattr(second, n) for n in same}


def test_a_live_run_has_no_summary(full):
    read_all(full.session)
    assert not (full.session.run(2).path / NAME).exists()


def test_a_log_that_changed_is_read_again(full, ended):
    read_all(full.session)
    EventWriter(ended.events_path).write(ev.Warned(message="one more"))
    assert read_all(full.session)[ended.path.name].notes[-1].text == "one more"


def test_a_summary_is_dropped_when_its_log_changes_meanwhile(full, ended):
    read_all(full.session)
    watcher = Watcher(full.session)
    watcher.poll()
    EventWriter(ended.events_path).write(ev.Warned(message="one more"))
    snapshot = looked(watcher)
    view = snapshot.by_key[ended.path.name]
    assert view.notes[-1].text == "one more"
    assert len(view.curves.steps) == 366


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 torn", b"x" * 100])
def test_a_damaged_summary_is_passed_over(full, ended, data):
    read_all(full.session)
    (ended.path / NAME).write_bytes(data)
    assert len(read_all(full.session)[ended.path.name].curves.steps) == 366


def test_a_summary_of_another_version_is_passed_over(full, ended, monkeypatch):
    read_all(full.session)
    monkeypatch.setattr(event_summary, "_VERSION", 99)
    count = parsed_lines(monkeypatch)
    read_all(full.session)
    assert count[0] > 0


def test_a_log_damaged_in_place_is_noticed(full, ended):
    read_all(full.session)
    watcher = Watcher(full.session)
    watcher.poll()
    with ended.events_path.open("r+b") as file:
        file.write(b"\x00" * 20)
    os.utime(ended.events_path, ns=(1, 1))
    snapshot = looked(watcher)
    assert "1 line" in snapshot.by_key[ended.path.name].problem


def test_a_folder_that_cannot_be_written_has_no_summary(full, ended, monkeypatch):
    def refuse(path, data):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(event_summary, "write_atomic", refuse)
    assert len(read_all(full.session)[ended.path.name].curves.steps) == 366
    assert not (ended.path / NAME).exists()


def test_of_many_runs_the_chosen_and_the_newest_are_shown_first(full, monkeypatch):
    monkeypatch.setattr(session_watcher, "_FIRST_SLICE_S", -1.0)
    watcher = Watcher(full.session, first=("001-train",))
    shown = []
    while not shown or watcher.unread:
        snapshot = watcher.poll()
        assert snapshot is not None
        assert snapshot.unread == 4 - len(snapshot.runs)
        shown.append({view.id for view in snapshot.runs})
    assert shown == [{1}, {1, 4}, {1, 3, 4}, {1, 2, 3, 4}]


def test_a_long_log_is_shown_as_far_as_it_was_read(full, ended, monkeypatch):
    monkeypatch.setattr(session_watcher, "_FIRST_SLICE_S", -1.0)
    with ended.events_path.open("ab") as log:
        log.writelines(ended.events_path.read_bytes().splitlines(keepends=True) * 20)
    watcher = Watcher(full.session)
    shares, steps = [], []
    while not shares or watcher.unread:
        snapshot = watcher.poll()
        assert snapshot is not None
        if view := snapshot.run(ended.path.name):
            shares.append(view.read)
            steps.append(len(view.curves.steps))
            assert (ended.path / NAME).exists() == (view.read == 1)
    assert steps == sorted(steps)
    assert 0 < steps[0] < steps[-1]
    assert 0 < shares[0] < shares[-1] == 1
    assert watcher.poll() is None
    assert (ended.path / NAME).exists()


def test_a_summary_with_any_byte_damaged_is_no_more_than_ignored(world):
    run = world.new("train", "short", status="finished")
    world.write(run, STARTED, *(step(number) for number in range(1, 20)))
    whole = read_all(world.session)[run.path.name]
    path = run.path / NAME
    data = path.read_bytes()
    # The first member's headers: zip's, then numpy's.
    for place in range(160):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        view = read_all(world.session)[run.path.name]
        assert np.array_equal(view.curves.steps.data, whole.curves.steps.data, equal_nan=True)
