"""`--runtime`: a name, the form that the model has, or the fastest here, measured once."""

from __future__ import annotations

import hashlib
import math
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

import torch
from torch import Tensor

from lmbench.deploy.load_model import LoadedModel
from lmbench.deploy.native.build import KERNELS
from lmbench.deploy.runtimes.interface import Accuracy, Runtime, one_thread
from lmbench.deploy.runtimes.table import as_is_runtime, build_runtime, supported
from lmbench.model.device import in_float64
from lmbench.session.remembered import recall, remember

__all__ = ["Measured", "Purpose", "choose_runtime", "measure", "open_runtime"]

Purpose = Literal["step", "score"]
"""What the runtime is for: a word at a time, or a whole text."""

# What a mean divergence from fp32 may be, in nats a word: on text drawn from the model itself,
# perplexity grows by exp of it, so these are 0.1% and 1%.
_ALLOWED: Mapping[Accuracy, float] = {"exact": 1e-5, "close": 1e-3, "coarse": 1e-2}
_RANK: Mapping[Accuracy, int] = {"exact": 0, "close": 1, "coarse": 2}

_WORDS = 48  # stepped by each runtime, for speed and divergence
_ROUNDS = 3  # interleaved, so that a busy moment does not hit one runtime alone
_HOPELESS = 4  # times slower than the best in the first round: not asked again
_BATCH, _WINDOW = 10, 35  # what scoring is timed on
_SEED = 20_210


@dataclass(frozen=True)
class Measured:
    """What one runtime did with a model on this machine."""

    name: str
    seconds: float
    """A step's, or a window's of 10 x 35 words: the median."""

    divergence: float
    """Mean KL divergence from the exact prediction, in nats a word."""


def open_runtime(
    name: str, loaded: LoadedModel, purpose: Purpose, accuracy: Accuracy = "close"
) -> Runtime:
    """The runtime of that name.

    ``as-is`` is `as_is_runtime`, ``auto`` is `choose_runtime` for `accuracy`.
    """
    if name == "as-is":
        name = as_is_runtime(loaded)
    elif name == "auto":
        name = choose_runtime(loaded, purpose, accuracy)
    return build_runtime(name, loaded)


def choose_runtime(loaded: LoadedModel, purpose: Purpose, accuracy: Accuracy = "close") -> str:
    """The name of the fastest runtime whose divergence `accuracy` allows.

    What was measured is remembered for this machine, these versions and these weights, so that the
    same command takes the same runtime tomorrow.
    """
    if not loaded.plain:
        return "naive"
    entries = [
        entry
        for entry in supported(loaded)
        # The yardstick is what the others are faster than.
        if entry.name != "naive" and _RANK[entry.accuracy] <= _RANK[accuracy]
    ]
    key = _key(loaded, purpose, accuracy, entries)
    known = recall("runtimes", key)
    if isinstance(known, str) and known in {e.name for e in entries}:
        return known
    measured = measure(loaded, entries, purpose)
    fit = [m for m in measured if m.divergence <= _ALLOWED[accuracy]]
    best = min(fit, key=lambda m: m.seconds).name if fit else "torch"
    remember("runtimes", key, best)
    return best


def measure(loaded: LoadedModel, entries: list[type[Runtime]], purpose: Purpose) -> list[Measured]:
    """Time each runtime and compare what it predicts with fp32, on text that the model writes;
    none where the model's predictions are no numbers, so that it writes none."""
    exact = build_runtime("torch", loaded)
    with one_thread():
        text, expected = _own_text(exact)
    if not text:
        return []
    runtimes: list[Runtime] = []
    for entry in entries:
        # One that cannot hold this model is none to choose.
        with suppress(ValueError, MemoryError):
            runtimes.append(exact if entry.name == "torch" else entry(loaded))
    with one_thread():
        divergences = [_divergence(runtime, text, expected) for runtime in runtimes]
    task = _stepping if purpose == "step" else _scoring
    tasks = [task(runtime, text) for runtime in runtimes]
    times = [[timed()] for timed in tasks]
    best = min(seconds[0] for seconds in times)
    for _ in range(_ROUNDS - 1):
        for timed, seconds in zip(tasks, times, strict=True):
            if seconds[0] < _HOPELESS * best:
                seconds.append(timed())
    return [
        Measured(runtime.name, statistics.median(seconds), divergence)
        for runtime, seconds, divergence in zip(runtimes, times, divergences, strict=True)
    ]


def _own_text(exact: Runtime) -> tuple[list[int], list[Tensor]]:
    """Words drawn from the model, and for each what the model predicts after it (log, [V]);
    nothing where that is no number."""
    generator = torch.Generator().manual_seed(_SEED)
    ids = [int(torch.randint(exact.ntoken, (), generator=generator))]
    predictions = []
    state = exact.initial_state()
    for _ in range(_WORDS):
        logits, state = exact.step(torch.tensor([ids[-1]], device=exact.device), state)
        predictions.append(in_float64(logits[0]).log_softmax(0).cpu())
        if bool(predictions[-1].isnan().any()):
            return [], []
        ids.append(int(predictions[-1].exp().multinomial(1, generator=generator)))
    return ids[:-1], predictions


def _divergence(runtime: Runtime, text: list[int], expected: list[Tensor]) -> float:
    state = runtime.initial_state()
    total = 0.0
    for id, log_p in zip(text, expected, strict=True):
        logits, state = runtime.step(torch.tensor([id], device=runtime.device), state)
        log_q = in_float64(logits[0]).log_softmax(0).cpu()
        total += float((log_p.exp() * (log_p - log_q)).sum())
    mean = total / len(text)
    return mean if math.isfinite(mean) else math.inf


def _stepping(runtime: Runtime, text: list[int]) -> Callable[[], float]:
    words = [torch.tensor([id], device=runtime.device) for id in text]

    def timed() -> float:
        with one_thread():
            state = runtime.initial_state()
            began = time.perf_counter()
            for word in words:
                logits, state = runtime.step(word, state)
                # A GPU has not stepped before its numbers are asked for.
                logits[0, 0].item()
            return (time.perf_counter() - began) / len(words)

    return timed


def _scoring(runtime: Runtime, text: list[int]) -> Callable[[], float]:
    repeats = -(-_BATCH * (_WINDOW + 1) // len(text))
    ids = torch.tensor(text).repeat(repeats)[: _BATCH * (_WINDOW + 1)]
    data = ids.view(_BATCH, -1).t().contiguous().to(runtime.device)
    runtime.evaluate(data, _WINDOW)

    def timed() -> float:
        began = time.perf_counter()
        runtime.evaluate(data, _WINDOW)
        return time.perf_counter() - began

    return timed


def _key(
    loaded: LoadedModel, purpose: Purpose, accuracy: Accuracy, offered: list[type[Runtime]]
) -> str:
    """What an answer depends on: machine, versions, threads, weights, what was on offer, and what
    it was allowed to cost."""
    device = loaded.device
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    digest = hashlib.sha256()
    for parameter in loaded.model.parameters():
        # A sample of the rows, and how many are zero, tell models apart without reading all.
        rows = parameter.detach()[:: max(1, len(parameter) // 64)].contiguous().float().cpu()
        digest.update(rows.numpy().tobytes())
        digest.update(str(int(parameter.count_nonzero())).encode())
    return "; ".join(
        (
            f"{platform.node()} {device} {gpu}".strip(),
            f"{torch.get_num_threads()} threads",
            f"torch {torch.__version__}",
            f"onnxruntime {version('onnxruntime')}",
            f"kernels {KERNELS.key()}",
            f"{purpose} {accuracy} {digest.hexdigest()[:16]}",
            " ".join(runtime.name for runtime in offered),
        )
    )
