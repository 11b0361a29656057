"""Successive halving: which settings of one class go on at each rung, from their figures alone.

At a rung the best 1/eta of the settings go on and the others stop (Jamieson and Talwalkar 2016,
arXiv 1502.07943). ASHA (Li et al. 2020, arXiv 1810.05934) promotes a setting at once where it is
among the best 1/eta of those seen so far, so that what it trains depends on which came first. The
settings of a sweep are all known before it starts. So one is promoted, or stopped, as soon as no
figure that is still to come can change that, and not before: the same settings go on whatever the
order, the deaths and the number of machines, and none in vain. What it costs is that a place may
wait, at the end of a rung, for the last of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Entrant", "Verdict", "rungs_of", "verdicts"]


@dataclass(frozen=True)
class Entrant:
    """A setting: its figure at each rung that it has reached (less is better), and whether it may
    yet reach another."""

    figures: Mapping[int, float]
    is_open: bool


@dataclass(frozen=True)
class Verdict:
    """What becomes of a setting at a rung.

    Attributes:
        number: of the rung, from 1.
        figure: its own; None of one that is certain to go on before it has any.
        goes_on: None where that is not known yet.
        to_beat: the figure that separates those that go on; None where it is not known yet.
        there: how many settings have a figure at this rung.
        expected: and how many may have one in the end.
    """

    number: int
    figure: float | None
    goes_on: bool | None
    to_beat: float | None
    there: int
    expected: int


def rungs_of(first: int, eta: int, after: int, epochs: int) -> list[int]:
    """The epochs after which there is a rung: `first` · eta^k beyond `after`, before the end."""
    found = []
    length = first
    while after + length < epochs:
        found.append(after + length)
        length *= eta
    return found


def verdicts(
    entrants: Sequence[Entrant], rungs: Sequence[int], eta: int
) -> list[dict[int, Verdict]]:
    """For each setting what becomes of it at each rung that it took part in.

    One that was stopped at a rung has no part in those after it, whoever let it go on.
    """
    found: list[dict[int, Verdict]] = [{} for _ in entrants]
    among = list(range(len(entrants)))
    for number, epochs in enumerate(rungs, 1):
        # Where two have the same figure, the earlier one of the sweep is the better one.
        there = sorted(
            (entrants[i].figures[epochs], i) for i in among if epochs in entrants[i].figures
        )
        missing = [i for i in among if epochs not in entrants[i].figures and entrants[i].is_open]
        most = len(there) + len(missing)
        room = max(1, most // eta)
        for better, (figure, i) in enumerate(there):
            # Of the missing ones all may be better, or all worse.
            goes_on = True if better + len(missing) < room else False if better >= room else None
            to_beat = there[room - 1][0] if room <= len(there) else None
            found[i][epochs] = Verdict(number, figure, goes_on, to_beat, len(there), most)
        if most <= room:
            for i in missing:
                found[i][epochs] = Verdict(number, None, True, None, len(there), most)
        stopped = {i for _, i in there if found[i][epochs].goes_on is False}
        among = sorted({i for _, i in there} - stopped | set(missing))
    return found
