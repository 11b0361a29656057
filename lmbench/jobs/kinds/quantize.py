"""Post-training quantization of a run's model: calibrate, quantize, score, keep."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from lmbench.config import QuantizeConfig
from lmbench.config.quantize import parse_budget
from lmbench.corpus import Corpus
from lmbench.corpus.batches import score_rows
from lmbench.deploy.load_model import QUANTIZATION, load_run
from lmbench.deploy.packed_file.dequantize import dequantized, dequantized_bytes
from lmbench.distiller.quantization.calibration import (
    ActivationStats,
    calibrate,
    load_stats,
    save_stats,
)
from lmbench.distiller.quantization.errors import QuantizationError
from lmbench.distiller.quantization.module_report import ModuleReport, quantization_table
from lmbench.distiller.quantization.post_training import (
    SaturationWarning,
    modular_copy,
    quantize,
    saturating_modules,
    saturation_warning,
)
from lmbench.distiller.quantization.search import auto_quantize
from lmbench.distiller.quantization.settings import QuantSettings
from lmbench.distiller.quantization.settings_files import load_preset, preset_names
from lmbench.distiller.quantization.storage import export_state, quantized_bytes
from lmbench.distiller.quantization.trials import Budget, Trial
from lmbench.errors import LmbenchError
from lmbench.jobs.input_files import SETTINGS_FILE, STATS_FILE
from lmbench.jobs.job import Job
from lmbench.jobs.kinds.common import (
    StoppedError,
    note_model,
    note_parent,
    parent_of,
    progress_callback,
    score_event,
    weight_results,
)
from lmbench.jobs.quantization import (
    check_fit,
    moments_of,
    needs_moments,
    scored,
    settings_of,
    window_steps,
)
from lmbench.jobs.scoring_text import corpus_of
from lmbench.model import RNNModel
from lmbench.model.device import choose_device
from lmbench.perplexity import perplexity
from lmbench.session.event_log import read_events
from lmbench.session.events import Calibration, Candidate, QuantResult, RunStarted
from lmbench.session.files import drop_fresh, fresh_folder, swap_in, write_atomic, write_json
from lmbench.training.process_setup import prepare_worker

__all__ = ["quant_result", "work"]

# Of these windows the outputs of every module are held twice, to compute their error.
_SQNR_WINDOWS = 2
_SEARCH_TOKENS = 20_000
# What a packed file holds: other widths would save nothing.
_WIDTHS = (8, 4)
_TWO_MATRICES = (
    "encoder and decoder, one matrix in the float model, are rounded differently, so a packed file "
    "holds both; --override decoder:rounding=nearest keeps them one where their bits are the same"
)


def work(job: Job) -> None:
    """Quantize the parent's model; a stop leaves the statistics, and the model where it was being
    scored already."""
    with contextlib.suppress(StoppedError):
        try:
            _work(job)
        except QuantizationError as error:
            raise LmbenchError(str(error)) from error


def _work(job: Job) -> None:
    config = job.config
    assert isinstance(config, QuantizeConfig)
    device = choose_device(config)
    prepare_worker(threads=config.threads, device=str(device))
    torch.manual_seed(config.seed)
    own = job.run.path / SETTINGS_FILE
    settings = settings_of(config, own if own.is_file() else None)
    parent = parent_of(job)
    note_parent(job, parent)
    job.update(device=str(device))
    corpus = corpus_of(parent.read().corpus, job.home.path, parent.ref)
    loaded = load_run(parent, device=str(device))
    if config.auto:
        note_model(job, loaded.path)
    model = loaded.model
    if type(model) is not RNNModel:
        raise LmbenchError(
            f"run {parent.ref} is quantized already: name the run that it was made from"
        )
    given = load_stats(job.run.path / STATS_FILE) if config.stats else None
    check_fit(settings, given, parent.read().shape)

    def size(quantized: nn.Module) -> int:
        return dequantized_bytes(quantized, loaded.shape, loaded.vocabulary)

    modular = modular_copy(model)
    # Looked at first: what cannot be scored takes no hours of calibrating.
    texts = {
        split: score_rows(corpus, split, config.eval_tokens, device, "--eval-tokens")
        for split in ("valid", "test")
    }
    if not job.carries_on:
        job.emit(RunStarted(device=str(device), threads=torch.get_num_threads()))
    split, tokens = config.calibrate_on, config.calibration_tokens
    data = score_rows(corpus, split, tokens, device, "--calibration-tokens")
    stats = None if config.dynamic else given or _calibrate(job, modular, data)
    moments = None
    if needs_moments(settings):
        assert isinstance(modular, RNNModel)
        moments = moments_of(modular, data, progress_callback(job, "collecting second moments"))
    if config.auto:
        settings = _search(job, config, model, corpus, stats, settings, moments, device, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SaturationWarning)
        quantized = quantize(model, settings, stats, moments)
    narrow = saturating_modules(quantized)
    if narrow:
        job.warn(saturation_warning(narrow))
    _report_modules(job, quantized, modular, data)
    tensors, meta = export_state(quantized, settings, dynamic=stats is None)
    _keep(job, tensors, meta)
    job.add_results(packed_bytes=size(quantized))
    if moments is not None and model.tied and not dequantized(quantized, loaded.shape).model.tied:
        job.warn(_TWO_MATRICES)
    _score(job, config, model, quantized, corpus, texts)


def _calibrate(job: Job, modular: nn.Module, data: Tensor) -> ActivationStats:
    steps, total = window_steps(data)
    report = progress_callback(job, "calibrating")
    stats = calibrate(modular, steps, lambda done: report(done, total))
    written = (job.run.staging or job.run.path) / STATS_FILE
    save_stats(stats, written)
    written.replace(job.run.path / STATS_FILE)
    if not job.carries_on:
        for module, entry in stats.items():
            job.emit(Calibration(module=module, stats=_plain(entry)))
    return stats


def _plain(entry: Any) -> dict[str, Any]:
    """Of a module's statistics what a table shows: the numbers, without the histograms."""

    def numbers(side: Any) -> dict[str, Any]:
        return {k: v for k, v in dict(side).items() if isinstance(v, int | float | str)}

    inputs = {str(number): numbers(side) for number, side in dict(entry["inputs"]).items()}
    return {"inputs": inputs, "output": numbers(entry["output"])}


def _search(
    job: Job,
    config: QuantizeConfig,
    model: RNNModel,
    corpus: Corpus,
    stats: ActivationStats | None,
    base: QuantSettings,
    moments: Any,
    device: torch.device,
    size: Callable[[nn.Module], int],
) -> QuantSettings:
    """Choose clip mode and bits per module within the budget, of the file that packing gives;
    every try is an event."""
    sample = score_rows(corpus, "valid", _SEARCH_TOKENS, device)
    budget = Budget(*parse_budget(config.budget or ""))
    earlier = [
        Trial.from_dict(event.settings)
        for event in read_events(job.run.events_path)
        if isinstance(event, Candidate)
    ]
    evaluated, float_loss = 0, math.inf

    def loss(candidate: nn.Module) -> float:
        if job.control() == "stop":
            raise StoppedError
        return scored(candidate, sample).loss

    def on_try(trial: Trial) -> None:
        nonlocal evaluated, float_loss
        evaluated += 1
        if trial.phase == "float":
            float_loss = trial.loss
        if evaluated <= len(earlier):
            return
        job.emit(
            Candidate(
                number=evaluated,
                settings=trial.to_dict(),
                loss=trial.loss,
                ppl=perplexity(trial.loss),
                bytes=trial.bytes,
                accepted=trial.phase == "candidate" and budget.holds(trial, float_loss),
            )
        )

    result = auto_quantize(
        model,
        stats,
        loss,
        budget,
        base,
        bits=_WIDTHS,
        input_moments=moments,
        on_try=on_try,
        resume=earlier,
        size=size,
        whole={name: load_preset(name) for name in preset_names()},
    )
    return result.settings


def _report_modules(job: Job, quantized: nn.Module, modular: nn.Module, data: Tensor) -> None:
    def run(model: nn.Module) -> None:
        steps, _ = window_steps(data, _SQNR_WINDOWS)
        with torch.no_grad():
            for step in steps:
                step(model)

    for row in quantization_table(quantized, modular, run):
        job.emit(quant_result(row))


def quant_result(row: ModuleReport) -> QuantResult:
    """How a module was quantized, as an event: the fields of its row that are set."""
    settings = {k: v for k, v in asdict(row).items() if v not in (None, "")}
    settings.pop("name")
    return QuantResult(module=row.name, settings=settings, sqnr=row.output_sqnr)


def _keep(job: Job, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Write ``best/``: the quantized tensors and how to run them, swapped in whole."""
    final = job.run.path / "best"
    fresh = fresh_folder(final, job.run.staging)
    try:
        write_atomic(fresh / "model.safetensors", save(tensors))
        write_json(fresh / QUANTIZATION, {"version": 1, **meta})
    except OSError:
        drop_fresh(final, job.run.staging)
        raise
    swap_in(fresh, final)


def _score(
    job: Job,
    config: QuantizeConfig,
    model: RNNModel,
    quantized: nn.Module,
    corpus: Corpus,
    texts: Mapping[str, Tensor],
) -> None:
    results: dict[str, Any] = {}
    for split, data in texts.items():
        found = scored(quantized, data, progress_callback(job, f"scoring {split}"))
        job.emit(score_event(split, found, found.tokens_per_s, "quantized"))
        print(f"| {split} | loss {found.loss:.4f} | ppl {found.ppl:.2f}", flush=True)
        results |= {f"{split}_loss": found.loss, f"{split}_ppl": found.ppl}
        if not 0 < config.eval_tokens < len(corpus.split(split)):
            results |= corpus.figures(split, found.loss)
        results["tokens_per_s"] = found.tokens_per_s
    job.add_results(
        **weight_results(model, job.run),
        sizes=quantized_bytes(quantized),
        split_tokens=max(len(corpus.split(split)) for split in texts),
        **results,
    )
