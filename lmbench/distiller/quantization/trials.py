"""What a search of settings measures, and the budget that its result must fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lmbench.distiller.quantization.errors import QuantizationError

__all__ = ["Budget", "Choice", "Trial"]

Choice = dict[str, dict[str, Any]]
"""{module, or * for all: {setting: value}}"""


@dataclass(frozen=True)
class Budget:
    """What the result must fit; give one of the two.

    Attributes:
        bytes: of the packed model.
        loss: rise of the mean negative log-likelihood over the float model's, in nats.
    """

    bytes: int | None = None
    loss: float | None = None

    def __post_init__(self) -> None:
        if (self.bytes is None) == (self.loss is None):
            raise QuantizationError("a budget is either of bytes or of loss: give one of them")
        given = self.bytes if self.bytes is not None else self.loss
        if given is not None and given <= 0:
            raise QuantizationError(f"a budget must be above 0, got {given}")

    def holds(self, trial: Trial, float_loss: float) -> bool:
        """Does a trial fit, beside a float model of this loss?"""
        if self.bytes is not None:
            return trial.bytes <= self.bytes
        assert self.loss is not None
        return trial.loss - float_loss <= self.loss


@dataclass(frozen=True)
class Trial:
    """One measured model.

    Attributes:
        phase: "float", "clip", "sensitivity" or "candidate".
        choice: what was set apart from the base settings, or {"*": {"settings": name}} for those
            that were given whole.
        loss: mean negative log-likelihood, nats a token.
        bytes: of the packed model.
    """

    phase: str
    choice: Choice
    loss: float
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Trial:
        """The inverse of `to_dict`."""
        return cls(entry["phase"], dict(entry["choice"]), float(entry["loss"]), int(entry["bytes"]))
