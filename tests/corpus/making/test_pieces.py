"""A corpus of pieces of words: learnt on train, cut as its tokenizer.json says."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from lmbench.config import DataMakeConfig, validate
from lmbench.corpus import open_corpus
from lmbench.corpus.making.make import data_make
from lmbench.corpus.subwords import Pieces, joined
from lmbench.errors import LmbenchError


@pytest.fixture
def text(tmp_path: Path) -> Path:
    generator = random.Random(2)
    words = ["walking", "walked", "talked", "<unk>", "café", "日本"]
    path = tmp_path / "ptb.txt"
    path.write_text(
        "\n".join(" ".join(generator.choices(words, k=8)) for _ in range(900)), encoding="utf-8"
    )
    return path


def test_the_text_is_that_of_the_tokenizer_and_its_words_are_in_it(text: Path, home: Path) -> None:
    from tokenizers import Tokenizer

    config = DataMakeConfig(tokenizer="none+bpe:290", documents="lines", keep_duplicates=True)
    with pytest.raises(LmbenchError, match="give 300 pieces or more"):
        validate(DataMakeConfig, config.model_dump())
    config = config.model_copy(update={"tokenizer": "none+bpe:310"})
    card = data_make("pieces", [text], home, config)
    corpus = open_corpus("pieces", home)
    assert corpus.ntokens == card.vocabulary.types <= 310
    tokenizer = Tokenizer.from_file(str(home / "data/pieces/tokenizer.json"))
    pieces = Pieces(corpus.vocabulary)
    source = set(text.read_text(encoding="utf-8").splitlines())
    for split, counts in card.splits.items():
        lines = (home / f"data/pieces/{split}.txt").read_text(encoding="utf-8").splitlines()
        assert counts.words + counts.sentences == 9 * len(lines)
        assert counts.pieces + counts.sentences == corpus.counts[split]
        assert counts.unknown == sum(line.split().count("<unk>") for line in lines) > 0
        for line in lines[:50]:
            text_of = joined(line.split())
            assert text_of in source
            assert tokenizer.encode(text_of).tokens == pieces.of(text_of.split()) == line.split()


def test_a_long_word_has_no_unknown_part(text: Path, home: Path) -> None:
    from tokenizers import Tokenizer

    word = "日本café" * 500
    with text.open("a", encoding="utf-8") as file:
        file.write(f"\n{word} {word[3:]}")
    config = DataMakeConfig(tokenizer="none+bpe:310", documents="lines", keep_duplicates=True)
    data_make("pieces", [text], home, config)
    cut = Pieces(open_corpus("pieces", home).vocabulary).of([word])
    assert "<unk>" not in cut
    assert joined(cut) == word
    tokenizer = Tokenizer.from_file(str(home / "data/pieces/tokenizer.json"))
    assert tokenizer.encode(word).tokens == cut


def test_settings_and_packages_that_do_not_fit_are_refused(
    text: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wrong in ({"vocabulary": 500}, {"min_count": 2}):
        with pytest.raises(LmbenchError, match="say nothing of pieces"):
            validate(DataMakeConfig, {"tokenizer": "bpe:500", **wrong})
    with pytest.raises(LmbenchError, match=r"--tokenizer: 'bpe:x'"):
        validate(DataMakeConfig, {"tokenizer": "bpe:x"})
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(LmbenchError, match=r"pip install 'lmbench\[bpe\]'"):
        data_make("pieces", [text], home, DataMakeConfig(tokenizer="none+bpe:500"))
