"""The run that a training distills from: found, and of the same words. No torch here."""

from __future__ import annotations

from lmbench.config import TrainConfig
from lmbench.corpus import Corpus
from lmbench.errors import LmbenchError
from lmbench.session.store import Home, Run

__all__ = ["PARENT", "check_words", "find_teacher"]

PARENT = "parent"
"""What ``--teacher`` takes for the run that a pruning starts from."""

_TEACHES = ("train", "prune")


def find_teacher(
    config: TrainConfig, home: Home, session: str, corpus: Corpus, parent: Run | None = None
) -> Run | None:
    """The run that ``--teacher`` names; None where it names none, or a parent not made yet.

    It may still be queued or training: then its words are looked at when the student begins.

    Args:
        session: the one that a bare number means.
        corpus: what the student reads.
        parent: the run that the student starts from, where there is one already.

    Raises:
        LmbenchError: there is no such run, it is no training, or its ids mean other words.
    """
    if config.teacher is None:
        return None
    teacher = parent if config.teacher == PARENT else home.find_run(config.teacher, session)
    if teacher is None:
        return None
    record, said = teacher.read(), f"--teacher {config.teacher}"
    if record.kind not in _TEACHES:
        raise LmbenchError(
            f"{said}: run {teacher.ref} is of kind '{record.kind}', and only "
            f"{' and '.join(_TEACHES)} runs teach"
        )
    check_words(said, teacher, corpus)
    return teacher


def check_words(said: str, run: Run, corpus: Corpus) -> None:
    """Raises LmbenchError where the ids of a run's model mean other words than the corpus's."""
    record = run.read()
    known = record.corpus
    if known is None or known.fingerprint == corpus.fingerprint:
        return
    if run.vocabulary(record) != corpus.vocabulary:
        raise LmbenchError(
            f"{said}: run {run.ref} knows the {known.ntokens:,} types of {known.name}, and "
            f"{corpus.name} has {corpus.ntokens:,} of its own: the words of both "
            "must be the same (train both on one corpus with one --vocab)"
        )
