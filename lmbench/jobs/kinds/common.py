"""What kinds of runs share: the parent, the corpus in the record, progress, and scores."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from lmbench.corpus import Corpus
from lmbench.deploy.runtimes.interface import Score
from lmbench.errors import LmbenchError
from lmbench.jobs.job import Job
from lmbench.model import count_weights
from lmbench.session import Run, events, store
from lmbench.session.events import Progress, RunResumed
from lmbench.training.checkpoint import MODEL_FILE
from lmbench.training.evaluate import Evaluation

__all__ = [
    "StoppedError",
    "corpus_record",
    "model_hash",
    "note_model",
    "note_parent",
    "parent_of",
    "progress_callback",
    "score_event",
    "weight_results",
]

# Seconds between two progress events of a part that has no steps of its own.
_PROGRESS_S = 0.2


def parent_of(job: Job) -> Run:
    """The run that this one starts from."""
    if not job.record.parent:
        raise LmbenchError(f"run {job.run.ref} names no run to start from")
    parent = job.home.find_run(job.record.parent, job.session.name)
    if job.record.point and (parent.checkpoint("best") or parent.checkpoint("last")):
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


def model_hash(path: Path) -> str:
    """Of a checkpoint's folder or a model's file: which model it holds."""
    with (path / MODEL_FILE if path.is_dir() else path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def note_model(job: Job, path: Path, corpus: Corpus | None = None) -> None:
    """Note which model a search is of, and which text where that is not the model's own. Where it
    is another one than an earlier attempt searched, what that has found counts no more."""
    found = {"model_sha256": model_hash(path)}
    if corpus is not None:
        found["text_sha256"] = corpus.fingerprint
    known = job.record.results
    changed = [key for key, value in found.items() if known.get(key) not in (None, value)]
    if job.carries_on and changed:
        job.carries_on = False
        job.emit(RunResumed(offset=0, step=0, epoch=0))
        what = f"the model of {job.record.parent}"
        if corpus is not None and "model_sha256" not in changed:
            what = f"corpus {corpus.name}"
        job.warn(
            f"{what} has changed since this run began: what was found of the one before is "
            "dropped, and the search begins anew"
        )
    job.add_results(**found)


def corpus_record(corpus: Corpus) -> store.Corpus:
    """What a run's record has of its corpus."""
    return store.Corpus(
        name=corpus.name,
        fingerprint=corpus.fingerprint,
        origin=str(corpus.path.resolve()),
        ntokens=corpus.ntokens,
        vocab=corpus.vocab,
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


def score_event(
    split: str, score: Evaluation | Score, tokens_per_s: float, what: str, name: str = ""
) -> events.Score:
    """A score as an event; `what` and `name` as there."""
    return events.Score(
        split=split,
        loss=score.loss,
        ppl=score.ppl,
        tokens=score.tokens,
        tokens_per_s=tokens_per_s,
        what=what,
        name=name,
    )


class StoppedError(Exception):
    """The user stopped a run in the middle of a piece of work."""


def weight_results(model: nn.Module, run: Run) -> dict[str, Any]:
    """How many weights a run's model has, how many of them are zero, and the bytes of its file."""
    weights, nonzero, biases = count_weights(model)
    return {
        "parameters": weights,
        "biases": biases,
        "nonzero": nonzero,
        "sparsity": 1.0 - nonzero / weights,
        "bytes": run.model_bytes(),
    }
