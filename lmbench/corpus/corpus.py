"""A corpus as training sees it: words, ids, and where they came from. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from lmbench.corpus import fetch, pydoc
from lmbench.corpus.files import Progress, is_writable, user_cache
from lmbench.corpus.ids import (
    FORMAT,
    SPLITS,
    Ids,
    VocabularyRule,
    content_hash,
    encode,
    fingerprint_of,
    read_ids,
    write_ids,
)
from lmbench.corpus.making.card import Card, read_card
from lmbench.corpus.sources import (
    PYDOC,
    REGISTRY,
    data_folder,
    find_folder,
    has_part_of_corpus,
    split_files,
)
from lmbench.errors import LmbenchError
from lmbench.perplexity import perplexity

__all__ = ["DEFAULT", "Corpus", "check_enough", "default_corpus", "open_corpus"]

DEFAULT = "wikitext-2"
"""The corpus taken where none is asked for, if its files are there; else ``pydoc``."""

CACHE_FOLDER = ".lmbench"


@dataclass(frozen=True, eq=False)
class Corpus:
    """A corpus that is open: three splits of ids and the words they stand for."""

    name: str
    """The name it is known by, or the folder's."""

    path: Path
    """The folder of the text."""

    origin: str
    """Where the text came from, in words."""

    fingerprint: str
    """SHA-256 over the text and the vocabulary's rule: equal fingerprints mean equal ids."""

    vocabulary: list[str]
    """The words in order of id."""

    splits: Mapping[str, np.ndarray]
    """The ids of each split, read-only, in the smallest unsigned type that fits."""

    cache: Path | None
    """The file of ids that is mapped into memory; None where no folder could take it."""

    vocab: VocabularyRule = "all"
    """Whose words the vocabulary is of."""

    is_default: bool = False
    """Whether it was taken because none was asked for."""

    @property
    def ntokens(self) -> int:
        """Types: how many words the vocabulary has. The name is the original's."""
        return len(self.vocabulary)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Tokens of each split, the ends of lines among them."""
        return {split: len(ids) for split, ids in self.splits.items()}

    @cached_property
    def card(self) -> Card | None:
        """The card of a corpus that `data_make` made; None for any other, and where a text is not
        as it was counted."""
        card = read_card(self.path)
        counted = card.splits.items() if card else ()
        tokens = {split: (n.pieces or n.words) + n.sentences for split, n in counted}
        return card if tokens == self.counts else None

    def figures(self, split: str, loss: float) -> dict[str, float]:
        """What a mean loss over a whole split comes to in units that corpora of other words have,
        too; nothing for a corpus without a `card`, whose units are not counted.

        loss: nats a token. ``SPLIT_word_ppl`` is perplexity per word (or end of a sentence) of the
        text before it was cut into pieces; ``SPLIT_bits_per_character`` counts a character for
        each blank between words and each end of a sentence.
        """
        counts = self.card.splits.get(split) if self.card else None
        if counts is None or not counts.words or not counts.characters:
            return {}
        total = loss * self.counts[split]
        return {
            f"{split}_word_ppl": perplexity(total / (counts.words + counts.sentences)),
            f"{split}_bits_per_character": total / math.log(2) / counts.characters,
        }

    def split(self, name: str) -> np.ndarray:
        """The ids of "train", "valid" or "test": one-dimensional, read-only, mapped from disk."""
        if name not in self.splits:
            raise LmbenchError(f"no split {name}: a corpus has {', '.join(self.splits)}")
        return self.splits[name]

    def describe_choice(self) -> str:
        """One line: which corpus was taken, and why where none was asked for."""
        sizes = " / ".join(f"{self.counts[split]:,}" for split in SPLITS)
        line = f"corpus: {self.name}, {self.origin} ({sizes} tokens, {self.ntokens:,} types)"
        return "; ".join(filter(None, (line, self.advice)))

    @property
    def advice(self) -> str:
        """Where to get a better corpus, if this one was taken for want of it; else ""."""
        if not self.is_default or self.name != PYDOC:
            return ""
        return f"data/{DEFAULT} is not there: `lmbench data get {DEFAULT}` fetches it"


def open_corpus(
    spec: str | None,
    home: Path,
    *,
    vocab: VocabularyRule = "all",
    progress: Progress | None = None,
    may_fetch: bool = True,
) -> Corpus:
    """Open a corpus, numbering its words only if that was not done before.

    ``spec`` is a name (``wikitext-2``, ``wikitext-103``, ``pydoc``), a folder, the name of a
    folder in the working folder's ``data``, or None for the default: ``wikitext-2`` where it is
    there, else ``pydoc``. ``home`` is the working folder. ``vocab`` "train" builds the vocabulary
    on train alone and makes ``<unk>`` of the words that only valid and test have.

    A corpus known by name that is not there is fetched, unless ``may_fetch`` is false.

    Raises LmbenchError for everything that the user can mend: no such corpus, a missing split,
    an empty file, bytes that are not UTF-8, no network.
    """
    wanted = spec if spec is not None else default_corpus(home)
    try:
        name, folder, origin = _located(wanted, home, progress, may_fetch)
        files = split_files(folder)
        hashes = {split: content_hash(path) for split, path in files.items()}
        fingerprint = fingerprint_of(hashes, vocab)
        cache, ids = _cached(folder, files, hashes, fingerprint, vocab, progress)
    except OSError as error:
        raise LmbenchError(f"corpus {wanted} cannot be read: {error}") from error
    return Corpus(
        name,
        folder,
        origin,
        fingerprint,
        ids.vocabulary,
        ids.splits,
        cache,
        vocab,
        is_default=spec is None,
    )


def _located(
    wanted: str, home: Path, progress: Progress | None, may_fetch: bool
) -> tuple[str, Path, str]:
    """The corpus's name, its folder and its origin; its files are made or fetched if need be."""
    if wanted == PYDOC:
        return PYDOC, pydoc.pydoc_folder(home, progress), pydoc.origin()
    if wanted in REGISTRY:
        folder = data_folder(home) / wanted
        if not has_part_of_corpus(folder):
            _fetch(wanted, folder, progress, may_fetch)
        return wanted, folder, f"in {_shown(folder, home)}"
    folder = find_folder(wanted, home)
    return folder.resolve().name, folder, f"in {_shown(folder, home)}"


def default_corpus(home: Path) -> str:
    """The corpus that is taken where none is named, by its name."""
    return DEFAULT if has_part_of_corpus(data_folder(home) / DEFAULT) else PYDOC


def _fetch(name: str, folder: Path, progress: Progress | None, may_fetch: bool) -> None:
    if not may_fetch:
        raise LmbenchError(f"{name} is not in {folder}: `lmbench data get {name}` fetches it")
    fetch.fetch(REGISTRY[name], folder, progress)


def _shown(folder: Path, home: Path) -> str:
    """The folder as people write it: from the working folder where it lies in there."""
    return str(folder.relative_to(home)) if folder.is_relative_to(home) else str(folder)


def _cached(
    folder: Path,
    files: Mapping[str, Path],
    hashes: Mapping[str, str],
    fingerprint: str,
    vocab: VocabularyRule,
    progress: Progress | None,
) -> tuple[Path | None, Ids]:
    """The ids from the cache, built if need be; from memory where no cache can be written."""
    name = f"ids-{fingerprint[:16]}-v{FORMAT}.safetensors"
    places = [folder / CACHE_FOLDER / name, user_cache() / "ids" / name]
    for path in places:
        ids = read_ids(path, fingerprint)
        if ids:
            return path, ids
    built = encode(files, hashes, vocab, progress)
    for path in places:
        if not is_writable(path.parent):
            continue
        try:
            write_ids(path, built, fingerprint)
        except OSError:
            # A disk that is full or mounted read-only shows only here; the next place may do.
            continue
        ids = read_ids(path, fingerprint)
        if ids:
            return path, ids
    for array in built.splits.values():
        array.flags.writeable = False
    return None, built


def check_enough(corpus: Corpus, batch_size: int, bptt: int, eval_batch_size: int = 10) -> None:
    """Refuse a corpus too small to train on with these settings.

    Train must fill one batch: ``batch_size`` columns of ``bptt`` words and the word after them.
    Valid and test are cut into ``eval_batch_size`` columns, each of which needs two words to
    predict one.

    Raises LmbenchError naming the split, what it has, what it needs, and what to change.
    """
    have = corpus.counts["train"]
    needed = batch_size * (bptt + 1)
    if have < needed:
        raise LmbenchError(
            f"train of {corpus.name} has {have:,} tokens, and one batch needs {needed:,} "
            f"(--batch-size {batch_size} × (--bptt {bptt} + 1)): lower --batch-size or --bptt"
        )
    for split in ("valid", "test"):
        have = corpus.counts[split]
        if have < 2 * eval_batch_size:
            raise LmbenchError(
                f"{split} of {corpus.name} has {have:,} tokens, and evaluation needs "
                f"{2 * eval_batch_size} ({eval_batch_size} columns of 2): lower --eval-batch-size, "
                f"or give a larger {split}"
            )
