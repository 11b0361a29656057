"""The sampler's messages: requests for text, and the text a word at a time. No torch here.

The sampler (`lmbench.jobs.hosts.sampler`) is a process of its own that stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from lmbench.jobs.hosts.messages import Client, Died, Message, Messages, Refused
from lmbench.session.tagged_lines import Number, TaggedLines

__all__ = [
    "MESSAGES",
    "Alternative",
    "Began",
    "Died",
    "Ended",
    "Forget",
    "Halt",
    "Message",
    "Offered",
    "Opening",
    "Refused",
    "SamplerClient",
    "Write",
    "Wrote",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Write(Message):
    """Request: write a text.

    `run` is a run's folder, `settings` are those of `lmbench.config.GenerateConfig`. A branch
    names the ids of the words that are kept and then the one `chosen`; where the sampler still
    holds the text `of`, it rewinds that one, otherwise it reads the kept words again, after the
    `opening` that `Began` told. Either way the same words follow.
    """

    kind: Literal["write"] = "write"
    run: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    kept: tuple[int, ...] = ()
    chosen: int | None = None
    opening: int | None = None
    of: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Halt(Message):
    """Request: write no further word of this text, but keep it to branch from."""

    kind: Literal["halt"] = "halt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget(Message):
    """Request: stop this text and let go of it; it is not recorded."""

    kind: Literal["forget"] = "forget"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening(Message):
    """Answer: the model is being read from disk."""

    kind: Literal["opening"] = "opening"


@dataclass(frozen=True, slots=True, kw_only=True)
class Began(Message):
    """Answer: the first word comes next. `unknown` are words of the prompt read as ``<unk>``;
    `opening` is the word that a text without a prompt begins after."""

    kind: Literal["began"] = "began"
    runtime: str
    unknown: tuple[str, ...] = ()
    opening: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A word that was likely at a place: how likely before and after the sampling settings."""

    id: int
    text: str
    before: Number
    after: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrote(Message):
    """Answer: word number `at`, from 0. `seconds` is what it and all words before it took to
    step."""

    kind: Literal["wrote"] = "wrote"
    at: int
    word: int
    text: str
    bits: Number
    probability: Number
    seconds: Number
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(Message):
    """Answer: the text is complete, or was halted. `problem` says why it is not in the session's
    ``samples.jsonl``, where it is not."""

    kind: Literal["ended"] = "ended"
    halted: bool
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered(Message):
    """Answer, after a text has ended: the runtimes that can run its model on this machine."""

    kind: Literal["offered"] = "offered"
    runtimes: tuple[str, ...]


MESSAGES: Messages = TaggedLines(
    Annotated[
        Write | Halt | Forget | Opening | Began | Wrote | Ended | Offered | Refused | Died,
        Field(discriminator="kind"),
    ],
    extra="forbid",
)


class SamplerClient(Client):
    """The sampler as its user's event loop sees it; one thread is best for stepping."""

    name = "sampler"
    messages = MESSAGES

    def environment(self) -> Mapping[str, str]:
        return {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
