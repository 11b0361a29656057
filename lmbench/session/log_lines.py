"""Reading a file that another process appends lines to: whole lines from an offset, or the last."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LogPart", "last_lines", "lines_of", "read_log", "whole_blocks", "whole_lines"]

_SLICE_BYTES = 64 * 1024
_TAIL_BYTES = 16 * 1024


def whole_blocks(
    path: Path, position: int, *, size: int = _SLICE_BYTES, pause_s: float = 0.0
) -> Iterator[tuple[int, bytes]]:
    """The whole lines from `position` on, some `size` bytes at a time, each time with the first
    one's offset.

    What follows the last end of line is torn, or still being written: it is left for later. A file
    that is not there has no lines.

    Args:
        pause_s: slept after each part of a long file, which lets other threads in at once.
    """
    try:
        file = path.open("rb")
    except OSError:
        return
    with file:
        file.seek(position)
        begun: list[bytes] = []
        while data := file.read(size):
            lines, end, rest = data.rpartition(b"\n")
            if end:
                block = b"".join([*begun, lines, end])
                yield position, block
                position += len(block)
                begun.clear()
            begun.append(rest)
            if pause_s and len(data) == size:
                time.sleep(pause_s)


def whole_lines(path: Path, position: int) -> Iterator[tuple[int, bytes]]:
    """The same lines one by one, each with its offset and its end."""
    for start, block in whole_blocks(path, position):
        yield from lines_of(block, start)


def lines_of(block: bytes, position: int) -> Iterator[tuple[int, bytes]]:
    """The lines of a block, each with its offset in the file and its end."""
    for line in block[:-1].split(b"\n"):
        yield position, line + b"\n"
        position += len(line) + 1


def last_lines(path: Path, most: int = _TAIL_BYTES) -> list[bytes]:
    """The lines in the last `most` bytes, without their ends; the first and last may be torn."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - most))
            return file.read().split(b"\n")
    except OSError:
        return []


@dataclass(frozen=True)
class LogPart:
    """Whole lines of a worker's log, the offset where they end, and whether earlier ones no longer
    count."""

    lines: tuple[str, ...]
    position: int
    anew: bool = False


def read_log(path: Path, position: int, most: int = _SLICE_BYTES) -> LogPart:
    """The lines that a log got since `position`; of many only the last `most` bytes."""
    try:
        size = path.stat().st_size
    except OSError:
        return LogPart((), 0, anew=position > 0)
    anew = size < position
    start = 0 if anew else position
    begin = max(start, size - most)
    found = list(whole_lines(path, begin))
    end = found[-1][0] + len(found[-1][1]) if found else start
    lines = (line[:-1] for at, line in found if at > begin or begin == start)
    return LogPart(tuple(line.decode("utf-8", "replace") for line in lines), end, anew)
