"""The process that evaluates candidates for the workbench: ``python -m
lmbench.jobs.hosts.laboratory``.

It loads one run's model, a sample of text and the activation ranges once, and then evaluates a
quantization or a one-shot pruning on that sample within seconds (`laboratory_messages`). It
calibrates, quantizes and scores with the functions of a quantize run (`jobs.quantization`), so
that a run made of a candidate shows the same loss on the same tokens. Activation ranges that a
quantize run of this model has already found are taken over; otherwise they are kept beside the
model for the next time.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lmbench.distiller.pruning.sensitivity import WHOLE_MODEL, tensor_targets
from lmbench.distiller.quantization.calibration import ActivationStats
from lmbench.distiller.quantization.net_aware import cell_roles
from lmbench.distiller.quantization.post_training import quantizable_modules
from lmbench.distiller.quantization.settings import QuantSettings, Role
from lmbench.distiller.quantization.settings_files import (
    load_preset,
    preset_description,
    preset_names,
)
from lmbench.errors import LmbenchError
from lmbench.jobs.hosts.laboratory_messages import (
    MESSAGES,
    Evaluate,
    Evaluated,
    Message,
    Module,
    OpenModel,
    Preset,
    Progress,
    Prune,
    Ready,
)
from lmbench.jobs.hosts.messages import Send, refusal, serve
from lmbench.jobs.hosts.opened_model import OpenedModel, Report
from lmbench.model import count_weights
from lmbench.perplexity import perplexity
from lmbench.report.published_figures import QUANTIZED

__all__ = ["Laboratory", "main"]

_BARS = 32
_PROGRESS_S = 0.2


class Laboratory:
    """Works on requests, one after the other; answers go to `send`."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._opened: OpenedModel | None = None
        self._reported = 0.0

    @property
    def busy(self) -> bool:
        return False

    def step(self) -> None:
        """Requests are worked on whole: there is nothing to go on with."""

    def handle(self, request: Message) -> None:
        """Do what is requested; what cannot be done is answered with `Refused`."""
        report = self._reporter(request.id)
        try:
            match request:
                case OpenModel():
                    self._opened = None
                    opened = OpenedModel.from_run(request, report)
                    loss = opened.loss(opened.model, report)
                    self._opened = opened
                    self._send(_ready(request.id, opened, loss))
                case Evaluate() | Prune():
                    self._score(request, self._model, report)
                case _:
                    raise LmbenchError(f"'{request.kind}' is an answer, not a request")
        except Exception as error:
            self._send(refusal(request.id, "laboratory", error))

    @property
    def _model(self) -> OpenedModel:
        if self._opened is None:
            raise LmbenchError("no model has been opened")
        return self._opened

    def _reporter(self, id: int) -> Report:
        """A callback that sends progress a few times a second."""

        def report(what: str, done: int, total: int) -> None:
            now = time.monotonic()
            if not done or done == total or now - self._reported > _PROGRESS_S:
                self._reported = now
                self._send(Progress(id=id, what=what, done=done, total=total))

        return report

    def _score(self, request: Evaluate | Prune, opened: OpenedModel, report: Report) -> None:
        began = time.perf_counter()
        weights, left, _ = count_weights(opened.model)
        if isinstance(request, Prune):
            loss, left, size = opened.prune(request.target, request.level, report)
        elif request.settings:
            model = opened.quantized(QuantSettings.from_dict(request.settings), report)
            loss, size = opened.loss(model, report), opened.size_of(model)
        else:
            loss, size = opened.loss(opened.model, report), opened.packed_bytes
        if not math.isfinite(loss):
            raise LmbenchError("the loss is not finite with these settings")
        self._send(
            Evaluated(
                id=request.id,
                loss=loss,
                ppl=min(perplexity(loss), sys.float_info.max),
                tokens=opened.tokens,
                bytes=size,
                weights=weights,
                nonzero=left,
                seconds=time.perf_counter() - began,
            )
        )


def _ready(id: int, opened: OpenedModel, loss: float) -> Ready:
    targets = (WHOLE_MODEL, *(target.name for target in tensor_targets(opened.model)))
    roles = cell_roles(opened.modular)
    return Ready(
        id=id,
        stamp=opened.stamp,
        loss=loss,
        bytes=opened.packed_bytes,
        tokens=opened.tokens,
        modules=tuple(
            _module(name, module, roles.get(name, ""), opened.stats)
            for name, module in quantizable_modules(opened.modular).items()
        ),
        presets=tuple(
            Preset(
                name=name,
                about=preset_description(name),
                published=name in QUANTIZED,
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
    serve("laboratory", MESSAGES, Laboratory, niceness=0)


if __name__ == "__main__":
    main()
