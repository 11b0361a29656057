"""Models for other programs: ONNX and safetensors. No torch in this file."""

from __future__ import annotations

from typing import Literal

__all__ = ["Bits"]

Bits = Literal["fp32", "int8", "int4"]
"""How weights are kept: ``int8`` everything, ``int4`` the decoder in 4 bits and the rest in 8; but
a projection, which is small, in fp32."""
