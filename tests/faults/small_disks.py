"""Trains on a disk that fills up, and in a folder that becomes read-only.

``python tests/faults/small_disks.py`` leaves a training from nothing to all the room that it needs
(a tmpfs, which takes the right to mount), and then takes the permission to write into its folder
away before each change that it makes to the disk. ``--points 3`` does as few of each. Each run has
to say in one line what is wrong and what to do, and to end equal, bit for bit, to one that nobody
disturbed, when it is resumed with room and permission.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from forks import end
from kills import FaultError, at_changes, begin, check, compare, need, old, resume, undisturbed
from small_runs import SMALL, make_home, new_run

from lmbench.errors import ERROR, LmbenchError
from lmbench.jobs.supervisor import Supervisor
from lmbench.session import Home, Run

DISK_BYTES = 16 << 20
FOR_WORDS = 128 << 10
"""With less room from the beginning, none can be held back for what is to be said at the end."""
OFTEN = SMALL | {"checkpoint_every": 0.0, "event_interval": 1}


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Raises CalledProcessError where mounting is not allowed."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def obey_permissions() -> None:
    """Give up the superuser's right to pass over permissions."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0))
    data = ctypes.create_string_buffer(24)
    need(libc.capget(header, data) == 0, "capget")
    low, *rest = struct.unpack("=6I", data.raw)
    # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, of those that hold now.
    struct.pack_into("=6I", data, 0, low & ~0b110, *rest)
    need(libc.capset(header, data) == 0, "capset")


class Witness(Supervisor):
    """A supervisor of a worker that has ended."""

    def __init__(self, run: Run, pid: int, code: int) -> None:
        super().__init__(run, "cpu")
        self._ended = pid, code

    def _run_worker(self, run: Run) -> tuple[int, int]:
        return self._ended

    def conclude(self, run: Run) -> int:
        self._work(run)
        return 0


def worked(run: Run, first: Callable[[], object] = lambda: None) -> int:
    """Let a worker work, and its supervisor write what it saw; its exit code."""
    pid = begin(run, first)
    code = end(pid)
    end(begin(run, first, Witness(run, pid, code).conclude))
    return code


def room(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def said(run: Run, code: int) -> list[str]:
    """The lines in which a run that failed says why."""
    written = run.log_path.read_text()
    need("Traceback" not in written, f"a traceback: {written}")
    need(code in (0, 1), f"exit code {code}: {written}")
    return [line for line in written.splitlines() if line.startswith(ERROR)]


def finish(run: Run, whole: Run) -> None:
    old(run.home.sessions_path)
    if run.status() != "finished":
        code = end(resume(run))
        need(code == 0, f"exit code {code} when resumed: {run.log_path.read_text()}")
    compare(run, whole)


def with_room_for(size: int, home: Home, whole: Run) -> bool:
    """Whether the run failed."""
    run = new_run(home, "train", **OFTEN)
    filling = home.path / "filling"
    with filling.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, room(home.path) - size))
    code = worked(run)
    failed, lines = run.status() != "finished", said(run, code)
    if failed and size >= FOR_WORDS:
        need(len(lines) == 1, f"with {size} bytes: {run.log_path.read_text()}")
        need("No space left on device; make room on that disk and resume the run" in lines[0], "")
        need(run.read().reason in lines[0], f"{run.read().reason}, but {lines[0]}")
        need(run.read().status == "failed", f"{run.status()}")
    filling.unlink()
    check(run, len(run.session.runs()), -1, failed=True)
    finish(run, whole)
    return failed


def read_only_from(change: int, home: Home, whole: Run) -> bool:
    """Whether the run failed."""
    run = new_run(home, "train", **OFTEN)

    def act(number: int) -> None:
        if number == change:
            run.path.chmod(0o555)

    def first() -> None:
        obey_permissions()
        at_changes(act)

    code = worked(run, first)
    failed, lines = run.status() != "finished", said(run, code)
    run.path.chmod(0o755)
    if failed:
        need(len(lines) == 1, f"from change {change}: {run.log_path.read_text()}")
        need("Permission denied; see that you may read and write there" in lines[0], lines[0])
    check(run, len(run.session.runs()), -1, failed=True)
    finish(run, whole)
    return failed


def spread(last: int, points: int) -> range:
    return range(0, last, max(1, last // points))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--points", type=int, default=60, help="of each of the two")
    arguments = parser.parse_args()
    faults = 0
    with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder)):
        os.environ |= {"LMBENCH_HOME": folder, "LMBENCH_CACHE": folder, "LMBENCH_NATIVE": "0"}
        os.chdir(folder)
        home = make_home(Path(folder))
        whole, _, changes = undisturbed(home, partial(new_run, home, "train", **OFTEN))
        # With as much again for the checkpoint that takes the place of the one before.
        needed = 2 * sum(p.stat().st_size for p in whole.path.rglob("*")) + FOR_WORDS
        for name, one, last in (
            ("bytes of room", with_room_for, needed),
            ("changes before the folder is read-only", read_only_from, changes),
        ):
            failed = 0
            points = spread(last, arguments.points)
            for point in points:
                try:
                    failed += one(point, home, whole)
                except (FaultError, LmbenchError, OSError) as error:
                    print(f"fault: {point} {name}: {error}", file=sys.stderr, flush=True)
                    faults += 1
                for run in home.session("s").runs():
                    if run.path != whole.path:
                        run.path.chmod(0o755)
                        subprocess.run(["rm", "-rf", str(run.path)], check=True)
                (home.path / "filling").unlink(missing_ok=True)
            print(f"{len(points)} runs with up to {last:,} {name}, {failed} failed", flush=True)
            need(failed, "none failed")
        os.chdir("/")
    print(f"found: {faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
