"""Asking a sampler for text: its process, and the messages both sides speak. No torch here.

The sampler (`lmbench.jobs.sampler`) is a process of its own that stays, since loading torch and a
model takes longer than writing a page. Each message is one line of strict JSON over its stdin and
stdout; its stderr goes to a file. It ends when its stdin ends, so it cannot outlive whoever asked.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from lmbench.jobs.reasons import why_ended
from lmbench.jobs.supervisor import python

__all__ = [
    "Alternative",
    "Began",
    "Died",
    "Ended",
    "Forget",
    "Halt",
    "Message",
    "Opening",
    "Refused",
    "SamplerClient",
    "Write",
    "Wrote",
    "decode",
    "encode",
]

# A line with a thousand alternatives stays below it.
_LONGEST_LINE = 1 << 20
_PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Base of all messages. `id` is the text it is about, given by whoever asks; 0 for none."""

    kind: ClassVar[str]
    id: int = 0


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
class Refused(Message):
    """Told: it cannot be done, and why; the text is over."""

    kind: ClassVar[str] = "refused"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Died(Message):
    """Told by the client: the process is gone, and with it all texts; the next `Write` starts a
    new one."""

    kind: ClassVar[str] = "died"
    reason: str


_KINDS: dict[str, type[Message]] = {
    found.kind: found
    for found in (Write, Halt, Forget, Opening, Began, Wrote, Ended, Refused, Died)
}
_FIELDS = {kind: {f.name: f for f in dataclasses.fields(cls)} for kind, cls in _KINDS.items()}


def encode(message: Message) -> bytes:
    """The message as one line."""
    document = {"kind": message.kind, **dataclasses.asdict(message)}
    return json.dumps(document, allow_nan=False).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message of one line.

    Raises:
        ValueError: it is none; says what is wrong with it.
    """
    document = json.loads(line)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    kind = document.pop("kind", None)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"no kind of message: {kind!r}")
    known = _FIELDS[kind]
    for name, value in document.items():
        if name not in known:
            raise ValueError(f"{kind}: unknown field '{name}'")
        if not _fits(value, str(known[name].type)):
            raise ValueError(f"{kind}: field '{name}' cannot be {value!r}")
        if name == "alternatives":
            document[name] = tuple(Alternative(**row) for row in value)
        elif isinstance(value, list):
            document[name] = tuple(value)
    try:
        return _KINDS[kind](**document)
    except TypeError as error:
        raise ValueError(f"{kind}: {error}") from None


_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "int | None": (int, type(None)),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
    "Mapping[str, Any]": (dict,),
}
_ITEMS: dict[str, type] = {
    "tuple[int, ...]": int,
    "tuple[str, ...]": str,
    "tuple[Alternative, ...]": dict,
}


def _fits(value: Any, annotation: str) -> bool:
    if annotation in _ITEMS:
        return isinstance(value, list) and all(type(v) is _ITEMS[annotation] for v in value)
    if isinstance(value, bool):
        return annotation == "bool"
    return isinstance(value, _TYPES[annotation])


class SamplerClient:
    """The sampler as its user's event loop sees it.

    Args:
        log_path: where the process's stderr goes.
        heard: told each message, on the event loop; `Died` once for each process that ended
            without being asked to.
    """

    def __init__(self, log_path: Path, heard: Callable[[Message], None]) -> None:
        self._log_path = log_path
        self._heard = heard
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The process's number while it lives."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Start the process, should it not be there; returns before it is ready to write."""
        async with self._starting:
            if self._process is None and not self._closed:
                try:
                    self._process = await self._spawn()
                except OSError as error:
                    self._heard(Died(reason=f"the sampler cannot be started: {error}"))
                    return
                self._reading = asyncio.create_task(self._read(self._process))

    async def _spawn(self) -> asyncio.subprocess.Process:
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        with self._log_path.open("wb") as log:
            return await asyncio.create_subprocess_exec(
                *python("lmbench.jobs.sampler"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                limit=_LONGEST_LINE,
                env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            )

    async def send(self, message: Message) -> None:
        """Ask; starts the process where there is none."""
        await self.start()
        process = self._process
        if process is None or process.stdin is None:
            return
        try:
            process.stdin.write(encode(message))
            await process.stdin.drain()
        except (ConnectionError, RuntimeError):
            # It died this moment: the reader tells so.
            return

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        # What a library printed past us (ValueError) is in nobody's interest.
        while line := await process.stdout.readline():
            try:
                message = decode(line)
            except ValueError:
                continue
            self._heard(message)
        code = await process.wait()
        if self._process is process:
            self._process = None
            if not self._closed:
                self._heard(Died(reason=f"the sampler is gone: {why_ended(code)}"))

    async def close(self) -> None:
        """End the process, whatever it is doing; nothing is told any more."""
        self._closed = True
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _PATIENCE_S)
        except TimeoutError:
            process.kill()
            await process.wait()
        if self._reading is not None:
            await self._reading
