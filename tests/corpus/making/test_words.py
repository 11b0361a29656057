"""Text becomes the sentences and words that Moses' rules make of it."""

from __future__ import annotations

import pydoc_data.topics as topics
import sys

import pytest

from lmbench.config import DataMakeConfig
from lmbench.corpus.making.bpe import check_installed
from lmbench.corpus.making.words import splitter
from lmbench.errors import LmbenchError


def words_of(text: str, **settings: object) -> list[str]:
    return splitter(DataMakeConfig(**settings))(text)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "text, sentences",
    [
        ("It's 5% off. We can't go!", ["It 's 5 % off .", "We can 't go !"]),
        ("Mr. Smith paid $3.50, or 1,000?", ["Mr. Smith paid $ 3.50 , or 1,000 ?"]),
        ('He said: "No." Then he left.', ['He said : " No . "', "Then he left ."]),
        ("The U.S. Senate met in No. 5 at 10 a.m. today.", None),
        ("A line that is\nwrapped. Another\none.", ["A line that is wrapped .", "Another one ."]),
        ("wait... what (so-called) e.g. this", ["wait ... what ( so-called ) e.g. this"]),
        ("Über Größe? Ça va… Oui.", ["Über Größe ?", "Ça va …", "Oui ."]),
        ("bell\x07 \x01 here", ["bell here"]),
    ],
)
def test_sentences_and_words(text: str, sentences: list[str] | None) -> None:
    found = words_of(text)
    if sentences is None:
        assert found == ["The U.S. Senate met in No. 5 at 10 a.m. today ."]
    else:
        assert found == sentences


def test_a_long_row_of_stops_ends_no_sentence_where_a_letter_follows() -> None:
    assert len(words_of("." * 200_000 + "x")) == 1


def test_words_are_those_of_the_tokenizer_on_the_whole_sentence() -> None:
    from sacremoses import MosesTokenizer

    moses = MosesTokenizer("en")
    text = [part for entry in list(topics.topics.values())[:40] for part in entry.split("\n\n")]
    pairs = [
        (one, moses.tokenize(one, escape=False, return_str=True))
        for part in text
        if "." not in part.strip()[:-1]  # sentences are cut before words are
        for one in [" ".join(part.split())]
        if one
    ]
    different = [one for one, theirs in pairs if " ".join(words_of(one)) != theirs]
    assert len(pairs) > 100
    assert len(different) <= 0.02 * len(pairs), different


def test_tokenised_text_keeps_its_lines_and_words() -> None:
    assert words_of("the  <unk> 's .\n N yen", tokenizer="none") == ["the <unk> 's .", "N yen"]


def test_lower_case_and_folded_numbers() -> None:
    text = "In 1998, Rome paid 3.5% of 1,000 (A4)."
    assert words_of(text, lower=True, fold_numbers=True) == ["in N , rome paid N % of N ( a4 ) ."]
    assert words_of("In 1998 A", tokenizer="none", lower=True, fold_numbers=True) == ["in N a"]


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(LmbenchError, match=r"pip install 'lmbench\[bpe\]'"):
        check_installed()
