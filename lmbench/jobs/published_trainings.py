"""Trainings whose commands are published with figures, to start from. No torch here.

They are the runs of PyTorch's word-language-model example and of Distiller's. The perplexities are
those of WikiText-2's test split, measured with the same commands; the 117.61, 110.44 and 87.17
that stand beside them elsewhere are Penn Treebank's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

__all__ = ["FIRST_STEPS", "PUBLISHED", "Published"]


@dataclass(frozen=True)
class Published:
    """A training by name: `settings` are those that differ from the defaults.

    `test_ppl` is the published test perplexity on WikiText-2 as text, "" where there is none.
    """

    name: str
    about: str
    settings: Mapping[str, Any]
    test_ppl: str = ""


_CORPUS = "wikitext-2"


def _published(name: str, about: str, test_ppl: str = "", **settings: Any) -> Published:
    # The figures are of this corpus, so it is named: the default is whatever is at hand.
    return Published(name, about, MappingProxyType({"data": _CORPUS, **settings}), test_ppl)


_MEDIUM = {"emsize": 650, "nhid": 650, "dropout": 0.5}
_LARGE = {"emsize": 1500, "nhid": 1500, "dropout": 0.65}

PUBLISHED: tuple[Published, ...] = (
    _published("small", "2x200, 6 epochs", "142.07", epochs=6),
    _published("small-tied", "2x200 tied, 6 epochs", "130.32", epochs=6, tied=True),
    _published("small-tied-40", "2x200 tied, 40 epochs", "99.53 to 100.33", tied=True),
    _published("medium", "2x650, 40 epochs", **_MEDIUM),
    _published(
        "medium-tied", "2x650 tied, 40 epochs", "84.21", **_MEDIUM, tied=True, weight_decay=1e-6
    ),
    _published("large", "2x1500, 40 epochs", **_LARGE),
    _published(
        "large-tied", "2x1500 tied, 40 epochs", "83.85", **_LARGE, tied=True, weight_decay=1e-6
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
