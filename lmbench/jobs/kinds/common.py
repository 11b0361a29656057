"""What kinds of runs share: the parent, the corpus in the record, and progress."""

from __future__ import annotations

import time
from collections.abc import Callable

from lmbench.corpus import Corpus
from lmbench.corpus.ids import VocabularyRule
from lmbench.errors import LmbenchError
from lmbench.jobs.job import Job
from lmbench.session import Run, store
from lmbench.session.events import Progress

__all__ = ["StoppedError", "corpus_record", "note_parent", "parent_of", "progress_callback"]

# Seconds between two progress events of a part that has no steps of its own.
_PROGRESS_S = 0.2


def parent_of(job: Job) -> Run:
    """The run that this one starts from."""
    if not job.record.parent:
        raise LmbenchError(f"run {job.run.ref} names no run to start from")
    parent = job.home.find_run(job.record.parent, job.session.name)
    if job.record.point and parent.checkpoint("best"):
        status = parent.status()
        if status != "finished":
            raise LmbenchError(f"run {parent.ref} is {status}: a sweep compares whole runs alone")
    return parent


def note_parent(job: Job, parent: Run) -> None:
    """Take over from the parent what describes its model and its corpus."""
    record = parent.read()
    if record.corpus is not None:
        job.session.write_vocabulary(record.corpus.fingerprint, parent.vocabulary(record))
    job.update(corpus=record.corpus, shape=record.shape)


def corpus_record(corpus: Corpus, vocab: VocabularyRule) -> store.Corpus:
    """What a run's record has of its corpus."""
    return store.Corpus(
        name=corpus.name,
        fingerprint=corpus.fingerprint,
        origin=str(corpus.path.resolve()),
        ntokens=corpus.ntokens,
        vocab=vocab,
    )


def progress_callback(job: Job, what: str) -> Callable[[int, int], None]:
    """A callback that emits progress a few times a second, and raises StoppedError on a stop."""
    last = 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > _PROGRESS_S or done == total:
            last = now
            job.emit(Progress(what=what, done=done, total=total))
        if job.control() == "stop":
            raise StoppedError

    return report


class StoppedError(Exception):
    """The user stopped a run in the middle of a piece of work."""
