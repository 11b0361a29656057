"""The append-only log: torn lines, resumes, and readers that keep up."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmbench.session import EventWriter, read_events
from lmbench.session.event_log import EventReader
from lmbench.session.events import Event, RunResumed, Warned, event_line


def warning(number: int) -> Warned:
    return Warned(t=float(number), message=str(number))


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def messages(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Warned)]


def test_a_writer_ends_the_line_that_a_killed_one_tore_off(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append(path, event_line(warning(1)) + event_line(warning(2))[:-9])
    writer = EventWriter(path)
    writer.write(warning(3))
    writer.close()
    assert messages(read_events(path)) == ["1", "3"]


def test_a_writer_that_adds_nothing_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append(path, b'{"torn')
    EventWriter(path).close()
    assert path.read_bytes() == b'{"torn'


def test_an_event_after_a_full_disk_stands_on_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    writer = EventWriter(path)
    disk = writer._file

    class FullAfterSomeBytes:
        def write(self, data: bytes) -> int:
            disk.write(bytes(data[:10]))
            raise OSError(errno.ENOSPC, "No space left on device")

    writer._file = FullAfterSomeBytes()  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(OSError, match="No space"):
        writer.write(warning(1))
    writer._file = disk
    writer.write(warning(2))
    writer.close()
    assert messages(read_events(path)) == ["2"]


def test_a_line_is_read_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    line = event_line(warning(1))
    log = EventReader(path)
    assert list(log.read()) == []
    append(path, line[:7])
    assert list(log.read()) == []
    append(path, line[7:])
    assert messages(list(log.read())) == ["1"]
    assert list(log.read()) == []


def test_a_damaged_line_with_a_carriage_return_hides_nothing_after_it(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append(path, b"dam\raged\n" + event_line(warning(1)))
    assert messages(read_events(path)) == ["1"]


def test_a_log_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append(path, event_line(warning(1)))
    log = EventReader(path)
    list(log.read())
    other = tmp_path / "other"
    append(other, event_line(warning(2)) + event_line(warning(3)))
    other.replace(path)
    assert messages(list(log.read())) == ["2", "3"]
    assert log.generation == 1
    path.unlink()
    assert list(log.read()) == []
    assert log.generation == 2


def test_a_log_that_is_just_being_written_to_is_the_same_log(tmp_path: Path) -> None:
    """The system gives a file its new time before its new size."""
    path = tmp_path / "events.jsonl"
    append(path, event_line(warning(1)))
    log = EventReader(path)
    list(log.read())
    os.utime(path, ns=(1, 1))
    assert list(log.read()) == []
    append(path, event_line(warning(2)))
    assert messages(list(log.read())) == ["2"]
    assert log.generation == 0


def test_a_log_that_was_changed_in_place_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append(path, event_line(warning(1)) + event_line(warning(2)))
    log = EventReader(path)
    list(log.read())
    path.write_bytes(event_line(warning(1)) + event_line(warning(3)))
    os.utime(path, ns=(1, 1))
    assert messages(list(log.read())) == ["1", "3"]
    assert log.generation == 1


def test_after_a_resume_only_what_its_checkpoint_knew_counts(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    writer = EventWriter(path)
    log = EventReader(path)
    writer.write(warning(1))
    offset = writer.offset
    writer.write(warning(2))
    assert messages(list(log.read())) == ["1", "2"]
    writer.write(RunResumed(offset=offset, step=1, epoch=1))
    writer.write(warning(3))
    assert messages(list(log.read())) == messages(read_events(path)) == ["1", "3"]
    assert log.generation == 1
    writer.close()


def test_a_reader_tells_where_each_event_that_counts_ends(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    writer, length = EventWriter(path), len(event_line(warning(1)))
    for event in (warning(1), warning(2), RunResumed(offset=length, step=0, epoch=0)):
        writer.write(event)
    reader = EventReader(path)
    ends = [reader.position for event in reader.read() if isinstance(event, Warned)]
    assert ends == [length]
    writer.close()


# A log's life: "add" an event, or resume from the checkpoint after the n-th line written so far.
lives = st.lists(st.none() | st.integers(0, 30), max_size=25)


@given(lives, st.data())
def test_a_reader_that_looks_at_any_moments_ends_up_with_what_counts(
    life: list[int | None], data: st.DataObject
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        writer = EventWriter(path)
        offsets = [0]
        expected: list[tuple[int, Event]] = []
        for number, resume_after in enumerate(life):
            event: Event = warning(number)
            if resume_after is not None:
                offset = offsets[min(resume_after, len(offsets) - 1)]
                expected = [entry for entry in expected if entry[0] < offset]
                event = RunResumed(t=float(number), offset=offset, step=0, epoch=0)
            expected.append((writer.offset, event))
            writer.write(event)
            offsets.append(writer.offset)
        writer.close()
        whole = path.read_bytes()

        looked_at = Path(folder) / "copy.jsonl"
        log, kept, generation = EventReader(looked_at), list[Event](), 0
        ends = data.draw(st.lists(st.integers(0, len(whole)), max_size=6).map(sorted))
        for start, end in zip([0, *ends], [*ends, len(whole)], strict=True):
            append(looked_at, whole[start:end])
            new = list(log.read())
            kept = new if log.generation != generation else kept + new
            generation = log.generation
        assert kept == [event for _, event in expected]
        assert read_events(looked_at) == kept
