"""What a pruner's arguments need to know of a model, and what they predict of it. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

Shape = tuple[int, ...]
Value = TypeVar("Value")


class WeightsView(Protocol):
    """The magnitudes that a threshold is compared with."""

    def fraction_below(self, name: str, threshold: float) -> float:
        """The share of a parameter's magnitudes that are at most ``threshold``."""
        ...

    def deviation(self, name: str) -> float:
        """The standard deviation of a parameter."""
        ...


@dataclass(frozen=True)
class ModelLayout:
    """The parameters of a model.

    Attributes:
        shapes: of each parameter, by its first name; biases too.
        names: every name of every parameter to its first.
        weights: None where they are not known, as before a training.
    """

    shapes: Mapping[str, Shape]
    names: Mapping[str, str]
    weights: WeightsView | None = None

    def expand(self, values: Mapping[str, Value]) -> Iterator[tuple[str, Value]]:
        """The first name of each parameter with its value; ``'*'`` gives that of all others."""
        covered = {self.names[name]: value for name, value in values.items() if name != "*"}
        yield from covered.items()
        if "*" in values:
            for name in self.shapes:
                if name not in covered:
                    yield name, values["*"]


@dataclass(frozen=True)
class Kept:
    """What pruners leave of a parameter.

    Attributes:
        rows, columns: the shares of whole rows and columns that stay.
        weights: the share of weights that stay where rows and columns do not count; None where a
            threshold decides and the weights are not known.
        estimated: judged by today's weights, or shared out among several parameters.
        patterns: what was pruned: ``weights``, ``rows``, ``columns``, ``units``, ``blocks 8x8``.
    """

    weights: float | None = 1.0
    rows: float = 1.0
    columns: float = 1.0
    estimated: bool = False
    patterns: frozenset[str] = frozenset({"weights"})

    @property
    def sparsity(self) -> float | None:
        """The share of weights that are zero."""
        return None if self.weights is None else 1.0 - min(self.weights, self.rows * self.columns)

    def __and__(self, other: Kept) -> Kept:
        """What stays under two masks.

        Of two masks of one pattern the larger holds the smaller, since what is zero already is
        pruned first, and rows cross columns. How far other masks overlap depends on the weights.
        """
        if self.sparsity == 0.0 or other.sparsity == 0.0:
            return self if other.sparsity == 0.0 else other
        unknown = self.weights is None or other.weights is None
        weights = None if unknown else min(self.weights or 0.0, other.weights or 0.0)
        rows, columns = min(self.rows, other.rows), min(self.columns, other.columns)
        patterns = self.patterns | other.patterns
        mixed = self.patterns != other.patterns and not patterns <= {"rows", "columns"}
        estimated = self.estimated or other.estimated or mixed
        return Kept(weights, rows, columns, estimated, patterns)
