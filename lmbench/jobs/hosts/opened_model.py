"""A run's model, opened for evaluating candidates of it: see `lmbench.jobs.hosts.laboratory`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from lmbench.config import QuantizeConfig, validate
from lmbench.corpus.batches import score_rows
from lmbench.deploy.load_model import load_run
from lmbench.deploy.packed_file.dequantize import dequantized_bytes
from lmbench.deploy.packed_file.trained_grid import TrainedGrids, trained_grids
from lmbench.distiller.pruning.sensitivity import analyse_sensitivity, model_target, tensor_targets
from lmbench.distiller.quantization.calibration import (
    ActivationStats,
    calibrate,
    load_stats,
    save_stats,
)
from lmbench.distiller.quantization.errors import QuantizationError
from lmbench.distiller.quantization.post_training import modular_copy, quantize
from lmbench.distiller.quantization.settings import QuantSettings
from lmbench.errors import LmbenchError
from lmbench.jobs.hosts.laboratory_messages import OpenModel, stamp_of
from lmbench.jobs.input_files import STATS_FILE
from lmbench.jobs.quantization import (
    moments_of,
    needs_moments,
    scored,
    window_steps,
)
from lmbench.jobs.scoring_text import corpus_of
from lmbench.model import RNNModel, count_weights
from lmbench.model.device import choose_device
from lmbench.model.rnn import shape_of
from lmbench.session import Run
from lmbench.training.checkpoint import read_trained
from lmbench.training.process_setup import prepare_worker

__all__ = ["OpenedModel", "Report"]

Report = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is, and of how much."""


@dataclass
class OpenedModel:
    """One run's model, with the text and the activation ranges that it is evaluated on."""

    model: RNNModel
    modular: nn.Module
    stamp: int
    stats: ActivationStats
    calibration: Tensor
    sample: Tensor
    vocabulary: Sequence[str]
    grids: TrainedGrids
    """Of a model that was trained on a grid or in codes."""
    moments: Mapping[str, Tensor] | None = None
    pruned: dict[str, tuple[float, int, int]] = field(default_factory=dict)

    @classmethod
    def from_run(cls, request: OpenModel, report: Report) -> OpenedModel:
        """Load, and calibrate where no one has yet.

        Raises:
            LmbenchError: the run has no model, or one that is quantized already, or its corpus
                is gone.
        """
        run = Run(Path(request.run))
        report("loading the model", 0, 0)
        device = choose_device(validate(QuantizeConfig, {}))
        prepare_worker(threads=request.threads, device=str(device))
        # Taken first: a training may replace the model while it is loaded and calibrated.
        stamp = stamp_of(run)
        loaded = load_run(run, device=str(device))
        model = loaded.model
        if type(model) is not RNNModel:
            raise LmbenchError(
                f"run {run.ref} is quantized already: name the run that it was made from"
            )
        grids = trained_grids(model, read_trained(loaded.path))
        corpus = corpus_of(run.read().corpus, run.home.path, run.ref)
        split, tokens = request.calibrate_on, request.calibration_tokens
        rows = score_rows(corpus, split, tokens, device, "--calibration-tokens")
        sample = score_rows(corpus, "valid", request.tokens, device)
        modular = modular_copy(model)
        stats = _known_stats(run, request, stamp) if stamp_of(run) == stamp else None
        if stats is None:
            stats = _calibrate(modular, rows, report)
            # Where they cannot be kept (a full disk, another user's run), they are found anew.
            with suppress(OSError):
                path = _stats_path(run, request)
                save_stats(stats, path)
                # The time of the model's file is what they are known to be of it by.
                os.utime(path, ns=(stamp, stamp))
        return cls(model, modular, stamp, stats, rows, sample, loaded.vocabulary, grids)

    def quantized(self, settings: QuantSettings, report: Report) -> nn.Module:
        """The model as these settings make it."""
        if needs_moments(settings) and self.moments is None:
            assert isinstance(self.modular, RNNModel)
            self.moments = moments_of(
                self.modular,
                self.calibration,
                lambda done, total: report("collecting second moments", done, total),
            )
        report("quantizing", 0, 0)
        return quantize(self.model, settings, self.stats, self.moments)

    def loss(self, model: nn.Module, report: Report) -> float:
        """Nats a token on the sample."""
        return scored(
            model, self.sample, lambda done, total: report("evaluating", done, total)
        ).loss

    def prune(self, target: str, level: float, report: Report) -> tuple[float, int, int]:
        """Loss, weights left and bytes when packed of the model with `target` pruned to `level` by
        magnitude."""
        targets = [model_target(self.model), *tensor_targets(self.model)]
        chosen = [found for found in targets if found.name == target]
        if not chosen:
            names = ", ".join(found.name for found in targets)
            raise LmbenchError(f"'{target}' cannot be pruned here: choose one of {names}")
        if not 0 <= level < 1:
            raise LmbenchError(f"a level of {level:g} is out of [0, 1)")
        key = f"{target} {level:g}" if level else "dense"
        if key in self.pruned:
            return self.pruned[key]
        found: list[tuple[float, int, int]] = []

        def score(candidate: nn.Module) -> float:
            assert isinstance(candidate, RNNModel)
            left = count_weights(candidate)[1]
            size = self.grids.packed_bytes(candidate, self.vocabulary)
            found.append((self.loss(candidate, report), left, size))
            return found[-1][0]

        if level:
            # The dense score is known: any number does for it.
            store = {"element|dense|0": 0.0}
            analyse_sensitivity(self.model, score, chosen, [level], store=store)
        else:
            score(self.model)
        self.pruned[key] = found[-1]
        return found[-1]

    @property
    def tokens(self) -> int:
        """How many tokens of the sample are predicted."""
        return (len(self.sample) - 1) * self.sample.shape[1]

    @property
    def packed_bytes(self) -> int:
        """Of the model as it is; for what settings make of it, see `size_of`."""
        return self.grids.packed_bytes(self.model, self.vocabulary)

    def size_of(self, quantized: nn.Module) -> int:
        """Bytes of what packing a quantized model gives."""
        return dequantized_bytes(quantized, shape_of(self.model), self.vocabulary)


def _calibrate(modular: nn.Module, rows: Tensor, report: Report) -> ActivationStats:
    steps, total = window_steps(rows)
    return calibrate(modular, steps, lambda done: report("calibrating", done, total))


def _stats_path(run: Run, request: OpenModel) -> Path:
    return run.path / f"ranges-{request.calibrate_on}-{request.calibration_tokens}.yaml"


def _known_stats(run: Run, request: OpenModel, stamp: int) -> ActivationStats | None:
    """The activation ranges of this very model on this very text, if they were found before."""
    path = _stats_path(run, request)
    ours = [path] if path.is_file() and path.stat().st_mtime_ns == stamp else []
    for found in (*ours, *_of_quantize_runs(run, request, stamp)):
        with suppress(QuantizationError):
            return load_stats(found)
    return None


def _of_quantize_runs(run: Run, request: OpenModel, stamp: int) -> list[Path]:
    """The ranges that runs found which have begun when this model was there."""
    found = []
    for other in run.session.runs():
        if not other.path.name.endswith("-quantize"):
            continue
        try:
            record, config = other.read(), other.config()
        except LmbenchError:
            continue
        alike = (
            isinstance(config, QuantizeConfig)
            and record.status == "finished"
            and record.parent == run.ref
            and record.started is not None
            and record.started * 1e9 > stamp
            and config.calibrate_on == request.calibrate_on
            and config.calibration_tokens == request.calibration_tokens
            and config.stats is None
        )
        if alike:
            found.append(other.path / STATS_FILE)
    return found
