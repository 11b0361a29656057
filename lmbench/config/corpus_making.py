"""The settings of making a corpus of one's own text. No torch here."""

from __future__ import annotations

from typing import Literal

from lmbench.config.machine import DATA
from lmbench.config.setting import Config, setting
from lmbench.errors import LmbenchError

__all__ = ["DEFAULT_MIN_COUNT", "DataMakeConfig", "DocumentsRule"]

DocumentsRule = Literal["auto", "files", "articles", "paragraphs", "lines"]

LEAST_PIECES = 300

DEFAULT_MIN_COUNT = 3
"""As in WikiText (Merity et al. 2016, arXiv 1609.07843)."""


class DataMakeConfig(Config):
    """How files of text become a corpus."""

    tokenizer: str = setting(
        "moses",
        "how text becomes words: moses (sentences, words and punctuation apart), none (tokenised "
        "already: a sentence a line, words between white space), bpe:SIZE (the words of moses in "
        "so many pieces), or none+bpe:SIZE",
        group=DATA,
        pattern=r"^(moses|none|(none\+)?bpe:[1-9]\d{2,6})$",
    )
    documents: DocumentsRule = setting(
        "auto",
        "what goes to a split as a whole: each file, each article (= Title =, as in WikiText), "
        "each paragraph, each line; auto takes files where there are 100 or more, else "
        "articles where a file begins with a title, else paragraphs; a record of JSON lines or "
        "parquet is a document",
        group=DATA,
    )
    field: str = setting("text", "field of JSON lines and parquet that holds the text", group=DATA)
    lower: bool = setting(False, "lower case throughout", group=DATA)
    fold_numbers: bool = setting(False, "each number becomes N, as in Penn Treebank", group=DATA)
    vocabulary: int | None = setting(
        None,
        "keep the most frequent words of train, <unk> and <eos> among them; left out: as many as "
        "--min-count keeps",
        group=DATA,
        ge=3,
        le=10_000_000,
        unit="words",
    )
    min_count: int | None = setting(
        None,
        "words that train has fewer times become <unk>; left out: 3, and 1 with --vocabulary",
        group=DATA,
        ge=1,
        unit="occurrences",
    )
    valid: float = setting(0.05, "share of the documents in valid", group=DATA, ge=1e-6, lt=0.5)
    test: float = setting(0.05, "share of the documents in test", group=DATA, ge=1e-6, lt=0.5)
    seed: int = setting(1111, "random seed of the split", group=DATA, ge=0, lt=2**63)
    keep_duplicates: bool = setting(
        False, "leave sentences in train that nearly repeat valid or test", group=DATA
    )

    @property
    def pieces(self) -> int | None:
        """How many pieces of words, ``<eos>`` among them; None for whole words."""
        _, bpe, size = self.tokenizer.partition("bpe:")
        return int(size) if bpe else None

    def check(self) -> None:
        if self.pieces is None:
            return
        if self.vocabulary is not None or self.min_count is not None:
            raise LmbenchError(
                f"--vocabulary, --min-count: say nothing of pieces: --tokenizer {self.tokenizer} "
                "has its size in it"
            )
        if self.pieces < LEAST_PIECES:
            raise LmbenchError(
                f"--tokenizer {self.tokenizer}: give {LEAST_PIECES} pieces or more: each of 256 "
                "bytes is one"
            )

    @property
    def rarest(self) -> int:
        """Occurrences in train that a word needs to be kept."""
        if self.min_count is not None:
            return self.min_count
        return DEFAULT_MIN_COUNT if self.vocabulary is None else 1
