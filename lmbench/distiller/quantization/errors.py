"""The exceptions of everything under quantization."""

from __future__ import annotations

from lmbench.distiller.errors import DistillerError

__all__ = ["NoStatsError", "QuantizationError"]


class QuantizationError(DistillerError):
    """Settings, statistics or a model that cannot be quantized as asked; one clear line."""


class NoStatsError(QuantizationError, NotImplementedError):
    """An operation that cannot be quantized dynamically, without calibrated statistics."""
