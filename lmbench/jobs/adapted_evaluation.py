"""Scores with a neural cache, with dynamic evaluation, or with both: beside the model's own, never
in its place."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from lmbench.config import EvaluateConfig
from lmbench.corpus import Corpus
from lmbench.corpus.batches import score_rows
from lmbench.deploy.load_model import LoadedModel, PackedModel
from lmbench.deploy.runtimes.interface import Progress, Score
from lmbench.deploy.runtimes.table import as_is_runtime, build_runtime
from lmbench.errors import LmbenchError
from lmbench.generation.cache import NeuralCache, evaluate_with_caches, step_with_caches
from lmbench.training import native
from lmbench.training.checkpoint import read_trained
from lmbench.training.dynamic_evaluation import Dynamic, evaluate_dynamically, gradient_rms
from lmbench.training.tune_evaluation import Adaptation, PassScores, count_passes, tune

__all__ = ["AdaptedScores", "check_floats", "describe", "score_adapted"]

_DEFAULTS = {"sgd": (4.0, 0.001), "rms": (1e-3, 0.003)}  # step size and decay

# Windows that the estimate of a tuning's time is made from.
_TRIED_WINDOWS = 3


class Named(NamedTuple):
    name: str
    """``SPLIT_ppl`` and the like are called so: "" for the model's own, else "cache_" and so on."""
    score: Score


@dataclass
class AdaptedScores:
    """What one pass over the split gave."""

    scores: list[Named]
    settings: dict[str, Any] = field(default_factory=dict)
    """``cache``, ``dynamic`` and ``tuned`` as a run's results keep them."""
    runtime: str = "naive"
    """What scored, as a run's results name it."""
    seconds: float = 0.0
    """Of the pass."""


def check_floats(config: EvaluateConfig, loaded: LoadedModel) -> None:
    """See that the model is one whose past can be cached and whose weights can take small steps.

    Raises:
        LmbenchError: it is not; says why, and what to name instead.
    """
    flag = "--dynamic" if config.dynamic else "--cache"
    if not loaded.plain:
        raise LmbenchError(
            f"{flag} needs a model that is not quantized, and {loaded.title} is: name the run that "
            "it was made from" + ", or pack it" * (config.dynamic is None)
        )
    if config.dynamic is None:
        return
    if isinstance(loaded, PackedModel) and loaded.integers:
        raise LmbenchError(
            f"--dynamic: {loaded.title} holds integers, and a step is far smaller than what "
            "they can differ by: name the run that it was packed from"
        )
    # Where weights are averaged `last/` has the file, too, with the floats that go on training.
    if any(name.endswith("float_weight") for name in read_trained(loaded.path)):
        raise LmbenchError(
            f"--dynamic: the weights of {loaded.title} were trained on a grid, which the first "
            "step would leave: name the run that it was made from"
        )


def score_adapted(
    config: EvaluateConfig,
    loaded: LoadedModel,
    corpus: Corpus,
    data: Tensor,
    progress: Callable[[str], Progress],
    earlier: Sequence[PassScores] = (),
    on_pass: Callable[[PassScores], None] = lambda _: None,
) -> AdaptedScores:
    """Score `data` [rows, B] as the settings say; with ``tune`` by what is best on valid.

    Args:
        progress: makes the callback of a part, given what it is called.
        earlier: what the first passes of a tuning gave when it was begun before.
        on_pass: is given what each further pass gave.
    """
    bptt, device = config.bptt, data.device
    if config.dynamic and device.type == "cpu":
        # Faster, and as exact.
        native.enable_kernels()
    wanted, rms = _asked_for(config), None
    found = AdaptedScores([], runtime="training" if config.dynamic else "naive")
    runtime = None
    if config.runtime == "as-is" and (name := as_is_runtime(loaded)) not in ("naive", "torch"):
        # Integers are scored by the kernels that run them.
        runtime, found.runtime = build_runtime(name, loaded), name

    def rows(split: str, tokens: int, flag: str) -> Tensor:
        return score_rows(corpus, split, tokens, device, flag, config.eval_batch_size)

    if config.dynamic == "rms":
        columns = rows("train", config.dynamic_tokens, "--dynamic-tokens")
        print(f"| gathering gradients on {columns.numel():,} tokens of train", flush=True)
        rms = gradient_rms(
            loaded.recurrent, columns, bptt, progress("gathering gradients on train")
        )

    def score(
        text: Tensor, dynamic: Dynamic | None, caches: Sequence[NeuralCache], report: Progress
    ) -> PassScores:
        if dynamic is not None:
            model = loaded.recurrent
            return evaluate_dynamically(model, text, bptt, dynamic, rms, caches, report)
        if runtime is not None:
            return step_with_caches(runtime, text, bptt, caches, report)
        return evaluate_with_caches(loaded.recurrent, text, bptt, caches, report)

    if config.tune:
        valid = rows("valid", config.tune_tokens, "--tune-tokens")
        passes = count_passes(wanted)
        first = [wanted.cache] if wanted.cache else []
        if left := passes - len(earlier):
            _say_cost(valid, left, bptt, lambda text: score(text, wanted.dynamic, first, _silent))
        done = 0

        def on_valid(dynamic: Dynamic | None, caches: Sequence[NeuralCache]) -> PassScores:
            nonlocal done
            done += 1
            if done <= len(earlier):
                return earlier[done - 1]
            given = score(valid, dynamic, caches, progress(f"tuning on valid, {done} of {passes}"))
            on_pass(given)
            return given

        wanted, best = tune(wanted, on_valid)
        found.settings["tuned"] = {
            "split": "valid",
            "tokens": best.tokens,
            "split_tokens": len(corpus.split("valid")),
            "passes": passes,
            "ppl": best.ppl,
        }
    name = "dynamic_" if wanted.dynamic else ""
    found.settings |= _settings(wanted, config)
    if config.tune:
        print(f"| {describe('cache_' * bool(wanted.cache) + name, found.settings)}", flush=True)
    began = time.perf_counter()
    caches = [wanted.cache] if wanted.cache else []
    own, cached = score(data, wanted.dynamic, caches, progress(f"scoring {config.split}"))
    found.seconds = time.perf_counter() - began
    if wanted.dynamic and not math.isfinite(own.loss):
        raise LmbenchError(
            f"--dynamic-lr {wanted.dynamic.lr:g}: the weights grew without bound; use a smaller one"
        )
    found.scores = [Named(name, own), *(Named(f"cache_{name}", s) for s in cached)]
    return found


def _silent(done: int, total: int) -> None:
    """The progress of what is over at once."""


def _asked_for(config: EvaluateConfig) -> Adaptation:
    dynamic = None
    if config.dynamic:
        lr, decay = _DEFAULTS[config.dynamic]
        lr = lr if config.dynamic_lr is None else config.dynamic_lr
        decay = decay if config.dynamic_decay is None else config.dynamic_decay
        dynamic = Dynamic(config.dynamic, lr, decay)
    return Adaptation(NeuralCache.of(config), dynamic)


def _settings(used: Adaptation, config: EvaluateConfig) -> dict[str, Any]:
    """As a run's results keep them."""
    settings: dict[str, Any] = {}
    if used.cache:
        settings["cache"] = {
            "words": used.cache.size, "theta": used.cache.theta, "lambda": used.cache.share,
        }  # fmt: skip
    if used.dynamic:
        settings["dynamic"] = {
            "form": used.dynamic.form, "lr": used.dynamic.lr, "decay": used.dynamic.decay,
            "bptt": config.bptt,
        }  # fmt: skip
    return settings


def _say_cost(text: Tensor, passes: int, bptt: int, score: Callable[[Tensor], object]) -> None:
    """Say before a tuning what it will take, by a few windows that count for nothing."""
    few = text[: _TRIED_WINDOWS * bptt + 1]
    score(few[: bptt + 1])  # What the first window alone takes is not to be multiplied.
    began = time.perf_counter()
    score(few)
    seconds = (time.perf_counter() - began) * passes * (len(text) - 1) / (len(few) - 1)
    print(
        f"| tuning: {passes} pass{'es' * (passes > 1)} over {text.numel():,} tokens of valid, "
        f"about {seconds:,.0f} s",
        flush=True,
    )


def describe(name: str, settings: dict[str, Any]) -> str:
    """What a score is of, in words; of one with tuned settings also on what they were found.

    Args:
        name: of `Named`.
        settings: of `AdaptedScores`.
    """
    if not name:
        return "without cache or steps"
    parts = []
    if "cache" in name:
        cache = settings["cache"]
        parts.append(
            f"cache of {cache['words']:,} words, theta {cache['theta']:g}, "
            f"lambda {cache['lambda']:g}"
        )
    if "dynamic" in name:
        used = settings["dynamic"]
        parts.append(f"dynamic {used['form']}, step {used['lr']:g}, decay {used['decay']:g}")
    tuned = settings.get("tuned")
    if tuned:
        parts.append(f"tuned on {tuned['tokens']:,} tokens of valid (ppl {tuned['ppl']:.2f})")
    return "; ".join(parts)
