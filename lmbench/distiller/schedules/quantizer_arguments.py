"""What each training-time quantizer of a schedule takes. No torch here.

The same words as the constructors in `quantization.training_time`; a test holds them together.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from lmbench.distiller.errors import ScheduleError
from lmbench.distiller.name_patterns import check_pattern
from lmbench.distiller.schedules.arguments import Args, Number
from lmbench.distiller.yaml_values import one_line, read_yaml

# Of the original's quantizers: those that work on a trained model, without a schedule.
ONLY_AFTER_TRAINING = frozenset({"PostTrainLinearQuantizer"})
FULL_PRECISION = 32


def _is_width(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= 16


def _bits(value: Any, *, least: int = 2) -> Any:
    if not (value is None or value == FULL_PRECISION or _is_width(value, least)):
        raise ValueError("must be 2 to 16 bits, or null for full precision")
    return value


def _bits_schedule(value: Any) -> Any:
    known = isinstance(value, Mapping) and all(
        isinstance(epoch, int) and not isinstance(epoch, bool) and epoch >= 0 and _is_width(bits, 1)
        for epoch, bits in value.items()
    )
    if value is not None and not known:
        raise ValueError("must be a mapping from epochs to bits, such as {1: 4, 2: 3}")
    return value or {}


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
WeightBits = Annotated[int | None, BeforeValidator(partial(_bits, least=1))]
Mode = Annotated[
    Literal["SYMMETRIC", "SYMMETRIC_RESTRICTED", "ASYMMETRIC_UNSIGNED", "ASYMMETRIC_SIGNED"],
    BeforeValidator(_mode),
]


class OverrideArgs(Args):
    """The settings of the modules that a pattern matches."""

    bits_activations: Bits = None
    bits_weights: WeightBits = None
    bits_bias: int | None = None


class QuantizerArgs(Args):
    """What every training-time quantizer takes."""

    bits_activations: Bits = None
    bits_weights: WeightBits = None
    bits_bias: int | None = None
    overrides: Annotated[dict[str, OverrideArgs], BeforeValidator(_patterns)] = Field(
        default_factory=dict
    )

    @property
    def has_codes(self) -> bool:
        """Whether weights may be sums of scaled signs, of which one is enough."""
        return False

    @model_validator(mode="after")
    def _enough_bits(self) -> Self:
        widths = (self.bits_weights, *(own.bits_weights for own in self.overrides.values()))
        if 1 in widths and not self.has_codes:
            raise ValueError(
                "bits_weights: must be 2 to 16 bits, or null for full precision, not 1, which "
                "needs rounding: codes"
            )
        return self

    def bits_at(self, epoch: int) -> int | None:
        """The bits of weights that no override gives, None for floats."""
        return None if self.bits_weights == FULL_PRECISION else self.bits_weights


class LinearQuantizerArgs(QuantizerArgs):
    """Ranges, or codes."""

    mode: Mode = "SYMMETRIC"
    ema_decay: Annotated[Number, Field(ge=0, lt=1)] = 0.999
    per_channel_wts: bool = False
    quantize_inputs: bool = True
    num_bits_inputs: Bits = None
    rounding: Literal["nearest", "codes"] = "nearest"
    group_size: Annotated[int, Field(strict=True, ge=8, multiple_of=8)] | None = None
    learned_scales: bool = False
    bits_schedule: Annotated[dict[int, int], BeforeValidator(_bits_schedule)] = Field(
        default_factory=dict
    )

    @property
    def has_codes(self) -> bool:
        return self.rounding == "codes"

    @model_validator(mode="after")
    def _together(self) -> Self:
        if not self.has_codes and 1 in self.bits_schedule.values():
            raise ValueError("bits_schedule: 1 bit needs rounding: codes")
        if not self.has_codes and self.group_size is not None:
            raise ValueError("group_size: is for rounding: codes; leave it out")
        if not self.has_codes and self.learned_scales:
            raise ValueError("learned_scales: is for rounding: codes; leave it out")
        if self.bits_schedule and self.bits_weights in (None, FULL_PRECISION):
            raise ValueError("bits_schedule: needs bits_weights, which holds until its first epoch")
        return self

    def check_epochs(self, meta: Mapping[str, Any]) -> None:
        """Bits change at the beginning of an epoch of the policy."""
        for epoch in self.bits_schedule:
            if epoch not in meta["scheduled_epochs"]:
                raise ScheduleError(
                    f"bits_schedule: epoch {epoch} is none of the policy's; add it there"
                )

    def bits_at(self, epoch: int) -> int | None:
        due = [start for start in self.bits_schedule if start <= epoch]
        return self.bits_schedule[max(due)] if due else super().bits_at(epoch)


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
