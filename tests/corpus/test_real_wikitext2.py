"""The real WikiText-2, where it lies beside the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest
from places import WIKITEXT

from lmbench.corpus import data_info, open_corpus

pytestmark = pytest.mark.skipif(
    not (WIKITEXT / "train.txt").is_file(),
    reason="no ../shared/data/wikitext-2 beside the checkout",
)


def test_tokens_and_types_are_the_known_ones(home: Path) -> None:
    info = data_info(str(WIKITEXT), home)
    assert info["tokens"] == {"train": 2_088_628, "valid": 217_646, "test": 245_569}
    assert info["types"] == 33_278
    assert info["unknown"] == {"train": 54_625, "valid": 11_718, "test": 15_218}
    assert info["lines"] == {"train": 36_718, "valid": 3_760, "test": 4_358}
    assert info["unseen"] == {"valid": 0, "test": 0}
    assert info["dtype"] == "uint16"


def test_ids_equal_those_of_the_original_dictionary(home: Path) -> None:
    corpus = open_corpus(str(WIKITEXT), home)
    numbers: dict[str, int] = {}
    for split in ("train", "valid", "test"):
        ids: list[int] = []
        with (WIKITEXT / f"{split}.txt").open(encoding="utf8") as lines:
            for line in lines:
                for word in [*line.split(), "<eos>"]:
                    ids.append(numbers.setdefault(word, len(numbers)))
        assert corpus.split(split).tolist() == ids
    assert corpus.vocabulary == list(numbers)


def test_a_vocabulary_of_train_changes_nothing_as_train_has_every_type(home: Path) -> None:
    every = open_corpus(str(WIKITEXT), home)
    closed = open_corpus(str(WIKITEXT), home, vocab="train")
    assert closed.vocabulary == every.vocabulary
    assert (closed.split("test") == every.split("test")).all()
