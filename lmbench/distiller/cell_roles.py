"""What a module's role in its recurrent cell changes of how its outputs are quantized.

No torch: the engine quantizes by this, and the workbench shows by it what the engine will do.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["Role", "in_force"]

Role = Literal["", "step", "whole", "state"]
"""``step``, ``whole`` and ``state`` are of `ModularCell.STEPS`, `WHOLE` and `MEMORY`."""

_STEP_BITS = 16


def in_force(
    role: Role,
    bits: int | None,
    clip: str,
    *,
    floating: bool,
    net_aware: bool,
    clip_state: str | None,
) -> tuple[int | None, str]:
    """The bits and the clip mode of the outputs of a module that no override names.

    Net-aware, steps are kept in 16 bits, and neither they nor what is to stay whole are clipped. A
    state has a clip mode of its own: the ranges of an LSTM's cell state differ tenfold between
    stretches of one text, and averages of them with the text; what a few units count up to must
    not cost the others their resolution.

    Args:
        role: "" for none.
        bits: of all modules; None for activations that are left alone.
        clip: of all modules, the name of a `ClipMode`.
        floating: it has a precision in place of bits.
        net_aware, clip_state: of `QuantSettings`.
    """
    if bits is None or floating:
        return bits, clip
    if net_aware and role in ("step", "whole"):
        return max(bits, _STEP_BITS) if role == "step" else bits, "NONE"
    if clip_state is not None and role == "state":
        return bits, clip_state
    return bits, clip
