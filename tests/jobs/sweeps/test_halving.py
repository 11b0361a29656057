"""Which settings go on at a rung, whatever the order in which they come to it."""

from __future__ import annotations

import random

import pytest

from lmbench.jobs.sweeps.halving import Entrant, rungs_of, verdicts


@pytest.mark.parametrize(
    "first, eta, after, epochs, rungs",
    [
        (2, 3, 0, 40, [2, 6, 18]),
        (2, 3, 5, 12, [7, 11]),
        (2, 3, 5, 6, []),
        (3, 2, 0, 12, [3, 6]),
        # A rung at the very end would end nothing early.
        (2, 3, 0, 6, [2]),
    ],
)
def test_rungs_lie_behind_the_ramp_and_before_the_end(
    first: int, eta: int, after: int, epochs: int, rungs: list[int]
) -> None:
    assert rungs_of(first, eta, after, epochs) == rungs


def test_one_of_three_goes_on_and_the_others_are_told_what_they_had_to_beat() -> None:
    figures = [90.0, 80.0, 85.0]
    found = verdicts([Entrant({2: figure}, True) for figure in figures], [2], 3)
    assert [verdict[2].goes_on for verdict in found] == [False, True, False]
    assert {verdict[2].to_beat for verdict in found} == {80.0}
    assert (found[0][2].number, found[0][2].figure) == (1, 90.0)


def test_a_setting_waits_only_while_it_is_not_certain_what_becomes_of_it() -> None:
    """Of six with eta 3 two go on."""
    waiting = Entrant({}, True)
    found = verdicts([Entrant({2: f}, True) for f in (80, 81, 82)] + [waiting] * 3, [2], 3)
    # The third is beaten by two already; the three that are missing may yet beat the others.
    assert [v[2].goes_on for v in found[:3]] == [None, None, False]
    found = verdicts([Entrant({2: f}, True) for f in (80, 81, 82, 83, 84)] + [waiting], [2], 3)
    assert [v[2].goes_on for v in found[:5]] == [True, None, False, False, False]
    # What failed before the rung is waited for no longer, and makes room for none.
    failed = Entrant({}, False)
    found = verdicts([Entrant({2: f}, True) for f in (80, 81, 82)] + [failed] * 3, [2], 3)
    assert [v[2].goes_on for v in found[:3]] == [True, False, False]


def test_where_there_is_room_for_all_none_waits_for_another() -> None:
    """Of two that are left of six, the rung after it takes none away before the second is there."""
    entrants = [Entrant({2: float(f)}, f < 82) for f in (80, 82, 83)]
    (first, *_) = verdicts(entrants, [2, 6], 3)
    assert first[6].goes_on is True


def test_who_was_let_go_on_all_the_same_changes_nothing_for_the_others() -> None:
    entrants = [Entrant({2: 80.0, 6: 70.0}, True), Entrant({2: 81.0, 6: 10.0}, False)]
    first, second = verdicts(entrants, [2, 6], 3)
    assert first[6].goes_on is True
    assert 6 not in second


def _survivors(curves: list[list[float]], rungs: list[int], order: random.Random) -> set[int]:
    """Run a race on some places: trainings move on rung by rung in any order."""
    figures: list[dict[int, float]] = [{} for _ in curves]
    open_ = set(range(len(curves)))
    while True:
        entrants = [Entrant(f, i in open_) for i, f in enumerate(figures)]
        found = verdicts(entrants, rungs, 3)
        able = []
        for i in sorted(open_):
            reached = len(figures[i])
            verdict = found[i][rungs[reached - 1]].goes_on if reached else True
            if verdict is False:
                open_.discard(i)
            elif verdict and reached < len(rungs):
                able.append(i)
        if not able:
            assert all(found[i][rungs[-1]].goes_on for i in open_), "a race that stands still"
            return open_
        i = order.choice(able)
        figures[i] = {**figures[i], rungs[len(figures[i])]: curves[i][len(figures[i])]}


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9, 20, 40])
def test_the_order_in_which_settings_come_changes_nothing(count: int) -> None:
    rungs, generator = [2, 6, 18], random.Random(count)
    # Few different figures, so that some are equal.
    curves = [[float(generator.randrange(8)) for _ in rungs] for _ in range(count)]
    found = [_survivors(curves, rungs, random.Random(seed)) for seed in range(20)]
    assert all(one == found[0] for one in found)
    expected = list(range(count))
    for place in range(len(rungs)):
        expected.sort(key=lambda i: (curves[i][place], i))
        expected = expected[: max(1, len(expected) // 3)]
    assert found[0] == set(expected)
