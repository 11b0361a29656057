"""How much each axis of a sweep matters."""

from __future__ import annotations

import itertools

import pytest

from lmbench.jobs.sweeps.importance import Observation, levels_of, ped_anova


@pytest.mark.parametrize("missing", [None, "off"])
def test_levels_with_none_or_words_among_them_are_in_no_order(missing: str | None) -> None:
    """So that what each axis decides on does not depend on the order of its values."""
    found = []
    for values in ((missing, 5, 3, 8), (3, 5, 8, missing)):
        observations: list[Observation] = []
        for nonmono, lr in itertools.product(values, (1.0, 2.0, 4.0)):
            worse = {missing: 4.0, 3: 0.0, 5: 9.0, 8: 1.0}[nonmono]
            observations.append(({"nonmono": nonmono, "lr": lr}, 100 + worse + lr))
        found.append(ped_anova(["nonmono", "lr"], observations))
    assert found[0] == pytest.approx(found[1])


def test_numbers_are_ordered_by_size() -> None:
    assert levels_of("lr", [{"lr": 4}, {"lr": 1.5}, {"lr": 4}]) == [1.5, 4]
    assert levels_of("tied", [{"tied": True}, {"tied": False}]) == [True, False]
