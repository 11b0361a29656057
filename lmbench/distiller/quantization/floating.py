"""Modules that compute in another floating-point precision."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmbench.distiller.quantization.errors import QuantizationError
from lmbench.distiller.quantization.wrappers import QuantizedWrapper

__all__ = ["FP16Wrapper", "FPWrapper"]


class FPWrapper(QuantizedWrapper):
    """Computes a module in another floating-point precision.

    Args:
        module: converted in place.
        precision: "16", "bf16", "32" or "64".
        convert_input: convert floating-point inputs to it.
        return_fp32: give float32 back.
    """

    _DTYPES: Mapping[str, torch.dtype] = {
        "16": torch.float16,
        "bf16": torch.bfloat16,
        "32": torch.float32,
        "64": torch.float64,
    }

    def __init__(
        self,
        module: nn.Module,
        precision: str | int = "16",
        convert_input: bool = True,
        return_fp32: bool = True,
    ) -> None:
        super().__init__()
        self.precision = str(precision)
        if self.precision not in self._DTYPES:
            raise QuantizationError(
                f"precision {precision!r} is unknown: use one of {', '.join(self._DTYPES)}"
            )
        self.dtype = self._DTYPES[self.precision]
        self.wrapped_module = module.to(self.dtype)
        self.convert_input = convert_input
        self.return_fp32 = return_fp32

    def _linear(self, x: Tensor) -> Tensor:
        """A narrow matrix product with wide sums, as hardware that has one computes it.

        On a CPU without narrow arithmetic torch's own product is a hundred times slower.
        """
        wide = self.cached("wide", lambda: (self.weight, self.bias))
        return F.linear(x.to(self.dtype).float(), *wide).to(self.dtype)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Converts, computes, converts back."""
        narrow = self.precision in ("16", "bf16") and self.convert_input
        if narrow and isinstance(self.wrapped_module, nn.Linear) and inputs[0].device.type == "cpu":
            product = self._linear(inputs[0])
            return product.float() if self.return_fp32 else product
        if self.convert_input:
            inputs = tuple(x.to(self.dtype) if x.is_floating_point() else x for x in inputs)
        out = self.wrapped_module(*inputs)
        return out.float() if self.return_fp32 else out

    @property
    def weight(self) -> Tensor:
        """The wrapped module's weight, as float32."""
        weight = self.wrapped_module.weight
        assert isinstance(weight, Tensor)
        return weight.float()

    @property
    def bias(self) -> Tensor | None:
        """The wrapped module's bias, as float32."""
        bias = self.wrapped_module.bias
        return bias.float() if isinstance(bias, Tensor) else None

    def extra_repr(self) -> str:
        return f"precision={self.precision}"


class FP16Wrapper(FPWrapper):
    """`FPWrapper` in 16 bits, the original's name for it."""

    def __init__(
        self, module: nn.Module, convert_input: bool = True, return_fp32: bool = True
    ) -> None:
        super().__init__(module, "16", convert_input, return_fp32)
