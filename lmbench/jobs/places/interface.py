"""What a place has to do. A run's folder says all else, wherever it is worked on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from lmbench.session.store import Home, Run

__all__ = ["Place"]


class Place(ABC):
    """Where runs are worked on.

    Attributes:
        name: as ``--place`` and ``run.json`` have it.
        look_s: seconds between two looks at a run that is worked on there.
    """

    name: ClassVar[str]
    look_s: ClassVar[float]

    @abstractmethod
    def refusal(self, home: Home) -> str | None:
        """Why the runs of a working folder cannot be sent there from here, in a line; None where
        they can."""

    @abstractmethod
    def submit(self, runs: Sequence[Run], *, queue: bool = True) -> None:
        """Have ``queued`` runs worked on by processes that outlive this one; those that were
        submitted before are left alone. A run begins when the one that it starts from has ended.

        Args:
            queue: wait for what others have in use, where the place leaves that to us.

        Raises:
            LmbenchError: they cannot be submitted.
        """

    @abstractmethod
    def poll(self, runs: Sequence[Run]) -> None:
        """Put an end to those ``queued`` runs that will not begin any more, with the reason."""

    @abstractmethod
    def stop(self, run: Run) -> None:
        """Take back a submitted run, at once, with the process that works on it, if there is one.

        Raises:
            LmbenchError: it cannot be reached from here.
        """

    @abstractmethod
    def describe(self) -> str:
        """What there is, in a line, where `refusal` has nothing against it."""
