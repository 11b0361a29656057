"""What `lmbench data` shows: the corpora there are, and what is in one. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmbench.corpus import pydoc
from lmbench.corpus.corpus import Corpus, open_corpus
from lmbench.corpus.fetch import fetch
from lmbench.corpus.files import Progress
from lmbench.corpus.ids import EOS, UNK
from lmbench.corpus.making.card import read_card
from lmbench.corpus.sources import (
    PYDOC,
    REGISTRY,
    data_folder,
    has_corpus,
    known_names,
    local_names,
    split_files,
)
from lmbench.errors import LmbenchError

__all__ = ["CorpusEntry", "data_get", "data_info", "data_list"]


@dataclass(frozen=True)
class CorpusEntry:
    """A corpus that `--data` takes by name."""

    name: str
    about: str
    path: Path | None
    """Its folder; None where it is not there yet."""

    @property
    def is_here(self) -> bool:
        """Whether it can be opened without a network."""
        return self.path is not None or self.name == PYDOC


def data_list(home: Path) -> list[CorpusEntry]:
    """The corpora known by name, then the folders in the working folder's data that hold one."""
    entries: list[CorpusEntry] = []
    for name, remote in REGISTRY.items():
        folder = data_folder(home) / name
        entries.append(CorpusEntry(name, remote.about, folder if has_corpus(folder) else None))
    entries.append(CorpusEntry(PYDOC, f"{pydoc.origin()}; needs no download", None))
    for name in local_names(home):
        folder = data_folder(home) / name
        card = read_card(folder)
        entries.append(CorpusEntry(name, card.about if card else "a folder of yours", folder))
    return entries


def data_get(name: str, home: Path, progress: Progress | None = None) -> Path:
    """Make sure that a corpus known by name is there, and return its folder.

    Raises LmbenchError for an unknown name and when it cannot be fetched.
    """
    if name == PYDOC:
        return pydoc.pydoc_folder(home, progress)
    if name not in REGISTRY:
        raise LmbenchError(f"no corpus {name} to fetch: there are {', '.join(known_names())}")
    folder = data_folder(home) / name
    if not has_corpus(folder):
        fetch(REGISTRY[name], folder, progress)
    return folder


def data_info(spec: str | None, home: Path, progress: Progress | None = None) -> dict[str, Any]:
    """What is in a corpus, ready for JSON. Fetches nothing.

    ``tokens``, ``lines``, ``unknown`` (occurrences of ``<unk>``) and ``bytes`` of text are per
    split; ``types`` counts the vocabulary over all three; ``unseen`` counts the tokens of valid
    and test whose word train does not have; ``made`` is the card of a corpus that was made by
    `data_make` and is as it was made, else None.
    """
    corpus = open_corpus(spec, home, progress=progress, may_fetch=False)
    seen = np.zeros(corpus.ntokens, bool)
    seen[corpus.split("train")] = True
    return {
        "name": corpus.name,
        "path": str(corpus.path),
        "origin": corpus.origin,
        "fingerprint": corpus.fingerprint,
        "tokens": corpus.counts,
        "types": corpus.ntokens,
        "lines": _occurrences(corpus, EOS),
        "unknown": _occurrences(corpus, UNK),
        "unseen": {
            split: int(np.count_nonzero(~seen[corpus.split(split)])) for split in ("valid", "test")
        },
        "bytes": {split: path.stat().st_size for split, path in split_files(corpus.path).items()},
        "dtype": str(corpus.split("train").dtype),
        "cache": str(corpus.cache) if corpus.cache else None,
        "made": corpus.card.document() if corpus.card else None,
    }


def _occurrences(corpus: Corpus, word: str) -> dict[str, int]:
    if word not in corpus.vocabulary:
        return dict.fromkeys(corpus.splits, 0)
    number = corpus.vocabulary.index(word)
    return {split: int(np.count_nonzero(ids == number)) for split, ids in corpus.splits.items()}
