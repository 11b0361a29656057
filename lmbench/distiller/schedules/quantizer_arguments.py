"""What each training-time quantizer of a schedule takes. No torch here.

The same words as the constructors in `quantization.training_time`; a test holds them together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from lmbench.distiller.name_patterns import check_pattern
from lmbench.distiller.schedules.arguments import Args, Number
from lmbench.distiller.yaml_values import one_line, read_yaml

# Of the original's quantizers: those that work on a trained model, without a schedule.
ONLY_AFTER_TRAINING = frozenset({"PostTrainLinearQuantizer"})
FULL_PRECISION = 32


def _bits(value: Any) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (whole and (2 <= value <= 16 or value == FULL_PRECISION)):
        raise ValueError("must be 2 to 16 bits, or null for full precision")
    return value


def _patterns(value: Any) -> Any:
    """Overrides as a mapping of mappings, whose keys are regular expressions."""
    if value is None:
        return {}
    if isinstance(value, str):
        value = read_yaml(value, "overrides")
    example = "such as {encoder: {bits_weights: 8}}"
    if not isinstance(value, Mapping):
        raise ValueError(f"must be a mapping from modules to settings, {example}")
    for pattern, settings in value.items():
        if not isinstance(settings, Mapping):
            raise ValueError(f"'{one_line(pattern)}' is not a mapping of settings, {example}")
        try:
            check_pattern(str(pattern))
        except ValueError as error:
            raise ValueError(
                f"'{one_line(pattern)}' is not a regular expression ({error}); mend it"
            ) from None
    return {str(pattern): settings for pattern, settings in value.items()}


def _mode(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


Bits = Annotated[int | None, BeforeValidator(_bits)]
Mode = Annotated[
    Literal["SYMMETRIC", "SYMMETRIC_RESTRICTED", "ASYMMETRIC_UNSIGNED", "ASYMMETRIC_SIGNED"],
    BeforeValidator(_mode),
]


class OverrideArgs(Args):
    """The settings of the modules that a pattern matches."""

    bits_activations: Bits = None
    bits_weights: Bits = None
    bits_bias: int | None = None


class QuantizerArgs(Args):
    """What every training-time quantizer takes."""

    bits_activations: Bits = None
    bits_weights: Bits = None
    bits_bias: int | None = None
    overrides: Annotated[dict[str, OverrideArgs], BeforeValidator(_patterns)] = Field(
        default_factory=dict
    )


class LinearQuantizerArgs(QuantizerArgs):
    """Ranges."""

    mode: Mode = "SYMMETRIC"
    ema_decay: Annotated[Number, Field(ge=0, lt=1)] = 0.999
    per_channel_wts: bool = True
    quantize_inputs: bool = True
    num_bits_inputs: Bits = None


class DorefaArgs(QuantizerArgs):
    """Weights through a tanh."""

    keep_magnitude: bool = False


class WRPNArgs(QuantizerArgs):
    """Weights clipped to [-1, 1]."""

    restrict_range: bool = False


class PACTArgs(DorefaArgs):
    """Learned bounds."""

    act_clip_init_val: Annotated[Number, Field(gt=0)] = 8.0
    act_clip_decay: Annotated[Number, Field(ge=0)] | None = None


QUANTIZERS: dict[str, type[Args]] = {
    "DorefaQuantizer": DorefaArgs,
    "PACTQuantizer": PACTArgs,
    "QuantAwareTrainRangeLinearQuantizer": LinearQuantizerArgs,
    "WRPNQuantizer": WRPNArgs,
}
