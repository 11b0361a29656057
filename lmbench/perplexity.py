"""Perplexity."""

from __future__ import annotations

import math

__all__ = ["perplexity"]

# Beyond this the exponential overflows a double.
_MAX_LOSS = 709.0


def perplexity(loss: float) -> float:
    """exp of a mean loss in nats; infinity where that overflows, NaN for NaN."""
    return math.inf if loss > _MAX_LOSS else math.exp(loss)
