"""Patterns for names of modules: what they match, and that none computes for ever."""

from __future__ import annotations

import re

import pytest

from lmbench.distiller.name_patterns import check_pattern, matches
from lmbench.distiller.quantization.errors import QuantizationError
from lmbench.distiller.quantization.settings import match_overrides, parse_overrides

NAME = "rnn.cells.0.eltwiseadd_gate.and_what_else_a_name_may_hold"


@pytest.mark.parametrize("pattern", [r"(\w+[._]?)+X", "(a|a|[a-z])*b", "(.*)*=", "((([^=]*)*)*)*="])
def test_a_pattern_that_python_would_search_for_ever_is_answered(pattern: str) -> None:
    assert not matches(pattern, NAME)


@pytest.mark.parametrize(
    "pattern",
    ["rnn.*", r"rnn\.cells\.\d+\..*", "rnn.*(?:gate|x).+", "(?i)RNN.*", re.escape(NAME)],
)
def test_what_matches_all_of_a_name_is_found(pattern: str) -> None:
    assert matches(pattern, NAME)
    assert not matches(pattern, f" {NAME}")


def test_a_part_of_a_name_is_no_match() -> None:
    assert not matches("rnn", NAME)
    assert not matches("rnn", "rnn\n")


@pytest.mark.parametrize(
    "pattern, reason",
    [("rnn(", "unclosed group"), ("a)|(b", "unopened group"), ("(?!a)b", "look-around"),
     (r"(a)\1", "backreferences"), ("a{999}{999}{99}", "size limit")],
)  # fmt: skip
def test_what_cannot_be_matched_is_refused_in_one_line(pattern: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as found:
        check_pattern(pattern)
    assert "\n" not in str(found.value)
    with pytest.raises(QuantizationError, match=reason):
        parse_overrides({pattern: {}})


def test_overrides_are_answered_however_they_are_nested() -> None:
    with pytest.raises(QuantizationError, match="matches no module"):
        match_overrides({r"(\w+[._]?)+X": {}}, [NAME])


def test_overrides_as_text_have_the_limits_of_every_yaml() -> None:
    with pytest.raises(QuantizationError, match="nested too deeply"):
        parse_overrides("{a: " * 200 + "1" + "}" * 200)
