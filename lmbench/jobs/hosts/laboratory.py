"""The process that prices settings for the workbench: ``python -m lmbench.jobs.hosts.laboratory``.

It loads one run's model, a sample of text and the activation ranges once, and then tells within
seconds what a quantization or a one-shot pruning costs on that sample (`laboratory_messages`).
It calibrates, quantizes and scores with the functions of a quantize run (`quantizing`), so that a
price is what the run that is made of it will show on the same tokens. Activation ranges that a
quantize run of this model has already found are taken over; otherwise they are kept beside the
model for the next visit.
"""

from __future__ import annotations

import math
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lmbench.config import QuantizeConfig, SplitName, validate
from lmbench.deploy.load_model import load_run
from lmbench.deploy.packed_file.dequantize import dequantized_bytes
from lmbench.deploy.packed_file.writing import packed_bytes, shape_of
from lmbench.distiller.errors import DistillerError
from lmbench.distiller.pruning.sensitivity import (
    WHOLE_MODEL,
    analyse_sensitivity,
    model_target,
    tensor_targets,
)
from lmbench.distiller.quantization import (
    ActivationStats,
    QuantizationError,
    QuantSettings,
    calibrate,
    load_preset,
    load_stats,
    modular_copy,
    preset_description,
    preset_names,
    quantizable_modules,
    quantize,
    save_stats,
)
from lmbench.distiller.quantization.net_aware import cell_roles
from lmbench.distiller.quantization.settings import Role
from lmbench.errors import LmbenchError
from lmbench.jobs.hosts.laboratory_messages import (
    LANGUAGE,
    Message,
    Module,
    Preset,
    Price,
    Priced,
    Probe,
    Prune,
    Ready,
    Refused,
    Working,
)
from lmbench.jobs.hosts.messages import Say, serve
from lmbench.jobs.input_files import STATS_FILE
from lmbench.jobs.quantization import (
    calibration_rows,
    moments_of,
    needs_moments,
    score_rows,
    scored,
    window_steps,
)
from lmbench.jobs.scoring_text import corpus_of
from lmbench.model import RNNModel, count_weights
from lmbench.model.device import choose_device
from lmbench.session import Run
from lmbench.training.evaluate import perplexity
from lmbench.training.process_setup import prepare_worker

__all__ = ["Bench", "Laboratory", "main"]

_BARS = 32
_PROGRESS_S = 0.2
# The published table: the model as it is, and these.
_PUBLISHED = (
    "fp16",
    "int8-symmetric",
    "int8-asymmetric-per-channel",
    "int8-avg",
    "mixed-eltwise-fp16",
    "mixed-avg",
)

Tell = Callable[[str, int, int], None]


@dataclass
class Bench:
    """One run's model on the bench, with what it is measured by."""

    model: RNNModel
    modular: nn.Module
    stats: ActivationStats
    calibration: Tensor
    sample: Tensor
    vocabulary: Sequence[str]
    moments: Mapping[str, Tensor] | None = None
    pruned: dict[str, tuple[float, int, int]] = field(default_factory=dict)

    @classmethod
    def set_up(cls, request: Probe, tell: Tell) -> Bench:
        """Load, and calibrate where no one has yet.

        Raises:
            LmbenchError: the run has no model, or one that is quantized already, or its corpus
                is gone.
        """
        run = Run(Path(request.run))
        names: Mapping[str, SplitName] = {"train": "train", "valid": "valid", "test": "test"}
        if request.split not in names or request.calibrate_on not in names:
            raise LmbenchError(f"splits are {', '.join(names)}")
        tell("loading the model", 0, 0)
        device = choose_device(validate(QuantizeConfig, {}))
        prepare_worker(threads=request.threads, device=str(device))
        loaded = load_run(run, device=str(device))
        model = loaded.model
        if type(model) is not RNNModel:
            raise LmbenchError(
                f"run {run.ref} is quantized already: name the run that it was made from"
            )
        corpus = corpus_of(run.read().corpus, run.home.path, run.ref)
        rows = calibration_rows(corpus, request.calibrate_on, request.calibration_tokens, device)
        sample = score_rows(corpus, request.split, request.tokens, device)
        if len(sample) < 2:
            raise LmbenchError(f"{request.tokens} tokens of {request.split} leave none to predict")
        modular = modular_copy(model)
        stats = _known_stats(run, request)
        if stats is None:
            stats = _calibrate(modular, rows, tell)
            save_stats(stats, _stats_path(run, request))
        return cls(model, modular, stats, rows, sample, loaded.vocabulary)

    def quantized(self, settings: QuantSettings, tell: Tell) -> nn.Module:
        """The model as these settings make it."""
        if needs_moments(settings) and self.moments is None:
            assert isinstance(self.modular, RNNModel)
            self.moments = moments_of(
                self.modular,
                self.calibration,
                lambda done, total: tell("collecting second moments", done, total),
            )
        tell("quantizing", 0, 0)
        return quantize(self.model, settings, self.stats, self.moments)

    def loss(self, model: nn.Module, tell: Tell) -> float:
        """Nats a token on the sample."""
        return scored(model, self.sample, lambda done, total: tell("scoring", done, total)).loss

    def prune(self, target: str, level: float, tell: Tell) -> tuple[float, int, int]:
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
            size = packed_bytes(candidate, self.vocabulary)
            found.append((self.loss(candidate, tell), left, size))
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
        return packed_bytes(self.model, self.vocabulary)

    def size_of(self, quantized: nn.Module) -> int:
        """Bytes of what packing a quantized model gives."""
        return dequantized_bytes(quantized, shape_of(self.model), self.vocabulary)


class Laboratory:
    """Takes requests, one after the other; `say` is told what happens."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._bench: Bench | None = None
        self._told = 0.0

    @property
    def busy(self) -> bool:
        return False

    def step(self) -> None:
        """Requests are worked on whole: there is nothing to go on with."""

    def handle(self, request: Message) -> None:
        """Do what is asked; what cannot be done is answered with `Refused`."""
        try:
            match request:
                case Probe():
                    self._bench = None
                    bench = Bench.set_up(request, self._teller(request.id))
                    loss = bench.loss(bench.model, self._teller(request.id))
                    self._bench = bench
                    self._say(_ready(request.id, bench, loss))
                case Price():
                    self._price(request, self._set_up)
                case Prune():
                    self._prune(request, self._set_up)
                case _:
                    raise LmbenchError(f"'{request.kind}' is an answer and cannot be asked")
        except Exception as error:
            self._fail(request.id, error)

    @property
    def _set_up(self) -> Bench:
        if self._bench is None:
            raise LmbenchError("no model is on the bench")
        return self._bench

    def _fail(self, id: int, error: Exception) -> None:
        if isinstance(error, LmbenchError | QuantizationError | DistillerError):
            self._say(Refused(id=id, reason=" ".join(str(error).split())))
            return
        traceback.print_exception(error)
        sys.stderr.flush()
        words = " ".join(str(error).split()) or "no further words"
        self._say(Refused(id=id, reason=f"{type(error).__name__} in the laboratory: {words}"))

    def _teller(self, id: int) -> Tell:
        """A progress callback that speaks a few times a second."""

        def tell(what: str, done: int, total: int) -> None:
            now = time.monotonic()
            if not done or done == total or now - self._told > _PROGRESS_S:
                self._told = now
                self._say(Working(id=id, what=what, done=done, total=total))

        return tell

    def _price(self, request: Price, bench: Bench) -> None:
        began, tell = time.perf_counter(), self._teller(request.id)
        if request.settings:
            model = bench.quantized(QuantSettings.from_dict(request.settings), tell)
            size = bench.size_of(model)
        else:
            model, size = bench.model, bench.packed_bytes
        self._tell_price(request.id, bench, bench.loss(model, tell), size, None, began)

    def _prune(self, request: Prune, bench: Bench) -> None:
        began = time.perf_counter()
        tell = self._teller(request.id)
        loss, left, size = bench.prune(request.target, request.level, tell)
        self._tell_price(request.id, bench, loss, size, left, began)

    def _tell_price(
        self, id: int, bench: Bench, loss: float, size: int, left: int | None, began: float
    ) -> None:
        if not math.isfinite(loss):
            raise LmbenchError("the loss is not finite with these settings")
        weights, nonzero, _ = count_weights(bench.model)
        self._say(
            Priced(
                id=id,
                loss=loss,
                ppl=min(perplexity(loss), sys.float_info.max),
                tokens=bench.tokens,
                bytes=size,
                weights=weights,
                nonzero=nonzero if left is None else left,
                seconds=time.perf_counter() - began,
            )
        )


def _calibrate(modular: nn.Module, rows: Tensor, tell: Tell) -> ActivationStats:
    steps, total = window_steps(rows)
    return calibrate(modular, steps, lambda done: tell("calibrating", done, total))


def _stats_path(run: Run, request: Probe) -> Path:
    return run.path / f"ranges-{request.calibrate_on}-{request.calibration_tokens}.yaml"


def _known_stats(run: Run, request: Probe) -> ActivationStats | None:
    """The activation ranges of this very model on this very text, if they were found before."""
    folder = run.checkpoint("best")
    if folder is None:
        return None
    made = (folder / "model.safetensors").stat().st_mtime
    for path in (_stats_path(run, request), *_of_quantize_runs(run, request)):
        try:
            # The model may have been trained on since.
            if path.stat().st_mtime > made:
                return load_stats(path)
        except (OSError, QuantizationError):
            continue
    return None


def _of_quantize_runs(run: Run, request: Probe) -> list[Path]:
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
            and config.calibrate_on == request.calibrate_on
            and config.calibration_tokens == request.calibration_tokens
            and config.stats is None
        )
        if alike:
            found.append(other.path / STATS_FILE)
    return found


def _ready(id: int, bench: Bench, loss: float) -> Ready:
    targets = (WHOLE_MODEL, *(target.name for target in tensor_targets(bench.model)))
    roles = cell_roles(bench.modular)
    return Ready(
        id=id,
        loss=loss,
        bytes=bench.packed_bytes,
        tokens=bench.tokens,
        device=str(bench.sample.device),
        modules=tuple(
            _module(name, module, roles.get(name, ""), bench.stats)
            for name, module in quantizable_modules(bench.modular).items()
        ),
        presets=tuple(
            Preset(
                name=name,
                about=preset_description(name),
                published=name in _PUBLISHED,
                settings=load_preset(name).to_dict(),
            )
            for name in preset_names()
        ),
        targets=targets,
    )


def _module(name: str, module: nn.Module, role: Role, stats: ActivationStats) -> Module:
    output: Mapping[str, Any] = stats.get(name, {}).get("output", {})
    weight = getattr(module, "weight", None)
    sides = weight.shape if isinstance(weight, Tensor) else (0, 0)
    low, high = float(output.get("min", 0.0)), float(output.get("max", 0.0))
    return Module(
        name=name,
        type=type(module).__name__,
        role=role,
        weights=math.prod(sides),
        columns=sides[-1],
        low=low,
        high=high,
        mean=float(output.get("mean", 0.0)),
        std=float(output.get("std", 0.0)),
        counts=_bars(output.get("histogram"), low, high),
    )


def _bars(histogram: Mapping[str, Any] | None, low: float, high: float) -> tuple[int, ...]:
    """The counts of `_BARS` equal parts of [low, high]."""
    if not histogram or high <= low:
        return ()
    counts = [int(count) for count in str(histogram["counts"]).split()]
    first, width = float(histogram["low"]), float(histogram["width"])
    bars = [0] * _BARS
    for place, count in enumerate(counts):
        if count:
            share = (first + (place + 0.5) * width - low) / (high - low)
            bars[min(max(int(share * _BARS), 0), _BARS - 1)] += count
    return tuple(bars)


def main() -> None:
    serve("laboratory", LANGUAGE, Laboratory, niceness=0)


if __name__ == "__main__":
    main()
