"""Where runs are worked on: this machine's queue, or the machines of a cluster. No torch here."""

from __future__ import annotations

from lmbench.errors import LmbenchError
from lmbench.jobs.places.interface import Place
from lmbench.jobs.places.local import Local
from lmbench.jobs.places.ray import Ray
from lmbench.jobs.places.slurm import Slurm
from lmbench.session.store import Home

__all__ = ["PLACES", "Place", "check_place", "place_named"]

PLACES: dict[str, Place] = {place.name: place for place in (Local(), Slurm(), Ray())}


def place_named(name: str) -> Place:
    """Raises LmbenchError where there is none of that name."""
    try:
        return PLACES[name]
    except KeyError:
        raise LmbenchError(
            f"there is no place {name!r} to work on runs; there are {', '.join(PLACES)}"
        ) from None


def check_place(name: str, home: Home) -> None:
    """Raises LmbenchError where runs cannot be sent to that place from here; says why."""
    refusal = place_named(name).refusal(home)
    if refusal is not None:
        raise LmbenchError(f"--place {name}: {refusal}")
