"""The ways in which a range maps to integers and is chosen, and their names. No torch here."""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

from lmbench.distiller.quantization.errors import QuantizationError

__all__ = [
    "ClipMode",
    "LinearQuantMode",
    "check_bits",
    "get_quantized_range",
    "parse_clip",
    "parse_mode",
]

BITS = (2, 16)
_TABULATED = 8
CODE_BITS = (1, 4)
"""The fewest and the most signs that a weight is a sum of."""


class LinearQuantMode(Enum):
    """How a range maps to integers.

    SYMMETRIC: zero point 0, all 2^b integers, scale = (2^b - 1) / 2 / max|x|.
    SYMMETRIC_RESTRICTED: zero point 0, the lowest integer unused, scale = (2^(b-1) - 1) / max|x|.
    ASYMMETRIC_UNSIGNED: integers 0 … 2^b - 1 over [min, max], which always contains 0.
    ASYMMETRIC_SIGNED: the same range over integers -2^(b-1) … 2^(b-1) - 1.
    """

    SYMMETRIC = 1
    ASYMMETRIC_UNSIGNED = 2
    ASYMMETRIC_SIGNED = 3
    SYMMETRIC_RESTRICTED = 4

    def __str__(self) -> str:
        return self.name

    @property
    def symmetric(self) -> bool:
        """Whether the zero point is always 0."""
        return self in (LinearQuantMode.SYMMETRIC, LinearQuantMode.SYMMETRIC_RESTRICTED)

    @property
    def signed(self) -> bool:
        """Whether the integers are signed."""
        return self is not LinearQuantMode.ASYMMETRIC_UNSIGNED

    def quantized_range(self, num_bits: int) -> tuple[int, int]:
        """The lowest and the highest integer at `num_bits`."""
        restricted = self is LinearQuantMode.SYMMETRIC_RESTRICTED
        return get_quantized_range(num_bits, self.signed, restricted)


def parse_mode(value: LinearQuantMode | str) -> LinearQuantMode:
    """A mode from its name, in any case.

    Raises:
        QuantizationError: an unknown name.
    """
    return _member(LinearQuantMode, value, "mode")


E = TypeVar("E", bound=Enum)


def _member(kind: type[E], value: E | str, what: str) -> E:
    if isinstance(value, kind):
        return value
    try:
        return kind[str(value).upper()]
    except KeyError:
        known = ", ".join(kind.__members__)
        raise QuantizationError(f"{what} {value!r} is unknown: use one of {known}") from None


def get_quantized_range(
    num_bits: int, signed: bool = True, signed_restrict_qrange: bool = False
) -> tuple[int, int]:
    """The lowest and the highest integer of `num_bits` bits."""
    if not signed:
        return 0, 2**num_bits - 1
    half = 2 ** (num_bits - 1)
    return (-half + 1 if signed_restrict_qrange else -half), half - 1


def check_bits(value: int | None, what: str, limits: tuple[int, int] = BITS) -> int | None:
    """The bit width itself, None meaning "not quantized".

    Raises:
        QuantizationError: outside the limits.
    """
    if value is None:
        return None
    least, most = limits
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise QuantizationError(
            f"{what}: {value!r} bits is out of range, use {least} to {most} "
            "or null for full precision"
        )
    return value


class ClipMode(Enum):
    """How a range is chosen.

    NONE: everything seen. AVG: the mean over samples of their extremes. N_STD: the mean ± so many
    standard deviations. GAUSS, LAPLACE: ACIQ. MSE: least squared error. PERCENTILE: all but the
    outermost share of the values (0.01% on each side). KL: least divergence of the histogram.
    """

    NONE = 0
    AVG = 1
    N_STD = 2
    GAUSS = 3
    LAPLACE = 4
    MSE = 5
    PERCENTILE = 6
    KL = 7

    def __str__(self) -> str:
        return self.name

    @property
    def fitted(self) -> bool:
        """Whether it needs the values, or their histogram, and not only moments."""
        return self in (ClipMode.MSE, ClipMode.PERCENTILE, ClipMode.KL)

    def has_width(self, num_bits: int | None) -> bool:
        """Has it a range for so many bits? The best clipping of two is tabulated."""
        tabulated = self in (ClipMode.GAUSS, ClipMode.LAPLACE)
        return not tabulated or (num_bits or 0) <= _TABULATED

    def check_width(self, num_bits: int | None) -> None:
        """Raises QuantizationError for a width that it has no range for."""
        if not self.has_width(num_bits):
            raise QuantizationError(
                f"clip mode {self.name} is tabulated up to {_TABULATED} bits, "
                f"not {num_bits}: use MSE"
            )


def parse_clip(value: ClipMode | str | None) -> ClipMode:
    """A clip mode from its name, in any case; None is NONE.

    Raises:
        QuantizationError: an unknown name.
    """
    return ClipMode.NONE if value is None else _member(ClipMode, value, "clip mode")
