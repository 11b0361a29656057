"""From documentation to sentences of words."""

from __future__ import annotations

from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmbench.corpus.prose import sentences


def lines(text: str) -> list[str]:
    return [" ".join(sentence) for sentence in sentences(dedent(text))]


def test_each_sentence_is_a_line_with_its_punctuation_apart() -> None:
    assert lines("Return the sum (a float), if any.  It isn't\nrounded!") == [
        "Return the sum ( a float ) , if any .",
        "It isn't rounded !",
    ]


@pytest.mark.parametrize(
    "text, words",
    [
        ("Use os.path.join() for that.", "os.path.join()"),
        ("Pass *args on to the function.", "*args"),
        ("This is a low-level, e.g. a bad, one.", "low-level"),
        ("This is, e.g. here, the one.", "e.g."),
        ("All files that end in .py are read.", ".py"),
        ("It is in version 3.11 of the library.", "3.11"),
        ("The page is https://example.org/a.html. It is good.", "https://example.org/a.html"),
    ],
)
def test_names_numbers_and_addresses_stay_whole(text: str, words: str) -> None:
    assert words in " ".join(lines(text)).split()


def test_a_full_stop_inside_a_sentence_does_not_end_it() -> None:
    assert len(lines("It holds text, numbers, etc. and is the one with f. as a name.")) == 1
    assert len(lines("It holds text, numbers, etc. The other is the one for names.")) == 2


def test_closing_quotes_stay_with_their_sentence() -> None:
    assert lines('He said "this is the end." Then it was "over" for all.') == [
        'He said " this is the end . "',
        'Then it was " over " for all .',
    ]


def test_code_doctests_tables_and_headings_are_left_out() -> None:
    text = """\
        The heading is here
        *******************

        This is the text.

           >>> f(x) and is the output of a function
           that is the result

           stmt ::= "is" the "of"

        +-----+ the table of a module is here
        | a   | and this is in it

        x = y + 1; z[3] = {"is": 2}
        """
    assert lines(text) == ["This is the text ."]


def test_markup_goes_and_its_words_stay() -> None:
    text = "The ``name`` of *this* is **not** :class:`~a.Thing` or `that`."
    assert lines(text) == ["The name of this is not a.Thing or that ."]


def test_items_of_a_list_are_sentences_of_their_own() -> None:
    text = """\
        There are two of them:

        * the first is here
          and goes on
        - the second is the last
        1. this is also an item
        """
    assert lines(text) == [
        "There are two of them :",
        "the first is here and goes on",
        "the second is the last",
        "this is also an item",
    ]


@given(st.text())
def test_any_text_gives_words_without_white_space(text: str) -> None:
    for sentence in sentences(text):
        assert len(sentence) >= 4
        assert all(word and word.split() == [word] for word in sentence)
