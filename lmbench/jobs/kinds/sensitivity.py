"""A sensitivity analysis: what pruning each tensor alone would cost."""

from __future__ import annotations

import contextlib

import torch
from torch import nn

from lmbench.config import SensitivityConfig
from lmbench.corpus.batches import score_rows
from lmbench.deploy.load_model import load_run
from lmbench.distiller.errors import DistillerError
from lmbench.distiller.pruning.sensitivity import (
    Sensitivity,
    Target,
    all_targets,
    analyse_sensitivity,
    gate_targets,
    model_target,
    tensor_targets,
)
from lmbench.distiller.pruning.sensitivity import SensitivityPoint as Point
from lmbench.distiller.schedules.suggest import suggest_targets, suggestion_to_schedule
from lmbench.errors import LmbenchError
from lmbench.jobs.job import Job
from lmbench.jobs.kinds.common import StoppedError, note_model, note_parent, parent_of
from lmbench.jobs.scoring_text import corpus_of
from lmbench.model import RNNModel, count_weights
from lmbench.model.device import choose_device
from lmbench.session.event_log import read_events
from lmbench.session.events import Progress, RunStarted, SensitivityPoint
from lmbench.session.files import write_atomic
from lmbench.training.evaluate import evaluate
from lmbench.training.process_setup import prepare_worker

__all__ = ["SCHEDULE_FILE", "TABLE_FILE", "work"]

TABLE_FILE = "sensitivity.csv"
SCHEDULE_FILE = "suggested.yaml"

_BPTT = 35


def work(job: Job) -> None:
    """Score every target at every level; points of an earlier attempt are not scored again."""
    config = job.config
    assert isinstance(config, SensitivityConfig)
    device = choose_device(config)
    prepare_worker(threads=config.threads, device=str(device))
    parent = parent_of(job)
    note_parent(job, parent)
    job.update(device=str(device))
    corpus = corpus_of(parent.read().corpus, job.home.path, parent.ref)
    loaded = load_run(parent, device=str(device))
    if not loaded.plain:
        raise LmbenchError(f"run {parent.ref} is quantized: name the run that it was made from")
    model = loaded.recurrent
    data = score_rows(corpus, config.split, config.tokens, device, "--tokens")
    note_model(job, loaded.path)
    store = _known_points(job)
    if not job.carries_on:
        job.emit(RunStarted(device=str(device), threads=torch.get_num_threads()))
    with contextlib.suppress(StoppedError):
        found = _analyse(job, config, model, data, store)
        _finish(job, config, found, len(corpus.split(config.split)))
    weights, nonzero, biases = count_weights(model)
    job.add_results(parameters=weights, biases=biases, nonzero=nonzero)


def _known_points(job: Job) -> dict[str, float]:
    """The points that this run has scored before it was interrupted."""
    return {
        Point(e.tensor, "", e.granularity, e.level, e.ppl).key: e.ppl
        for e in read_events(job.run.events_path)
        if isinstance(e, SensitivityPoint)
    }


def _analyse(
    job: Job,
    config: SensitivityConfig,
    model: RNNModel,
    data: torch.Tensor,
    store: dict[str, float],
) -> Sensitivity:
    before = set(store)

    def score(candidate: nn.Module) -> float:
        assert isinstance(candidate, RNNModel)
        return evaluate(candidate, data, _BPTT).ppl

    def on_point(point: Point, done: int, total: int) -> None:
        if point.key not in before:
            job.emit(
                SensitivityPoint(
                    tensor=point.target,
                    part=point.kind,
                    granularity=point.group,
                    level=point.level,
                    ppl=point.score,
                )
            )
        job.emit(Progress(what=f"{point.target} at {point.level:.0%}", done=done, total=total))
        if job.control() == "stop":
            raise StoppedError

    return analyse_sensitivity(
        model,
        score,
        _targets(config, model),
        [level for level in config.levels if level > 0],
        config.granularity,
        (8, 8) if config.granularity == "blocks" else None,
        store,
        on_point,
    )


def _targets(config: SensitivityConfig, model: nn.Module) -> list[Target]:
    match config.per:
        case "gate":
            return gate_targets(model)
        case "model":
            return [model_target(model)]
        case "all":
            return all_targets(model)
        case _:
            return tensor_targets(model)


def _finish(job: Job, config: SensitivityConfig, found: Sensitivity, split_tokens: int) -> None:
    table = found.table().to_csv().encode()
    write_atomic(job.run.path / TABLE_FILE, table, job.run.staging)
    job.add_results(
        **{f"{config.split}_ppl": found.dense}, tokens=config.tokens, split_tokens=split_tokens
    )
    print(found.table().to_text(), flush=True)
    if config.suggest is None:
        return
    try:
        suggestion = suggest_targets(found.curves("tensor"), found.sizes, config.suggest)
        text = suggestion_to_schedule(suggestion, group=config.granularity)
    except DistillerError as error:
        raise LmbenchError(f"--suggest: {error}") from None
    write_atomic(job.run.path / SCHEDULE_FILE, text.encode(), job.run.staging)
    job.add_results(
        suggested_sparsity=suggestion.sparsity,
        predicted_ppl=suggestion.predicted,
        schedule=str(job.run.path / SCHEDULE_FILE),
    )
    print(f"\nsuggested schedule: {job.run.path / SCHEDULE_FILE}", flush=True)
