"""An evaluation: the perplexity of a run's model on a split, as it runs."""

from __future__ import annotations

import contextlib
import time
from functools import partial

from lmbench.config import EvaluateConfig
from lmbench.corpus import Corpus
from lmbench.corpus.batches import score_rows
from lmbench.deploy.benchmark import disk_bytes
from lmbench.deploy.load_model import LoadedModel, PackedModel, open_model
from lmbench.deploy.runtimes.choose import open_runtime
from lmbench.deploy.runtimes.interface import Score
from lmbench.errors import LmbenchError
from lmbench.jobs.adapted_evaluation import check_floats, describe, score_adapted
from lmbench.jobs.job import Job
from lmbench.jobs.kinds.common import (
    StoppedError,
    corpus_record,
    note_model,
    note_parent,
    progress_callback,
    score_event,
)
from lmbench.jobs.scoring_text import corpus_of, corpus_of_file, corpus_of_words
from lmbench.model import RNNModel, count_weights
from lmbench.model.device import choose_device
from lmbench.session import Run, events, read_events
from lmbench.training.process_setup import prepare_worker
from lmbench.training.tune_evaluation import PassScores

__all__ = ["work"]


def work(job: Job) -> None:
    """Score the split once; a stop leaves no score, but of a tuning the passes that were made."""
    with contextlib.suppress(StoppedError):
        _work(job)


def _work(job: Job) -> None:
    config = job.config
    assert isinstance(config, EvaluateConfig)
    device = choose_device(config)
    prepare_worker(threads=config.threads, device=str(device))
    assert job.record.parent
    loaded, parent = open_model(
        job.record.parent, job.home, job.session.name, config.checkpoint, device=str(device)
    )
    if config.adapts:
        check_floats(config, loaded)
    # Now, of the model that was read: its training may go on meanwhile.
    known = parent.read().results if parent is not None else {}
    if parent is not None:
        note_parent(job, parent)
    job.update(device=str(device))
    corpus = _corpus(job, config, loaded, parent)
    if config.data is not None:
        job.session.write_vocabulary(corpus.fingerprint, corpus.vocabulary)
        job.update(corpus=corpus_record(corpus))
    data = score_rows(
        corpus, config.split, config.tokens, device, "--tokens", config.eval_batch_size
    )
    whole = len(corpus.split(config.split))
    if config.tune:
        note_model(job, loaded.path, corpus if config.data is not None else None)
    if not job.carries_on:
        job.emit(events.RunStarted(device=str(device)))
    if config.adapts:
        report, earlier = partial(progress_callback, job), _earlier_passes(job)
        on_pass = partial(_note_pass, job)
        adapted = score_adapted(config, loaded, corpus, data, report, earlier, on_pass)
        job.add_results(**adapted.settings)
        for name, score in adapted.scores:
            what = describe(name, adapted.settings)
            _note(job, config, score, adapted.seconds, what, whole, corpus, name)
        job.add_results(runtime=adapted.runtime)
    else:
        runtime = open_runtime(config.runtime, loaded, "score", config.accuracy)
        # What it compiles or builds for its first window is no part of its speed.
        runtime.evaluate(data[: config.bptt + 1], config.bptt)
        began = time.perf_counter()
        score = runtime.evaluate(
            data, config.bptt, progress_callback(job, f"scoring {config.split}")
        )
        _note(job, config, score, time.perf_counter() - began, runtime.name, whole, corpus)
        job.add_results(runtime=runtime.name)
    if parent is not None:
        taken = ("parameters", "nonzero", "bytes", "packed_bytes")
        own = {key: known[key] for key in taken if key in known}
        # A packed file's weights are those that were counted, and only unpacked they are a model.
        packed = isinstance(loaded, PackedModel)
        if not packed and loaded.plain and isinstance(loaded.model, RNNModel):
            _, nonzero, _ = count_weights(loaded.model)
            if nonzero != own.get("nonzero"):
                # The checkpoint is not the one that the run's results are of.
                own.pop("packed_bytes", None)
            own["nonzero"] = nonzero
        job.add_results(**own)
    else:
        job.add_results(bytes=disk_bytes(loaded))


def _note_pass(job: Job, given: PassScores) -> None:
    own, cached = given
    nlls = (own.nll, *(score.nll for score in cached))
    job.emit(events.TuningPass(tokens=own.tokens, nlls=nlls))


def _earlier_passes(job: Job) -> list[PassScores]:
    """What the passes gave that a tuning had made before it was stopped."""
    passes = [e for e in read_events(job.run.events_path) if isinstance(e, events.TuningPass)]
    scores = [[Score(nll, done.tokens) for nll in done.nlls] for done in passes]
    return [(own, cached) for own, *cached in scores]


def _corpus(job: Job, config: EvaluateConfig, loaded: LoadedModel, parent: Run | None) -> Corpus:
    """The text to score: the one asked for, if its words have the model's ids, or the model's."""
    home = job.home.path
    if config.data is None:
        if parent is not None:
            return corpus_of(parent.read().corpus, home, parent.ref)
        found = corpus_of_file(loaded.corpus, home)
        if found is None:
            raise LmbenchError(f"{loaded.title}: its corpus is not here; give it with --data")
        return found
    ntoken = int(loaded.shape["ntoken"])
    corpus = corpus_of_words(config.data, home, loaded.vocabulary, ntoken)
    if corpus.vocabulary != loaded.vocabulary and (loaded.vocabulary or corpus.ntokens != ntoken):
        raise LmbenchError(
            f"--data {config.data}: its words have other ids than those {loaded.title} knows"
        )
    return corpus


def _note(
    job: Job,
    config: EvaluateConfig,
    score: Score,
    seconds: float,
    what: str,
    split_tokens: int,
    corpus: Corpus,
    name: str = "",
) -> None:
    """Put down a score, what it is the score of, and of how much of the split.

    Args:
        name: what its results have before ``ppl``; "" for the model's own.
    """
    rate = score.tokens / seconds
    job.emit(score_event(config.split, score, rate, what, name))
    part = 0 < config.tokens < split_tokens
    of = f" of {split_tokens:,}" if part else ""
    print(
        f"| {config.split} | {score.tokens:,}{of} tokens | loss {score.loss:.4f} "
        f"| ppl {score.ppl:.2f} | {rate:,.0f} tokens/s | {what}"
    )
    before = f"{config.split}_{name}"
    job.add_results(
        **{f"{before}loss": score.loss, f"{before}ppl": score.ppl},
        tokens=score.tokens,
        split_tokens=split_tokens,
        tokens_per_s=rate,
        seconds=seconds,
    )
    if not part:
        for unit, value in corpus.figures(config.split, score.loss).items():
            print(f"| {unit.replace('_', ' ')} {value:.4g}")
            job.add_results(**{unit.replace(f"{config.split}_", before, 1): value})
