"""Text from strangers' files, as a terminal, a JSON reader and a spreadsheet get it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmbench.printable import csv_text, json_text, one_line, printable

BAD = "\x00\x07\x1b\r\x7f\x9b\x9d\u202e\u2066\u061c\u2028\ud800"


def is_safe(text: str) -> bool:
    return not any(
        character in BAD or (ord(character) < 32 and character not in "\n\t") for character in text
    )


def test_what_a_terminal_obeys_is_taken_out():
    assert printable(f"a{BAD}b") == "ab"
    assert (
        printable("keeps\ttabs, line\nends and ünïcödé ●")
        == "keeps\ttabs, line\nends and ünïcödé ●"
    )


def test_one_line_is_one_line():
    assert one_line("rm -rf\n \x1b[1A  ~\r\n") == "rm -rf [1A ~"


@given(st.text(alphabet=st.characters() | st.sampled_from(BAD)))
def test_json_keeps_every_character_and_shows_none_that_is_obeyed(text):
    written = json_text({"text": text})
    assert is_safe(written)
    assert json.loads(written) == {"text": text}
    assert json_text({"text": text}, ascii_only=True).isascii()


@pytest.mark.parametrize("cell", ["=1+1", "+A1", "-1+A1", "@SUM(A1)", "\t=1", "\x1b=1", "\r=1"])
def test_no_word_in_csv_is_a_formula(cell):
    assert csv_text([[cell]]).startswith("'") or csv_text([[cell]]).startswith("\"'")
    assert is_safe(csv_text([[cell]]))


def test_numbers_in_csv_stay_numbers():
    assert csv_text([["a", None, -1.5, "-3e-05"]]) == "a,,-1.5,-3e-05\n"
