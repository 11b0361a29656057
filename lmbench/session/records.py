"""What ``run.json`` and ``session.json`` hold."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetPydanticSchema, ValidationError
from typing_extensions import TypedDict

from lmbench.config import Kind, SensitivityConfig
from lmbench.errors import LmbenchError

__all__ = [
    "FORMAT_VERSION",
    "LIVE",
    "Corpus",
    "ModelSize",
    "RunRecord",
    "SessionRecord",
    "Status",
    "checked_workbench",
    "parse_record",
]

FORMAT_VERSION = 1

Status = Literal["queued", "running", "paused", "finished", "stopped", "failed", "lost"]
EarlyStopping = Literal["", "waits", "stopped", "off"]
"""What the early stopping of its sweep has made of a run: nothing; it ``waits`` at a rung, stopped,
until it is known whether it is promoted; it was ``stopped`` for good; or ``off``: it was resumed
out of one of these, by somebody who wants it to go on."""
LIVE: frozenset[Status] = frozenset({"running", "paused"})


class _Record(BaseModel):
    """Readers of version 1 keep fields that a later minor version added."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    version: int = FORMAT_VERSION


class Corpus(BaseModel):
    """The text that a run's model reads: which, and the hash of its content."""

    model_config = ConfigDict(extra="allow", strict=True)
    name: str
    fingerprint: str
    origin: str = ""
    ntokens: int = 0
    vocab: Literal["all", "train"] = "all"


# More of anything than a float could show is not counted but written by hand.
_Count = Annotated[int, Field(lt=2**63)]


class _Results(TypedDict, total=False):
    """The results that lists and tables calculate with; others may be anything."""

    __pydantic_config__ = ConfigDict(  # pyright: ignore[reportGeneralTypeIssues]
        extra="allow", allow_inf_nan=False
    )
    valid_loss: float | None
    valid_ppl: float | None
    test_loss: float | None
    test_ppl: float | None
    test_cache_ppl: float | None
    test_dynamic_ppl: float | None
    test_cache_dynamic_ppl: float | None
    test_word_ppl: float | None
    test_bits_per_character: float | None
    sparsity: float | None
    tokens_per_s: float | None
    seconds: float | None
    parameters: _Count | None
    nonzero: _Count | None
    bytes: _Count | None
    packed_bytes: _Count | None
    split_tokens: _Count | None
    rungs: dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], float | None]
    rows: list[dict[str, Any]]


# Until the year 9999: what is far beyond it, a calendar cannot show.
Moment = Annotated[float, Field(ge=0.0, le=253_402_300_799.0)]
Results = Annotated[
    dict[str, Any], GetPydanticSchema(lambda _source, handler: handler.generate_schema(_Results))
]

# The setting that limits how many tokens of a split are scored, and its default; 0 scores all.
_LIMITS: dict[str, tuple[str, int]] = {
    "evaluate": ("tokens", 0),
    "sensitivity": ("tokens", SensitivityConfig().tokens),
    "quantize": ("eval_tokens", 0),
}


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
    created: Moment = Field(default_factory=time.time)
    attempt: Annotated[int, Field(ge=0)] = 0
    """How often it was begun or resumed; 0 for not yet, or by a version that did not count."""
    started: Moment | None = None
    ended: Moment | None = None
    pid: int | None = None
    process_started: float | None = None
    host: str = Field(default_factory=platform.node)
    device: str = ""
    reason: str = ""
    exit_code: int | None = None
    command: str = ""
    imported: str = ""
    """The file that its model came from, made elsewhere; "" for a run whose work made it."""
    cwd: str = ""
    place: str = "local"
    """Where it is worked on (`lmbench.jobs.places`)."""
    job: str = ""
    """What that place calls it; "" where it was not submitted there."""
    point: str = ""
    """Which run of the session's sweep it is; "" for none."""
    early_stopping: EarlyStopping = ""
    versions: dict[str, str] = Field(default_factory=dict)
    corpus: Corpus | None = None
    shape: dict[str, Any] = Field(default_factory=dict)
    results: Results = Field(default_factory=dict)

    @property
    def stopped_early(self) -> bool:
        """Does it wait at a rung of its sweep, or was it stopped there? Its figures are then those
        of a part of a training."""
        return self.early_stopping in ("waits", "stopped")

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

    @property
    def part_tokens(self) -> int | None:
        """How many tokens its perplexities are of, where they are of a part of a split only; such
        a figure is marked wherever it is shown, and compares with no other."""
        setting, default = _LIMITS.get(self.kind, ("", 0))
        limit, whole = self.config.get(setting, default), self.results.get("split_tokens")
        if not isinstance(limit, int) or limit <= 0 or (whole is not None and limit >= whole):
            return None
        return limit


class SessionRecord(_Record):
    """``session.json``: what a session is called and how the workbench was left."""

    name: str
    created: Moment = Field(default_factory=time.time)
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
        raise LmbenchError(f"field '{field}': {first['msg'].lower()} ({where})") from None


class _WorkbenchState(BaseModel):
    """What ``session.json`` keeps of the workbench under plain names; keys with a slash, and those
    of other versions, may hold anything that their readers check."""

    model_config = ConfigDict(extra="allow", strict=True)
    selected: str | None = None
    marked: list[str] | None = None
    theme: str | None = None
    screen: str | None = None
    lower: str | None = None
    focus: str | None = None
    log: str | None = None
    tensor: str | None = None
    prompt: str | None = None
    plot: dict[str, Any] | None = None
    layers: dict[str, Any] | None = None
    runs: dict[str, Any] | None = None
    compare: dict[str, Any] | None = None
    sensitivity: dict[str, Any] | None = None
    sweep: dict[str, Any] | None = None
    sampling: dict[str, Any] | None = None
    new_run: dict[str, Any] | None = None


def checked_workbench(state: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The workbench's state without the values that have a wrong type, and what is wrong, a line
    for each."""
    try:
        _WorkbenchState.model_validate(state)
    except ValidationError as error:
        problems: dict[str, str] = {}
        for found in error.errors():
            field = ".".join(map(str, found["loc"]))
            problems[str(found["loc"][0])] = f"field 'workbench.{field}': {found['msg'].lower()}"
        return {k: v for k, v in state.items() if k not in problems}, list(problems.values())
    return dict(state), []
