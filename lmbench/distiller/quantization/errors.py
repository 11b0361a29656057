"""The exception of everything under quantization."""

from __future__ import annotations

from lmbench.distiller.errors import DistillerError

__all__ = ["QuantizationError"]


class QuantizationError(DistillerError):
    """Settings, statistics or a model that cannot be quantized as asked; one clear line."""
