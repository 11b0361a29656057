"""How machines that train one model together find each other: by the folder of the run's attempt.

The first says there where it waits; each of the others takes a number by making a folder, which
one alone can do. No torch here.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lmbench.errors import LmbenchError
from lmbench.session.files import read_json, write_json

__all__ = [
    "Rendezvous",
    "announce",
    "give_number_back",
    "missing_nodes",
    "read_rendezvous",
    "take_number",
]

_FILE = "rendezvous.json"


@dataclass(frozen=True)
class Rendezvous:
    """Where the first machine waits (``HOST:PORT``), and whether the run goes on from ``last``."""

    endpoint: str
    resuming: bool


def announce(attempt: Path, rendezvous: Rendezvous) -> None:
    """Tell the other machines. Raises OSError where it cannot be written."""
    document = {"endpoint": rendezvous.endpoint, "resuming": rendezvous.resuming}
    write_json(attempt / _FILE, {"version": 1, **document})


def read_rendezvous(attempt: Path) -> Rendezvous | None:
    """What the first machine has told; None where it has not yet.

    Raises:
        LmbenchError: the file is damaged.
    """
    path = attempt / _FILE
    if not path.exists():
        return None
    document = read_json(path, version=1)
    endpoint, resuming = document.get("endpoint"), document.get("resuming")
    if not isinstance(endpoint, str) or not isinstance(resuming, bool):
        raise LmbenchError(f"{path}: needs the fields 'endpoint' and 'resuming'")
    return Rendezvous(endpoint, resuming)


def take_number(attempt: Path, nodes: int) -> int | None:
    """This machine's number among `nodes`, from 1 on; None where all are taken."""
    for number in range(1, nodes):
        try:
            _folder(attempt, number).mkdir()
        except FileExistsError:
            continue
        return number
    return None


def give_number_back(attempt: Path, number: int) -> None:
    """Let another machine have it, where the attempt is still there."""
    with suppress(OSError):
        _folder(attempt, number).rmdir()


def missing_nodes(attempt: Path, nodes: int) -> int:
    """How many of `nodes` machines, besides the first, have not taken a number yet."""
    return sum(not _folder(attempt, number).is_dir() for number in range(1, nodes))


def _folder(attempt: Path, number: int) -> Path:
    return attempt / f"node-{number}"
