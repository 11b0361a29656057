"""What ``run.json`` and ``session.json`` hold."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lmbench.config import Kind
from lmbench.errors import LmbenchError

__all__ = [
    "FORMAT_VERSION",
    "LIVE",
    "STATUSES",
    "Corpus",
    "ModelSize",
    "RunRecord",
    "SessionRecord",
    "Status",
    "parse_record",
]

FORMAT_VERSION = 1

Status = Literal["queued", "running", "paused", "finished", "stopped", "failed", "lost"]
STATUSES: tuple[Status, ...] = get_args(Status)
LIVE: frozenset[Status] = frozenset({"running", "paused"})


class _Record(BaseModel):
    """Readers of version 1 keep fields that a later minor version added."""

    model_config = ConfigDict(extra="allow")
    version: int = FORMAT_VERSION


class Corpus(BaseModel):
    """The text that a run's model reads: which, and the hash of its content."""

    model_config = ConfigDict(extra="allow")
    name: str
    fingerprint: str
    origin: str = ""
    ntokens: int = 0
    vocab: Literal["all", "train"] = "all"


class ModelSize(NamedTuple):
    """Bytes of a run's model; `as_packed` where they are those of the file that packing it would
    give, and none has that size yet."""

    bytes: int | None
    as_packed: bool


class RunRecord(_Record):
    """``run.json``. Times are seconds since the epoch; `config` holds what differs from default."""

    id: int
    name: str
    kind: Kind
    config: dict[str, Any] = Field(default_factory=dict)
    parent: str | None = None
    status: Status = "queued"
    created: float = Field(default_factory=time.time)
    started: float | None = None
    ended: float | None = None
    pid: int | None = None
    process_started: float | None = None
    host: str = Field(default_factory=platform.node)
    device: str = ""
    reason: str = ""
    exit_code: int | None = None
    command: str = ""
    cwd: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    corpus: Corpus | None = None
    shape: dict[str, Any] = Field(default_factory=dict)
    results: dict[str, Any] = Field(default_factory=dict)

    @property
    def size(self) -> ModelSize:
        """Of a pruned or quantized model as it would be packed: the checkpoint itself keeps every
        number, zeros too, as a float. Else of the model's file."""
        packed = self.results.get("packed_bytes")
        if isinstance(packed, int):
            return ModelSize(packed, True)
        size = self.results.get("bytes")
        # Before there was `packed_bytes`, `bytes` of a quantize run were those.
        return ModelSize(size if isinstance(size, int) else None, self.kind == "quantize")


class SessionRecord(_Record):
    """``session.json``: what a session is called and how the workbench was left."""

    name: str
    created: float = Field(default_factory=time.time)
    notes: str = ""
    corpus: Corpus | None = None
    workbench: dict[str, Any] = Field(default_factory=dict)


R = TypeVar("R", RunRecord, SessionRecord)


def parse_record(model: type[R], document: dict[str, Any], where: Path | str) -> R:
    """The record that a file `where` holds.

    Raises:
        LmbenchError: names the file, the field and what is wrong with it.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise LmbenchError(f"{where}: field '{field}': {first['msg'].lower()}") from None
