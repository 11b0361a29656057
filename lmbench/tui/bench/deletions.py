"""What was deleted while the workbench is open, and can be put back until it is left; and what is
said of other runs before that."""

from __future__ import annotations

from pathlib import Path

from lmbench.session.manage import Deletion

__all__ = ["Deletions", "named", "what_becomes_of_queued"]

# So many runs are told by their names.
_MOST_NAMED = 6


class Deletions:
    """The newest is put back first."""

    def __init__(self) -> None:
        self._open: list[tuple[str, Deletion]] = []

    @property
    def newest(self) -> str:
        """What `undo` would put back; "" for nothing."""
        return self._open[-1][0] if self._open else ""

    def add(self, name: str, deletion: Deletion) -> None:
        self._open.append((name, deletion))

    def undo(self) -> tuple[str, Path]:
        """Put the newest back, and give what it is called and its folder.

        Raises:
            LmbenchError: its name was taken meanwhile (then it stays the newest), or it is gone.
        """
        name, deletion = newest = self._open[-1]
        try:
            deletion.undo()
        finally:
            if not deletion.is_open:
                self._open.remove(newest)
        return name, deletion.folder

    def moved(self, old: Path, new: Path) -> None:
        """A session has another folder, with what was deleted in it."""
        for _, deletion in self._open:
            deletion.moved(old, new)

    def finish(self) -> None:
        """Remove all of it for good."""
        while self._open:
            self._open.pop()[1].finish()


def what_becomes_of_queued(waiting: list[str], it: str) -> str:
    """What becomes of queued runs that need `it`, as the end of a question; "" for none."""
    needs = "needs" if len(waiting) == 1 else "need"
    return f"\n{named(waiting)} in the queue {needs} {it} and will fail." if waiting else ""


def named(names: list[str]) -> str:
    """The names as a list in words, of more than `_MOST_NAMED` the first ones."""
    shown = names if len(names) <= _MOST_NAMED else [*names[: _MOST_NAMED - 1], "others"]
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))
