"""Asking a sampler for text: the messages both sides speak (see `talk`). No torch here.

The sampler (`lmbench.jobs.hosts.sampler`) is a process of its own that stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lmbench.jobs.hosts.messages import Client, Died, Language, Message, Refused
from lmbench.jobs.supervisor import python

__all__ = [
    "LANGUAGE",
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
    "decode",
    "encode",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Write(Message):
    """Asked: write a text.

    `run` is a run's folder, `settings` are those of `lmbench.config.GenerateConfig`. A branch
    names the ids of the words that are kept and then the one `chosen`; where the sampler still
    holds the text `of`, it rewinds that one, otherwise it reads the kept words again. Either way
    the same words follow.
    """

    kind: ClassVar[str] = "write"
    run: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    kept: tuple[int, ...] = ()
    chosen: int | None = None
    of: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Halt(Message):
    """Asked: write no further word of this text, but keep it to branch from."""

    kind: ClassVar[str] = "halt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget(Message):
    """Asked: stop this text and let go of it; it is not recorded."""

    kind: ClassVar[str] = "forget"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening(Message):
    """Told: the model is being read from disk."""

    kind: ClassVar[str] = "opening"


@dataclass(frozen=True, slots=True, kw_only=True)
class Began(Message):
    """Told: the first word comes next. `unknown` are words of the prompt read as ``<unk>``;
    `bytes` is the size of the model's numbers as the runtime holds them."""

    kind: ClassVar[str] = "began"
    runtime: str
    bytes: int
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A word that was likely at a place: how likely before and after the sampling settings."""

    id: int
    text: str
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrote(Message):
    """Told: word number `at`, from 0. `seconds` is what it and all words before it took to
    step."""

    kind: ClassVar[str] = "wrote"
    at: int
    word: int
    text: str
    bits: float
    probability: float
    seconds: float
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(Message):
    """Told: the text is complete, or was halted. `problem` says why it is not in the session's
    ``samples.jsonl``, where it is not."""

    kind: ClassVar[str] = "ended"
    halted: bool
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered(Message):
    """Told after a text has ended: the runtimes that can run its model on this machine."""

    kind: ClassVar[str] = "offered"
    runtimes: tuple[str, ...]


LANGUAGE = Language(
    (Write, Halt, Forget, Opening, Began, Wrote, Ended, Offered, Refused, Died), (Alternative,)
)
encode, decode = LANGUAGE.encode, LANGUAGE.decode


class SamplerClient(Client):
    """The sampler as its user's event loop sees it; one thread is best for stepping."""

    name = "sampler"
    language = LANGUAGE

    def command(self) -> list[str]:
        return python("lmbench.jobs.hosts.sampler")

    def environment(self) -> Mapping[str, str]:
        return {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
