"""Perplexity of a model on a split."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lmbench.corpus.batches import windows
from lmbench.model.device import in_float64
from lmbench.model.rnn import RNNModel
from lmbench.perplexity import perplexity
from lmbench.session.events import Event, Progress
from lmbench.training.objective import window_nll

__all__ = ["Evaluation", "evaluate", "report_progress"]

# An evaluation that is over sooner needs no report.
_REPORT_EVERY_S = 1.0


@dataclass(frozen=True)
class Evaluation:
    """The mean negative log-likelihood of `tokens` predicted tokens, in nats."""

    loss: float
    tokens: int
    seconds: float

    @property
    def ppl(self) -> float:
        return perplexity(self.loss)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


@torch.no_grad()
def evaluate(
    model: RNNModel,
    data: Tensor,
    bptt: int,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score every predicted token of a split once, the state carried from window to window.

    Args:
        model: scored in eval mode; its mode is restored.
        data: ids [rows, batch], as `batchify` gives them; the first row is only context, so
            (rows - 1) * batch tokens are predicted. The mean is over those (the original divides
            by all rows, and ends in NaN when rows - 1 is a multiple of bptt).
        bptt: rows a window; changes speed and memory, not the result.
        progress: called with (rows done, rows in all) after each window.
    """
    rows, batch = data.shape
    began = time.perf_counter()
    was_training = model.training
    model.eval()
    total = in_float64(torch.zeros((), device=data.device))
    hidden = model.init_hidden(batch)
    for input, target in windows(data, bptt, progress):
        output, hidden = model.features(input, hidden)  # [T, B, H]
        total += in_float64(window_nll(model, output, target))
    model.train(was_training)
    tokens = (rows - 1) * batch
    loss = total.item() / tokens
    return Evaluation(loss, tokens, time.perf_counter() - began)


def report_progress(emit: Callable[[Event], None], what: str) -> Callable[[int, int], None]:
    """A `progress` for `evaluate` that emits at most once a second how far `what` is."""
    reported = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal reported
        now = time.monotonic()
        if now - reported >= _REPORT_EVERY_S:
            reported = now
            emit(Progress(what=what, done=done, total=total))

    return progress
