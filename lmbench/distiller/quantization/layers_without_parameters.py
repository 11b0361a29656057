"""Layers whose parameters their quantized wrapper holds, as integers.

None of the parameters may linger in a state dict, shared or trained, but code written for the
original reads `wrapped_module.weight`: here that is the wrapper's own.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["empty"]


class _Emptied(nn.Module):
    # Within a tuple, where torch does not take it for a module of this one.
    _wrapper: tuple[Any]

    @property
    def weight(self) -> Tensor:
        """The values that the wrapper's integers stand for."""
        return self._wrapper[0].weight

    @property
    def bias(self) -> Tensor | None:
        """The wrapper's bias, in floats."""
        return self._wrapper[0].bias


class Linear(_Emptied, nn.Linear):  # pyright: ignore[reportIncompatibleVariableOverride]
    """`nn.Linear` without parameters of its own."""


class Embedding(_Emptied, nn.Embedding):  # pyright: ignore[reportIncompatibleVariableOverride]
    """`nn.Embedding` without parameters of its own."""


def empty(layer: nn.Linear | nn.Embedding, wrapper: nn.Module) -> None:
    """Takes the layer's parameters away, in place; it then shows those of its wrapper."""
    layer._parameters.clear()
    kind: Any = Linear if isinstance(layer, nn.Linear) else Embedding
    layer.__class__ = kind
    layer._wrapper = (wrapper,)  # type: ignore[assignment]
