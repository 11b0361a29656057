"""An evaluation: the perplexity of a run's model on a split, as it runs."""

from __future__ import annotations

import contextlib
import time

from lmbench.config import EvaluateConfig
from lmbench.corpus.batches import batchify
from lmbench.deploy.choice import open_runtime
from lmbench.deploy.load import load_run
from lmbench.deploy.runtime import Score
from lmbench.errors import LmbenchError
from lmbench.generation.cache import NeuralCache, evaluate_with_cache
from lmbench.jobs.job import Job
from lmbench.jobs.kinds.common import StoppedError, corpus_of, note_parent, parent_of, seldom
from lmbench.model import RNNModel, count_weights
from lmbench.model.device import choose_device
from lmbench.session import events
from lmbench.training.startup import prepare_worker

__all__ = ["work"]


def work(job: Job) -> None:
    """Score the split once; a stop leaves no score."""
    with contextlib.suppress(StoppedError):
        _work(job)


def _work(job: Job) -> None:
    config = job.config
    assert isinstance(config, EvaluateConfig)
    device = choose_device(config)
    prepare_worker(threads=config.threads, device=str(device))
    parent = parent_of(job)
    note_parent(job, parent)
    job.update(device=str(device))
    corpus = corpus_of(parent, job.home.path, config.data)
    loaded = load_run(parent, config.checkpoint, device=str(device))
    ids = corpus.split(config.split)
    data = batchify(ids[: config.tokens or None], config.eval_batch_size, device)
    if len(data) < 2:
        raise LmbenchError(
            f"--tokens {config.tokens} leaves nothing to predict in {config.eval_batch_size} "
            "columns; score more tokens"
        )
    job.emit(events.RunStarted(device=str(device)))
    progress = seldom(job, f"scoring {config.split}")
    began = time.perf_counter()
    if config.cache:
        if not isinstance(loaded.model, RNNModel):
            raise LmbenchError("--cache needs a model that is not quantized")
        cache = NeuralCache(config.cache, config.cache_theta, config.cache_lambda)
        score = evaluate_with_cache(loaded.model, data, config.bptt, cache, progress)
    else:
        runtime = open_runtime(config.runtime, loaded, "score")
        score = runtime.evaluate(data, config.bptt, progress)
    seconds = time.perf_counter() - began
    _note(job, config, score, seconds)
    weights, nonzero, biases = count_weights(loaded.model)
    job.add_results(parameters=weights + biases, nonzero=nonzero, bytes=parent.model_bytes())


def _note(job: Job, config: EvaluateConfig, score: Score, seconds: float) -> None:
    rate = score.tokens / seconds
    job.emit(
        events.Score(
            split=config.split,
            loss=score.loss,
            ppl=score.ppl,
            tokens=score.tokens,
            tokens_per_s=rate,
            what=config.runtime,
        )
    )
    print(
        f"| {config.split} | {score.tokens:,} tokens | loss {score.loss:.4f} "
        f"| ppl {score.ppl:.2f} | {rate:,.0f} tokens/s"
    )
    job.add_results(
        **{f"{config.split}_loss": score.loss, f"{config.split}_ppl": score.ppl},
        tokens=score.tokens,
        tokens_per_s=rate,
        seconds=seconds,
    )
