"""Whether a folder keeps what runs rely on, and whether other machines can see it.

Between machines: a rename is atomic, a name that was renamed away is gone for all, and what one
has written and closed another sees when it opens it (close-to-open, as NFS promises). No locks and
no shared memory are needed.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from lmbench.session.files import write_atomic
from lmbench.session.leftovers import without_name

__all__ = ["file_system", "is_shared", "problem_with", "unseen_from"]

_SHARED = frozenset(
    [
        *("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cephfs", "afs", "cifs", "smb3"),
        *("9p", "virtiofs", "panfs", "wekafs", "orangefs", "glusterfs", "juicefs"),
    ]
)
_TRIAL_S = 30.0


def file_system(folder: Path) -> str:
    """The type of file system that holds a folder (``ext4``, ``nfs4``); "" where it is not known.
    The folder need not be there yet."""
    mounts = {Path(m.mountpoint): m.fstype for m in psutil.disk_partitions(all=True)}
    place = folder.resolve()
    return next((mounts[path] for path in (place, *place.parents) if path in mounts), "")


def is_shared(system: str) -> bool:
    """Can other machines see what is on such a file system?"""
    return system.removeprefix("fuse.") in _SHARED


def unseen_from(folder: Path, machines: Sequence[str]) -> str | None:
    """Why machines of these host names cannot see a working folder of this one, in a line; None
    where they probably can."""
    own = platform.node()
    others = sorted({name for name in machines if name.split(".")[0] != own.split(".")[0]})
    system = file_system(folder)
    if not others or is_shared(system):
        return None
    return (
        f"{folder} is on a file system of this machine alone ({system or 'unknown'}), which "
        f"{others[0]} and the other nodes cannot see: name a shared folder by LMBENCH_HOME"
    )


def problem_with(folder: Path) -> str | None:
    """Try renames and closing and opening in a folder; what does not hold there, or None. The
    other process of the trial is one of this machine: between machines nothing can be tried here.

    Raises:
        OSError: the folder cannot be written to.
    """
    # A name that is swept where a death leaves it (`lmbench.session.leftovers`).
    trial = folder / without_name("new")
    trial.mkdir()
    try:
        return _rename_problem(trial) or _close_to_open_problem(trial)
    finally:
        shutil.rmtree(trial, ignore_errors=True)


def _rename_problem(trial: Path) -> str | None:
    target, attempt = trial / "target", trial / "attempt"
    attempt.mkdir()
    try:
        attempt.mkdir()
        return "the same folder can be made twice"
    except FileExistsError:
        pass
    for data in (b"old", b"new"):
        write_atomic(target, data, attempt)
        if target.read_bytes() != data:
            return "a renamed file does not show its new content"
    late = attempt / "late"
    late.write_bytes(b"late")
    attempt.rename(trial / "fenced")
    try:
        late.replace(target)
        return "a file can be renamed out of a folder that is no longer there"
    except FileNotFoundError:
        return None


def _close_to_open_problem(trial: Path) -> str | None:
    path = trial / "written"
    path.write_bytes(b"by this process")
    code = (
        "import pathlib, sys; file = pathlib.Path(sys.argv[1]); "
        "seen = file.read_bytes(); file.write_bytes(seen[::-1])"
    )
    command = [sys.executable, "-I", "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=_TRIAL_S)
    if done.returncode != 0 or path.read_bytes() != b"by this process"[::-1]:
        return "what one process has written and closed another does not see when it opens it"
    return None
