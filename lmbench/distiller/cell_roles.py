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
    bits_state: int | None,
    clip_state: str | None,
) -> tuple[int | None, str]:
    """The bits and the clip mode of the outputs of a module that no override names.

    Net-aware, steps are kept in 16 bits, and neither they nor what is to stay whole are clipped. A
    state may have bits and a clip mode of its own: a few units of an LSTM's cell state count
    upwards into the tens while the rest stay within two, and the ranges differ tenfold between
    stretches of one text.

    Args:
        role: "" for none.
        bits: of all modules; None for activations that are left alone.
        clip: of all modules, the name of a `ClipMode`.
        floating: it has a precision in place of bits.
        net_aware, bits_state, clip_state: of `QuantSettings`.
    """
    if bits is None or floating:
        return bits, clip
    if net_aware and role in ("step", "whole"):
        return max(bits, _STEP_BITS) if role == "step" else bits, "NONE"
    if role == "state":
        return bits if bits_state is None else bits_state, clip_state or clip
    return bits, clip
