"""Reads damaged files by every reader and counts what goes wrong.

``python tests/faults/fuzz.py --inputs 20000 --seed 7`` prints a line for each reader. An input that
a reader neither reads nor refuses in words is kept below ``--keep`` for a test.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).parent))

from readers import READERS, REFUSALS, Reader, make_home

from lmbench.session import Home

LONGEST_S = 20
"""Of the processor: how long a busy machine lets a reader wait says nothing."""
LONGEST_WAIT_S = 300
MOST_BYTES = 1 << 30


class SlowError(Exception):
    """A reader computed for longer than `LONGEST_S`, or waited for longer than `LONGEST_WAIT_S`."""


@dataclass
class Count:
    """What became of the inputs of one reader."""

    inputs: int = 0
    read: int = 0
    refused: int = 0
    faults: list[tuple[bytes, str]] = field(default_factory=list)
    """The inputs that were neither read nor refused, each with the traceback."""


def _too_slow(_signal: int, _frame: FrameType | None) -> None:
    raise SlowError(f"not read within {LONGEST_S} s")


def read_damaged(reader: Reader, home: Home, data: bytes) -> bool:
    """Put `data` in the place of the reader's file and read it; False where it is refused.

    Raises:
        Exception: whatever a user would see as a traceback; `SlowError`; MemoryError where more
            than `MOST_BYTES` were taken.
    """
    path = home.path / reader.file
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for timer, alarm, limit in (
        (signal.ITIMER_PROF, signal.SIGPROF, LONGEST_S),
        (signal.ITIMER_REAL, signal.SIGALRM, LONGEST_WAIT_S),
    ):
        signal.signal(alarm, _too_slow)
        signal.setitimer(timer, limit)
    try:
        reader.read(home, path)
    except REFUSALS:
        return False
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    taken = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    if taken > MOST_BYTES:
        raise MemoryError(f"{taken:,} bytes were taken")
    return True


def fuzz(name: str, home: Home, seed: int, inputs: int) -> Count:
    """Damage the file of a reader `inputs` times; it is whole again afterwards."""
    reader, count = READERS[name], Count()
    path = home.path / reader.file
    whole = path.read_bytes()
    try:
        for number in range(inputs):
            generator = random.Random(f"{name} {seed} {number}")
            data = reader.damage(generator, whole)
            count.inputs += 1
            try:
                read = read_damaged(reader, home, data)
            except Exception:
                count.faults.append((data, traceback.format_exc()))
            else:
                count.read += read
                count.refused += not read
            shutil.rmtree(home.sessions_path / "unpacked", ignore_errors=True)
    finally:
        path.write_bytes(whole)
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--inputs", type=int, default=20_000, help="over all readers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reader", choices=list(READERS), action="append")
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that went wrong")
    arguments = parser.parse_args()
    names = arguments.reader or list(READERS)
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LMBENCH_HOME"] = os.environ["LMBENCH_CACHE"] = folder
        home = make_home(Path(folder))
        for name in names:
            count = fuzz(name, home, arguments.seed, arguments.inputs // len(names))
            faults += len(count.faults)
            print(
                f"{name:<26} {count.inputs:>6} inputs: {count.read:>6} read, "
                f"{count.refused:>6} refused, {len(count.faults):>4} faults",
                flush=True,
            )
            for number, (data, what) in enumerate(count.faults):
                if number < 3:
                    print(what, file=sys.stderr)
                if arguments.keep:
                    arguments.keep.mkdir(parents=True, exist_ok=True)
                    (arguments.keep / f"{name.replace(' ', '-')}-{number}").write_bytes(data)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"seed {arguments.seed}: {faults} faults; at most {peak:,.0f} MiB of memory")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
