"""The card of a corpus that was made: a JSON file beside its texts. No torch here."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["CARD", "Card", "Duplicates", "Source", "SplitCounts", "Vocabulary", "read_card"]

CARD = "corpus.json"
VERSION = 1


@dataclass
class Source:
    """A file that was read."""

    file: str
    bytes: int
    sha256: str


@dataclass
class SplitCounts:
    """What is counted of a split."""

    documents: int = 0
    sentences: int = 0
    words: int = 0
    characters: int = 0
    """Of the sentences before rare words become ``<unk>``, a blank between words, and one for the
    end of each sentence."""
    unknown: int = 0
    """Words that are ``<unk>``."""
    pieces: int = 0
    """Of a corpus of subwords; else 0."""
    repeated: int = 0
    """Sentences left out since another split nearly has them."""

    @property
    def unknown_share(self) -> float:
        return self.unknown / self.words if self.words else 0.0


@dataclass
class Vocabulary:
    """The words that are kept."""

    types: int
    """``<unk>`` and ``<eos>`` among them."""
    least_count: int | None
    """Of the rarest word in train; None for pieces."""
    counts_too_low_by_at_most: int


@dataclass
class Duplicates:
    """How repetitions were found."""

    method: str
    one_shingle_kept_of: int


@dataclass
class Card:
    """What a corpus was made of, how, and what is in it."""

    lmbench: str
    """The version that made it."""
    sources: list[Source]
    options: dict[str, Any]
    splits: dict[str, SplitCounts]
    vocabulary: Vocabulary
    duplicates: Duplicates
    version: int = VERSION

    @property
    def about(self) -> str:
        """In words: ``made of 3 files by moses``."""
        count = len(self.sources)
        plural = "s" if count != 1 else ""
        return f"made of {count:,} file{plural} by {self.options.get('tokenizer')}"

    def document(self) -> dict[str, Any]:
        """Ready for JSON."""
        document = asdict(self)
        for split, counts in self.splits.items():
            document["splits"][split]["unknown_share"] = counts.unknown_share
        return document

    def write(self, folder: Path) -> None:
        """Write it into a folder that is being built."""
        text = json.dumps(self.document(), indent=2, ensure_ascii=False) + "\n"
        # A file's name that is no UTF-8 has half surrogate pairs, which are shown as escapes.
        (folder / CARD).write_bytes(text.encode("utf-8", "backslashreplace"))


def read_card(folder: Path) -> Card | None:
    """The card of the corpus in a folder; None where it was not made here, or cannot be read."""
    from pydantic import TypeAdapter, ValidationError

    try:
        # A file's name may be one that only an escape of half a surrogate pair can spell.
        document = json.loads((folder / CARD).read_bytes())
        card = TypeAdapter(Card).validate_python(document)
    except (OSError, ValueError, RecursionError, ValidationError):
        return None
    return card if card.version == VERSION else None
