"""The text that a finished model is scored on: the corpus it was trained on, found again."""

from __future__ import annotations

from pathlib import Path

from lmbench.corpus import Corpus, open_corpus
from lmbench.errors import LmbenchError
from lmbench.session import store

__all__ = ["corpus_of", "matching_corpus"]


def corpus_of(known: store.Corpus | None, home: Path, title: str) -> Corpus:
    """The corpus that a run's record tells of, unchanged.

    Raises:
        LmbenchError: the run knows none, it is gone, or its text has changed since.
    """
    if known is None:
        raise LmbenchError(f"run {title} has no corpus: its worker never began")
    # A session that has travelled finds its text by name.
    spec = known.origin if known.origin and Path(known.origin).is_dir() else known.name
    found = matching_corpus(spec, known.fingerprint, home)
    if found is None:
        raise LmbenchError(
            f"corpus {known.name} ({known.origin}) has changed since run {title} (its fingerprint "
            f"was {known.fingerprint[:12]}); a score on another text would mean nothing"
        )
    return found


def matching_corpus(spec: str, fingerprint: str, home: Path) -> Corpus | None:
    """The corpus of that name or folder, if its words still have these ids; else None.

    Raises:
        LmbenchError: there is no such corpus here.
    """
    for rule in ("all", "train"):
        corpus = open_corpus(spec, home, vocab=rule, may_fetch=False)
        if corpus.fingerprint == fingerprint:
            return corpus
    return None
