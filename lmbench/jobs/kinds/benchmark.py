"""A benchmarking run: models in each runtime that can run them, in turns, in one table."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path

import numpy as np

from lmbench.config import BenchmarkConfig
from lmbench.corpus import Corpus
from lmbench.deploy.benchmark import benchmark, entrants
from lmbench.deploy.load_model import LoadedModel, load_file, load_run
from lmbench.errors import LmbenchError
from lmbench.jobs.job import Job
from lmbench.jobs.scoring_text import corpus_of, corpus_of_file
from lmbench.model.device import choose_device
from lmbench.report.compare import runtime_table
from lmbench.session import Run
from lmbench.session.events import Progress
from lmbench.training.process_setup import prepare_worker

__all__ = ["work"]

_CHECKPOINT = "best"
_SEED = 1111


def work(job: Job) -> None:
    """Measure the models that the settings name, else the parent."""
    config = job.config
    assert isinstance(config, BenchmarkConfig)
    device = choose_device(config)
    prepare_worker(threads=config.threads, device=str(device))
    named = config.models or ((job.record.parent,) if job.record.parent else ())
    if not named:
        raise LmbenchError("benchmark needs at least one run or packed file")
    models: list[LoadedModel] = []
    sources: dict[str, tuple[Path, str]] = {}
    texts: list[Corpus | None] = []
    for name in named:
        loaded, source, text = _open(job, name, str(device))
        if loaded.title in sources:
            raise LmbenchError(f"{loaded.title} is named twice: give files of one name other names")
        models.append(loaded)
        sources[loaded.title] = source, _CHECKPOINT
        texts.append(text)
    if len({loaded.shape["ntoken"] for loaded in models}) > 1:
        raise LmbenchError(
            "the models have vocabularies of different sizes, so one text cannot measure them: "
            + ", ".join(f"{m.title} {m.shape['ntoken']:,}" for m in models)
        )
    job.update(device=str(device))
    ids, split_tokens = _text(job, texts, int(models[0].shape["ntoken"]), config)

    def report(what: str, done: int, total: int) -> None:
        job.emit(Progress(what=what, done=done, total=total))

    rows = benchmark(
        entrants(models, config.runtimes),
        ids,
        words=config.words,
        rounds=config.rounds,
        split_tokens=split_tokens,
        sources=sources,
        progress=report,
        stop=lambda: job.control() == "stop",
    )
    documents = [asdict(row) for row in rows]
    print(runtime_table(documents).text(), flush=True)
    job.add_results(rows=documents)


def _open(job: Job, name: str, device: str) -> tuple[LoadedModel, Path, Corpus | None]:
    """A model, where its memory can be measured from, and the text it knows."""
    path = job.home.file_of(name, job.session.name)
    if path is not None:
        loaded = load_file(path, device, str(path) if path.is_dir() else None)
        return loaded, path, corpus_of_file(loaded.corpus, job.home.path)
    run: Run = job.home.find_run(name, job.session.name)
    # Rows of another working folder's are not those of the run that is called so here.
    title = run.ref if run.home == job.home else str(run.path)
    loaded, text = load_run(run, _CHECKPOINT, device, title), None
    with contextlib.suppress(LmbenchError):
        text = corpus_of(run.read().corpus, job.home.path, run.ref)
    return loaded, run.path, text


def _text(
    job: Job, texts: list[Corpus | None], ntoken: int, config: BenchmarkConfig
) -> tuple[np.ndarray, int | None]:
    """The start of the test split and how many tokens that has, or, where the corpus is not at
    hand, random words and None."""
    fingerprints = {text.fingerprint if text else "" for text in texts}
    corpus = texts[0]
    if corpus is not None and len(fingerprints) == 1:
        ids = np.asarray(corpus.split("test"))
        return ids[: config.tokens or None], len(ids)
    job.warn(
        "the models' corpus is not at hand or not the same for all: random words are stepped, and "
        "no perplexity is given"
    )
    return np.random.default_rng(_SEED).integers(0, ntoken, config.tokens or 20_000), None
