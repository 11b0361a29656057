"""A new-run form that is half filled in: kept in the session until it is started or left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lmbench.config import Kind
from lmbench.tui.new_run.form_lines import KINDS

__all__ = ["FormDraft"]


@dataclass(frozen=True)
class FormDraft:
    """`origin` is the key of the run to start from, `texts` what stands in each field, right or
    wrong, and `visited` the field that one was at."""

    kind: Kind
    origin: str | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    visited: str = "@kind"

    @classmethod
    def from_json(cls, document: Any) -> FormDraft | None:
        """What was remembered; None where nothing was, or where it does not fit."""
        kept: dict[str, Any] = document if isinstance(document, dict) else {}
        known: dict[str, Kind] = {kind: kind for kind in KINDS}
        kind = known.get(str(kept.get("kind")))
        texts, origin = kept.get("texts"), kept.get("origin")
        if kind is None or not isinstance(texts, dict):
            return None
        return cls(
            kind,
            origin if isinstance(origin, str) else None,
            {name: text for name, text in texts.items() if isinstance(text, str)},
            str(kept.get("visited", "@kind")),
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
