"""What stands in for each module of a model that is quantized after training."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lmbench.distiller.modules import (
    BatchMatmul,
    Concat,
    EltwiseAdd,
    EltwiseMult,
    EltwiseSub,
    Matmul,
)
from lmbench.distiller.quantization.floating import FPWrapper
from lmbench.distiller.quantization.operations import (
    RangeLinearFakeQuantWrapper,
    RangeLinearQuantConcatWrapper,
    RangeLinearQuantEltwiseAddWrapper,
    RangeLinearQuantEltwiseMultWrapper,
    RangeLinearQuantMatmulWrapper,
)
from lmbench.distiller.quantization.rounding import gptq_round, moments_for
from lmbench.distiller.quantization.settings import ModuleSettings, QuantSettings
from lmbench.distiller.quantization.weights import (
    RangeLinearEmbeddingWrapper,
    RangeLinearQuantParamLayerWrapper,
)
from lmbench.distiller.quantization.wrappers import RangeLinearQuantWrapper

__all__ = ["ACTIVATIONS", "WRAPPERS", "Replacements"]

ACTIVATIONS = (nn.Sigmoid, nn.Tanh, nn.ReLU)
# Of modules that compute on integers alone.
WRAPPERS: dict[type[nn.Module], type[RangeLinearQuantWrapper]] = {
    EltwiseAdd: RangeLinearQuantEltwiseAddWrapper,
    EltwiseSub: RangeLinearQuantEltwiseAddWrapper,
    EltwiseMult: RangeLinearQuantEltwiseMultWrapper,
    Concat: RangeLinearQuantConcatWrapper,
    Matmul: RangeLinearQuantMatmulWrapper,
    BatchMatmul: RangeLinearQuantMatmulWrapper,
}


@dataclass(frozen=True)
class Replacements:
    """Makes them.

    Args:
        settings: those of the whole model.
        input_moments: what `collect_input_moments` gave, for `rounding: gptq` and
            `calibrated-codes`; for the latter also those of an embedding that is tied to a layer.
    """

    settings: QuantSettings
    input_moments: Mapping[str, Tensor] | None = None

    def of(
        self,
        name: str,
        module: nn.Module,
        chosen: ModuleSettings,
        stats: dict[str, Any] | None,
        half_range: bool,
    ) -> nn.Module | None:
        """A module's replacement; None where it stays as it is.

        Args:
            name: its name in the model.
            chosen: its settings.
            stats: its own calibrated statistics; None where it needs none or there are none.
            half_range: does a ReLU follow?
        """
        if chosen.precision is not None:
            return FPWrapper(copy.deepcopy(module), chosen.precision)
        if isinstance(module, nn.Embedding):
            return self._embedding(name, module, chosen, stats)
        options = {
            "num_bits_acts": chosen.bits_activations,
            "num_bits_accum": chosen.accumulator_bits,
            "mode": chosen.mode,
            "clip_acts": chosen.clip_acts,
            "activation_stats": stats,
            "clip_n_stds": chosen.clip_n_stds,
            "clip_half_range": half_range,
            "scale_approx_mult_bits": chosen.scale_approx_mult_bits,
            "input_overrides": chosen.input_overrides,
            "inputs_quant_auto_fallback": self.settings.inputs_quant_auto_fallback,
        }
        if isinstance(module, nn.Linear) and chosen.bits_weights is not None:
            return self._linear(name, module, chosen, options)
        if stats is None:
            return None
        if isinstance(module, (nn.Linear, *ACTIVATIONS)):
            return RangeLinearFakeQuantWrapper(module, **options, quantize_inputs=True)
        wrapper = next(own for kind, own in WRAPPERS.items() if isinstance(module, kind))
        return wrapper(module, **options)

    def _embedding(
        self,
        name: str,
        module: nn.Embedding,
        chosen: ModuleSettings,
        stats: dict[str, Any] | None,
    ) -> nn.Module | None:
        if chosen.bits_weights is None:
            return None
        moments = (self.input_moments or {}).get(name) if chosen.needs_moments else None
        return RangeLinearEmbeddingWrapper(
            copy.deepcopy(module),
            chosen.bits_weights,
            chosen.mode,
            stats,
            self.settings.save_fp_weights,
            chosen.clip_weights,
            chosen.clip_n_stds,
            per_row=chosen.per_row_embedding,
            group_size=chosen.group_size,
            codes=chosen.codes,
            code_moments=moments,
        )

    def _linear(
        self, name: str, module: nn.Linear, chosen: ModuleSettings, options: dict[str, Any]
    ) -> nn.Module:
        moments = moments_for(name, self.input_moments) if chosen.needs_moments else None
        return RangeLinearQuantParamLayerWrapper(
            copy.deepcopy(module),
            num_bits_params=chosen.bits_weights,
            per_channel_wts=chosen.per_channel_wts,
            save_fp_weights=self.settings.save_fp_weights,
            clip_weights=chosen.clip_weights,
            group_size=chosen.group_size,
            rounder=None
            if moments is None or chosen.codes
            else lambda layer, *grid: gptq_round(layer, moments, *grid),
            codes=chosen.codes,
            code_moments=moments,
            **options,
        )
