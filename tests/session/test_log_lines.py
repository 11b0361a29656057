"""Reading what another process appends to a file."""

from __future__ import annotations

from pathlib import Path

from lmbench.session.log_lines import LogPart, last_lines, read_log, whole_lines


def test_a_log_is_read_from_where_it_was_left_and_anew_when_it_is_another(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    assert read_log(path, 0) == LogPart((), 0)
    path.write_text("one\ntwo\nthr")
    assert read_log(path, 0) == LogPart(("one", "two"), 8)
    path.write_text("one\ntwo\nthree\n")
    assert read_log(path, 8) == LogPart(("three",), 14)
    assert read_log(path, 14) == LogPart((), 14)
    path.write_text("four\n")
    assert read_log(path, 14) == LogPart(("four",), 5, anew=True)
    path.unlink()
    assert read_log(path, 5) == LogPart((), 0, anew=True)


def test_only_a_line_feed_ends_a_line_of_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes("a\x85b\u2028c\n10%\r20%\n".encode())
    assert read_log(path, 0).lines == ("a\x85b\u2028c", "10%\r20%")


def test_of_a_long_log_the_last_whole_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("".join(f"line {number}\n" for number in range(1000)))
    part = read_log(path, 0, most=20)
    assert part.lines == ("line 998", "line 999")
    assert part.position == path.stat().st_size


def test_lines_of_many_slices_come_whole_with_their_offsets(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("".join(f"{number:09d}\n" for number in range(20_000)) + "torn")
    assert list(whole_lines(path, 0)) == [(10 * n, b"%09d\n" % n) for n in range(20_000)]
    assert list(whole_lines(tmp_path / "none", 0)) == []


def test_the_last_lines_hold_one_that_was_not_ended(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("one\ntwo\nthr")
    assert last_lines(path)[-2:] == [b"two", b"thr"]
    assert last_lines(path, most=5) == [b"o", b"thr"]
