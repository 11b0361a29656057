"""Figures and their nouns in tables and sentences."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import pytest

from lmbench.report import numbers

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("number, shown", [(0, "0 runs"), (1, "1 run"), (1200, "1,200 runs")])
def test_one_is_not_many(number, shown):
    assert numbers.plural(number, "run") == shown


@pytest.mark.parametrize(
    "count, shown",
    [(None, ""), (0, "0 B"), (999, "999 B"), (29_347_840, "29.3 MB"), (4 * 10**9, "4.0 GB")],
)
def test_bytes_are_in_powers_of_ten(count, shown):
    assert numbers.size(count) == shown


@pytest.mark.parametrize(
    "count, shown",
    [
        *[(None, ""), (999, "999"), (1000, "1.0 k"), (999_949, "999.9 k"), (999_950, "1.0 M")],
        *[(13_295_600, "13.3 M"), (999_960_000, "1.0 G")],
    ],
)
def test_counts_have_no_thousand_of_a_smaller_unit(count, shown):
    assert numbers.count(count) == shown


@pytest.mark.parametrize(
    "value, shown",
    [
        *[(None, "–"), (153.04, "153.0"), (999.96, "1,000"), (99_999.4, "99,999")],
        *[(99_999.6, "100k"), (123_456.7, "123k"), (999_499, "999k"), (999_501, "1.0e6")],
        *[(1.5e9, "1.5e9"), (1.5e99, "1.5e99"), (1.5e300, "2e300"), (float("inf"), "inf")],
    ],
)
def test_a_perplexity_takes_six_cells_at_most(value, shown):
    assert numbers.perplexity(value) == shown


def test_a_clock_that_was_set_back_makes_no_negative_time():
    assert numbers.duration(-5) == "0:00"


def test_no_size_is_written_in_another_unit():
    """The workbench and the command line show one file with one figure."""
    found = subprocess.run(
        ["git", "grep", "-nE", "[KMG]iB", "--", "lmbench/*.py", "docs/*.md", "README.md"],
        cwd=ROOT, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    assert found == []


def test_a_moment_that_no_calendar_shows_is_a_question_mark():
    assert numbers.clock(1e30) == "?"


@pytest.mark.parametrize(
    "said", [None, "5", True, math.nan, math.inf, -math.inf, 10**400, [1.0], {"a": 1}]
)
def test_what_is_no_number_that_a_float_holds_is_none(said):
    assert numbers.as_float(said) is None
    assert numbers.as_float(-3) == -3.0
    assert numbers.as_float(0.5) == 0.5
