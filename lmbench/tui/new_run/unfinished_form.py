"""A new-run form that is half filled in: kept in the session until it is started or left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from lmbench.config import Kind
from lmbench.tui.new_run.form_lines import KINDS

__all__ = ["FormDraft"]


@dataclass(frozen=True)
class FormDraft:
    """`origin` is the key of the run to start from, `texts` what stands in each field, right or
    wrong, and `visited` the field that one was at."""

    kind: Kind
    origin: str | None
    texts: Mapping[str, str]
    visited: str

    @classmethod
    def from_json(cls, document: Any) -> FormDraft | None:
        """What was remembered; None where nothing was, or where it does not fit."""
        try:
            draft = TypeAdapter(cls).validate_python(document)
        except ValidationError:
            return None
        return draft if draft.kind in KINDS else None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
