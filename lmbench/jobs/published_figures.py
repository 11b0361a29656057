"""The published figures, and the trainings whose commands they stand beside. No torch here.

They are of PyTorch's word-language-model example and of Distiller's tutorials on pruning and
quantizing it. The perplexities are
those of WikiText-2's test split, measured with the same commands; the 117.61, 110.44 and 87.17
that stand beside them elsewhere are Penn Treebank's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

__all__ = [
    "CACHED",
    "FIRST_STEPS",
    "PRUNED",
    "PUBLISHED",
    "QUANTIZED",
    "QUANTIZED_DENSE",
    "TRAINED",
    "Figures",
    "Published",
]


@dataclass(frozen=True)
class Published:
    """A training by name: `settings` are those that differ from the defaults.

    `valid` and `test` are the published perplexities on WikiText-2; `test_up_to` is the highest
    that was published for the same command.
    """

    name: str
    about: str
    settings: Mapping[str, Any]
    valid: float | None = None
    test: float | None = None
    test_up_to: float | None = None

    @property
    def test_ppl(self) -> str:
        """The test perplexity as text, "" where there is none."""
        found = [f"{ppl:.2f}" for ppl in (self.test, self.test_up_to) if ppl is not None]
        return " to ".join(found)


_CORPUS = "wikitext-2"


def _published(
    name: str,
    about: str,
    valid: float | None = None,
    test: float | None = None,
    test_up_to: float | None = None,
    **settings: Any,
) -> Published:
    # The figures are of this corpus, so it is named: the default is whatever is at hand.
    given = MappingProxyType({"data": _CORPUS, **settings})
    return Published(name, about, given, valid, test, test_up_to)


_MEDIUM = {"emsize": 650, "nhid": 650, "dropout": 0.5}
_LARGE = {"emsize": 1500, "nhid": 1500, "dropout": 0.65}

PUBLISHED: tuple[Published, ...] = (
    _published("small", "2x200, 6 epochs", None, 142.07, epochs=6),
    _published("small-tied", "2x200 tied, 6 epochs", None, 130.32, epochs=6, tied=True),
    _published("small-tied-40", "2x200 tied, 40 epochs", 105.23, 99.53, 100.33, tied=True),
    _published("medium", "2x650, 40 epochs", **_MEDIUM),
    _published(
        "medium-tied",
        "2x650 tied, 40 epochs",
        88.17,
        84.21,
        **_MEDIUM,
        tied=True,
        weight_decay=1e-6,
    ),
    _published("large", "2x1500, 40 epochs", **_LARGE),
    _published(
        "large-tied", "2x1500 tied, 40 epochs", 87.49, 83.85, **_LARGE, tied=True, weight_decay=1e-6
    ),
)

FIRST_STEPS = _published(
    "first-steps",
    "2x128 tied on the embedded corpus: minutes on a laptop",
    data="pydoc",
    emsize=128,
    nhid=128,
    tied=True,
    epochs=6,
    event_interval=5,
)
"""A first training that needs no download."""

Figures = tuple[float | None, float | None]
"""Perplexity on valid and on test."""

TRAINED: Mapping[str, Figures] = {p.name: (p.valid, p.test) for p in PUBLISHED}

PRUNED: Mapping[str, Figures] = {
    "70": (90.59, 85.84),
    "70b": (87.40, 82.93),
    "80": (89.31, 83.64),
    "90": (90.70, 85.67),
    "95": (98.42, 92.79),
}
"""2x1500 tied, by the sparsity that its schedule aims at."""

# The published column says test; the notebook scored valid.
QUANTIZED: Mapping[str, float] = {
    "fp16": 86.80,
    "int8-symmetric": 104.2,
    "int8-asymmetric-per-channel": 100.45,
    "int8-avg": 88.85,
    "mixed-eltwise-fp16": 86.77,
    "mixed-avg": 88.96,
}
"""By preset, on valid."""

CACHED: Mapping[str, tuple[float, float]] = {"small": (101.64, 73.74), "large": (82.29, 62.79)}
"""By scale GluonNLP's tied 2x200 and 2x1500 on test, without and with a neural cache."""

QUANTIZED_DENSE = 86.87
"""The same model before it was quantized."""
