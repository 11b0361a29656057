"""Size and speed of models in each runtime, side by side: what ``lmbench benchmark`` measures.

Contestants take turns, round by round, so that a busy moment of the machine falls on all of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmbench.corpus.batches import batchify
from lmbench.deploy.load_model import LoadedModel
from lmbench.deploy.peak_memory import peak_memory
from lmbench.deploy.runtimes.interface import Accuracy, Runtime, Score, one_thread
from lmbench.deploy.runtimes.table import RUNTIMES, build_runtime, supported
from lmbench.errors import LmbenchError

__all__ = [
    "Entrant",
    "Row",
    "benchmark",
    "disk_bytes",
    "entrants",
]

NAIVE = "naive"
FP32 = ("torch", "onnx", "cuda")
"""Dense fp32 runtimes; the fastest of them is what the others are held against."""

_BATCH, _BPTT = 10, 35
_WARM_WORDS = 3
# Windows that a round scores for speed, after the first round has scored the whole text.
_WINDOWS_A_ROUND = 3


@dataclass(frozen=True)
class Row:
    """One model in one runtime. Times in milliseconds, sizes in bytes; None: not measured."""

    model: str
    runtime: str
    accuracy: Accuracy
    """How near the runtime is to the model in fp32."""
    disk: int
    """The model's file, the same in each runtime."""
    numbers: int
    """The weights as the runtime keeps them in memory."""
    peak: int | None
    ms: float
    """Of a step of one word: the median over all rounds."""
    ms_p95: float
    tokens_per_s: float
    """While scoring, ten texts at a time."""
    ppl: float | None
    """As this runtime runs the model."""
    tokens: int | None
    """How many tokens `ppl` is of: the first of the split."""
    split_tokens: int | None
    """How many the split has."""
    step_vs_naive: float | None
    step_vs_fp32: float | None
    score_vs_naive: float | None
    score_vs_fp32: float | None


@dataclass
class Entrant:
    """A model in a runtime, and what was measured of it so far."""

    loaded: LoadedModel
    runtime: Runtime
    disk: int
    steps: list[float] = field(default_factory=list)
    """Seconds of each step."""
    rates: list[float] = field(default_factory=list)
    """Tokens a second of each scoring."""
    ppl: float | None = None
    peak: int | None = None

    @property
    def ms(self) -> float:
        return 1e3 * statistics.median(self.steps)

    @property
    def tokens_per_s(self) -> float:
        return statistics.median(self.rates) if self.rates else 0.0


def disk_bytes(loaded: LoadedModel) -> int:
    """The size of the file that a model was loaded from."""
    path = loaded.path / "model.safetensors" if loaded.path.is_dir() else loaded.path
    return path.stat().st_size


def entrants(models: Sequence[LoadedModel], names: Sequence[str] = ()) -> list[Entrant]:
    """Each model in each runtime named, or in all that can run it; the baselines always.

    Raises:
        LmbenchError: no such runtime, or one named can run none of the models (says why).
    """
    for name in names:
        if name not in RUNTIMES:
            raise LmbenchError(f"runtime '{name}': use one of {', '.join(RUNTIMES)}")
    found: list[Entrant] = []
    for loaded in models:
        able = [entry.name for entry in supported(loaded)]
        wanted = [n for n in able if not names or n in names or n in (NAIVE, "torch")]
        found += [Entrant(loaded, build_runtime(n, loaded), disk_bytes(loaded)) for n in wanted]
    for name in names:
        if name not in {entrant.runtime.name for entrant in found}:
            raise LmbenchError(
                f"runtime '{name}' cannot run {models[0].title}: "
                f"{RUNTIMES[name].refusal(models[0])}"
            )
    return found


def benchmark(
    found: Sequence[Entrant],
    text: NDArray[Any],
    *,
    words: int,
    rounds: int,
    split_tokens: int | None = None,
    sources: dict[str, tuple[Path, str]] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Row]:
    """Measure the entrants in turn.

    Args:
        text: ids that are stepped and scored, at least 20 words; ids of the models' vocabulary.
        words: steps each entrant makes in a round.
        rounds: how often each has its turn.
        split_tokens: how many tokens the split has that `text` is the start of; left out: `text`
            is no real text, and its perplexity would mean nothing.
        sources: by a model's title, its run's folder (or file) and checkpoint: peak memory is
            measured for these, each in a process of its own.
        progress: called with (what, done, in all).
        stop: called between two turns; what was measured so far is reported.

    Returns:
        A row for each entrant, in order, with the ratios to the same model in ``naive`` and in
        its fastest dense fp32 runtime.
    """
    if len(text) < 2 * _BATCH:
        raise LmbenchError(
            f"benchmarking needs {2 * _BATCH} words of test, not {len(text)}: raise --tokens, or "
            "take a model of a corpus with a longer test split"
        )
    whole = batchify(text, _BATCH)
    some = whole[: min(len(whole), _WINDOWS_A_ROUND * _BPTT + 1)]
    stream = torch.from_numpy(text[: words + _WARM_WORDS].astype(np.int64))
    steps = len(found) * (rounds + (1 if sources else 0))
    for done, (turn, entrant) in enumerate(_turns(found, rounds)):
        if stop():
            break
        if progress:
            progress(f"{entrant.loaded.title} in {entrant.runtime.name}", done, steps)
        _step(entrant, stream)
        score = _score(entrant, some if turn else whole)
        if split_tokens is not None and turn == 0:
            entrant.ppl = score.ppl
    else:
        for number, entrant in enumerate(found):
            if sources and entrant.loaded.title in sources and not stop():
                if progress:
                    name = entrant.runtime.name
                    progress(f"memory of {name}", len(found) * rounds + number, steps)
                path, checkpoint = sources[entrant.loaded.title]
                device = str(entrant.runtime.device)
                entrant.peak = peak_memory(path, checkpoint, entrant.runtime.name, device)
    tokens = None if split_tokens is None else len(text)
    return [_row(entrant, found, tokens, split_tokens) for entrant in found if entrant.steps]


def _turns(found: Sequence[Entrant], rounds: int) -> Iterator[tuple[int, Entrant]]:
    """(round, entrant), every second round in reverse, so that none always follows another."""
    for turn in range(rounds):
        for entrant in found if turn % 2 == 0 else reversed(found):
            yield turn, entrant


def _step(entrant: Entrant, stream: Tensor) -> None:
    runtime = entrant.runtime
    words = [word.view(1).to(runtime.device) for word in stream]
    with one_thread():
        state = runtime.initial_state()
        for number, word in enumerate(words):
            began = time.perf_counter()
            logits, state = runtime.step(word, state)
            # A GPU has not stepped before its numbers are asked for.
            logits[0, 0].item()
            seconds = time.perf_counter() - began
            if number >= _WARM_WORDS:
                entrant.steps.append(seconds)


def _score(entrant: Entrant, data: Tensor) -> Score:
    data = data.to(entrant.runtime.device)
    if not entrant.rates:
        # What is built for the first window is no part of the speed.
        entrant.runtime.evaluate(data[: _BPTT + 1], _BPTT)
    began = time.perf_counter()
    score = entrant.runtime.evaluate(data, _BPTT)
    entrant.rates.append(score.tokens / (time.perf_counter() - began))
    return score


def _row(
    entrant: Entrant, found: Sequence[Entrant], tokens: int | None, split_tokens: int | None
) -> Row:
    peers = [e for e in found if e.loaded is entrant.loaded and e.steps]
    naive = next((e for e in peers if e.runtime.name == NAIVE), None)
    fp32 = [e for e in peers if e.runtime.name in FP32]
    quickest = min(fp32, key=lambda e: e.ms, default=None)
    fullest = max(fp32, key=lambda e: e.tokens_per_s, default=None)
    return Row(
        model=entrant.loaded.title,
        runtime=entrant.runtime.name,
        accuracy=RUNTIMES[entrant.runtime.name].accuracy,
        disk=entrant.disk,
        numbers=entrant.runtime.bytes,
        peak=entrant.peak,
        ms=entrant.ms,
        ms_p95=1e3 * float(np.percentile(entrant.steps, 95)),
        tokens_per_s=entrant.tokens_per_s,
        ppl=entrant.ppl,
        tokens=tokens,
        split_tokens=split_tokens,
        step_vs_naive=naive.ms / entrant.ms if naive else None,
        step_vs_fp32=quickest.ms / entrant.ms if quickest else None,
        score_vs_naive=_ratio(entrant, naive),
        score_vs_fp32=_ratio(entrant, fullest),
    )


def _ratio(entrant: Entrant, baseline: Entrant | None) -> float | None:
    if baseline is None or not baseline.tokens_per_s:
        return None
    return entrant.tokens_per_s / baseline.tokens_per_s
