"""The text that a finished model is scored on: the corpus it was trained on, found again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmbench.corpus import Corpus, open_corpus
from lmbench.errors import LmbenchError
from lmbench.session import store

__all__ = ["corpus_of", "corpus_of_file", "corpus_of_words"]


def corpus_of(known: store.Corpus | None, home: Path, title: str) -> Corpus:
    """The corpus that a run's record tells of, unchanged.

    Raises:
        LmbenchError: the run knows none, it is gone, or its text has changed since.
    """
    if known is None:
        raise LmbenchError(f"run {title} has no corpus: its worker never began")
    # A session that has travelled finds its text by name.
    spec = known.origin if known.origin and Path(known.origin).is_dir() else known.name
    found = _matching(spec, known.fingerprint, home)
    if found is None:
        raise LmbenchError(
            f"corpus {known.name} ({known.origin}) has changed since run {title} (its fingerprint "
            f"was {known.fingerprint[:12]}); a score on another text would mean nothing"
        )
    return found


def corpus_of_file(known: Mapping[str, Any], home: Path) -> Corpus | None:
    """The corpus that a packed file tells of (`About.corpus`); None where it is not here, or not
    the same any more."""
    name, fingerprint = known.get("name"), known.get("fingerprint")
    if not isinstance(name, str) or not isinstance(fingerprint, str):
        return None
    try:
        return _matching(name, fingerprint, home)
    except LmbenchError:
        return None


def _matching(spec: str, fingerprint: str, home: Path) -> Corpus | None:
    """The corpus of that name or folder, if its words still have these ids; else None.

    Raises:
        LmbenchError: there is no such corpus here.
    """
    opened = _by_both_rules(spec, home, may_fetch=False)
    return next((corpus for corpus in opened if corpus.fingerprint == fingerprint), None)


def corpus_of_words(spec: str, home: Path, vocabulary: Sequence[str], ntoken: int) -> Corpus:
    """The corpus of that name or folder, its words numbered as a model has them, if either rule
    numbers them so; else as by "all".

    Args:
        vocabulary: the model's words; empty where nothing but their number, `ntoken`, is known.

    Raises:
        LmbenchError: there is no such corpus.
    """
    first = None
    for corpus in _by_both_rules(spec, home, may_fetch=True):
        first = first or corpus
        if corpus.vocabulary == vocabulary if vocabulary else corpus.ntokens == ntoken:
            return corpus
    assert first is not None
    return first


def _by_both_rules(spec: str, home: Path, *, may_fetch: bool) -> Iterator[Corpus]:
    for rule in ("all", "train"):
        yield open_corpus(spec, home, vocab=rule, may_fetch=may_fetch)
