"""Laboratories that answer at once and runs that were measured, for the screens that show them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmbench.config import BenchmarkConfig, SensitivityConfig, validate
from lmbench.distiller.quantization.settings import Role
from lmbench.jobs.hosts import laboratory_messages as messages
from lmbench.session import Run
from lmbench.session import events as ev
from lmbench.tui.new_run.corpus_size import CorpusSize

BASE: dict[str, Any] = {
    "bits_activations": 8, "bits_weights": 8, "mode": "SYMMETRIC", "clip_acts": "MSE",
    "clip_n_stds": None, "per_channel_wts": True, "per_row_embedding": True, "group_size": None,
    "precision": None, "net_aware": True, "bits_state": None, "clip_state": None,
    "fp_activations": False, "overrides": {},
}  # fmt: skip
PUBLISHED = ("fp16", "int8-symmetric", "int8-asymmetric-per-channel", "int8-avg",
             "mixed-eltwise-fp16", "mixed-avg")  # fmt: skip
LEVELS = (0.2, 0.4, 0.6, 0.8, 0.9, 0.95)
MATRICES = ("encoder.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.weight_ih_l1",
            "rnn.weight_hh_l1")  # fmt: skip


def module(
    name: str, type: str, weights: int, low: float, high: float, role: Role = ""
) -> messages.Module:
    counts = tuple(1 + (place * 7) % 11 for place in range(32))
    return messages.Module(
        name=name, type=type, role=role, weights=weights, columns=200 if weights else 0,
        low=low, high=high, std=0.5, counts=counts,
    )  # fmt: skip


READY = messages.Ready(
    id=1,
    stamp=0,
    loss=4.8,
    bytes=29_321_000,
    tokens=20_470,
    modules=(
        module("encoder", "Embedding", 6_655_600, -1.0, 1.0),
        module("rnn.cells.0.fc_gate_x", "Linear", 160_000, -20.0, 19.0),
        module("rnn.cells.0.act_f", "Sigmoid", 0, 0.0, 1.0),
        module("rnn.cells.0.eltwisemult_hidden", "EltwiseMult", 0, -1.0, 1.0),
        module("decoder", "Linear", 6_655_600, -18.0, 24.0),
    ),
    presets=tuple(
        messages.Preset(
            name=name,
            about=f"what {name} does",
            published=name in PUBLISHED,
            settings={**BASE, "bits_accum": 32 - place},
        )
        for place, name in enumerate((*PUBLISHED, "int8-best"))
    ),
    targets=("model", *MATRICES),
)


def ready(request: messages.OpenModel) -> messages.Ready:
    return replace(READY, stamp=messages.stamp_of(Run(Path(request.run))))


class Laboratory:
    """Answers at once, and by rule: the fewer bits, the dearer."""

    asked: list[messages.Message]

    def __init__(self, path: Path, received: Callable[[messages.Message], None]) -> None:
        self._received = received
        Laboratory.asked = []

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def send(self, message: messages.Message) -> None:
        Laboratory.asked.append(message)
        match message:
            case messages.OpenModel():
                self._received(ready(message))
            case messages.Evaluate(settings=settings):
                if settings.get("clip_acts") == "KL":
                    self._received(messages.Refused(id=message.id, reason="KL is not available"))
                    return
                loss = 4.8 + (settings.get("bits_accum", 32) - 20) / 1000 * bool(settings)
                loss += 0.05 * len(settings.get("overrides", {}))
                self._received(_evaluated(message.id, loss, 7_400_000))
            case messages.Prune(level=level):
                size = round(29_321_000 * (1 - level))
                self._received(_evaluated(message.id, 4.8 + level**4, size, level))


def _evaluated(id: int, loss: float, size: int, level: float = 0.0) -> messages.Evaluated:
    left = round(7_295_600 * (1 - level))
    return messages.Evaluated(
        id=id, loss=loss, ppl=2.718281828**loss, tokens=20_470, bytes=size, weights=7_295_600,
        nonzero=left, seconds=2.5,
    )  # fmt: skip


async def size_of(*_: object) -> CorpusSize:
    """No corpus is read."""
    return CorpusSize("wikitext-2", 33_278, 2_088_628, 217_646)


def measure(world: Any, granularity: str = "element", per: str = "tensor") -> Run:
    """A finished sensitivity run of the dense one."""
    dense = world.session.run(1)
    config = validate(SensitivityConfig, {"granularity": granularity, "per": per})
    run = world.session.new_run(config, "sensitivity", name="curves", parent=dense)
    run.update(status="finished")
    names = {"tensor": MATRICES, "gate": ("rnn.l0.input", "rnn.l0.forget"), "model": ("model",)}
    common: dict[str, Any] = {"granularity": granularity}
    points = [ev.SensitivityPoint(tensor="dense", part="model", level=0.0, ppl=124.1, **common)]
    for place, name in enumerate(names[per]):
        for level in LEVELS:
            ppl = 124.1 * (1 + (level ** (3 + place)) * (place + 1) / 4)
            points.append(
                ev.SensitivityPoint(tensor=name, part=per, level=level, ppl=ppl, **common)
            )
    world.write(run, *points)
    return run


def benchmarked(world: Any, *numbers: int) -> None:
    """Finished benchmarks of runs 1 and 2, or of those that are named."""
    for number in numbers or (1, 2):
        subject = world.session.run(number)
        run = world.session.new_run(BenchmarkConfig(), "benchmark", name="speed", parent=subject)
        rows = [{"model": subject.ref, **row} for row in _RUNTIMES[number]]
        run.update(status="finished", results={"rows": rows})


def _runtime(name: str, accuracy: str, ms: float, rate: float, ppl: float) -> dict[str, Any]:
    int8 = "int" in name
    return {
        "runtime": name, "accuracy": accuracy, "disk": 29_321_000,
        "numbers": 7_420_000 if int8 else 29_182_400, "peak": 61_200_000 if int8 else 88_400_000,
        "ms": ms, "ms_p95": 1.2 * ms, "tokens_per_s": rate, "ppl": ppl, "tokens": 20_000,
        "split_tokens": 245_569, "step_vs_naive": 1.9 / ms, "step_vs_fp32": 0.61 / ms,
        "score_vs_naive": rate / 8_200, "score_vs_fp32": rate / 14_800,
    }  # fmt: skip


_RUNTIMES = {
    1: (
        _runtime("naive", "exact", 1.9, 8_200.0, 118.30),
        _runtime("torch", "exact", 0.61, 14_800.0, 118.30),
        _runtime("native-int8", "close", 0.148, 34_100.0, 118.34),
        _runtime("int4", "coarse", 0.121, 31_700.0, 119.42),
    ),
    2: (_runtime("torch", "exact", 0.613, 14_760.0, 125.51),),
}
