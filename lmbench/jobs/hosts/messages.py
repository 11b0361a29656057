"""Talking to a resident process: lines of strict JSON over its stdin and stdout. No torch here.

Such a process stays, since loading torch and a model takes longer than what it is then asked for.
Its stderr goes to a file. It ends when its stdin ends, so it cannot outlive whoever asked.
`sampler_messages` and `laboratory_messages` say what is spoken with which process.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Protocol

from lmbench.jobs.exit_reasons import why_ended

__all__ = ["Client", "Desk", "Died", "Language", "Message", "Refused", "Say", "serve"]

# A line with a thousand alternatives, or a model of many modules, stays below it.
_LONGEST_LINE = 1 << 20
_PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Base of all messages. `id` is the request it is about, given by whoever asks; 0 for none."""

    kind: ClassVar[str]
    id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Message):
    """Told: it cannot be done, and why; the request is over."""

    kind: ClassVar[str] = "refused"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Died(Message):
    """Told by the client: the process is gone, and with it all that it held; the next request
    starts a new one."""

    kind: ClassVar[str] = "died"
    reason: str


_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "int | None": (int, type(None)),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
    "Mapping[str, Any]": (dict,),
}
_ITEMS: dict[str, type] = {"tuple[int, ...]": int, "tuple[str, ...]": str}


class Language:
    """The messages that are spoken with one process.

    Args:
        kinds: every message that may come or go.
        parts: frozen dataclasses that stand inside messages, as ``tuple[NAME, ...]``.
    """

    def __init__(self, kinds: tuple[type[Message], ...], parts: tuple[type[Any], ...] = ()) -> None:
        self._kinds = {kind.kind: kind for kind in kinds}
        self._fields = {
            name: {f.name: f for f in dataclasses.fields(kind)}
            for name, kind in self._kinds.items()
        }
        self._parts = {f"tuple[{part.__name__}, ...]": part for part in parts}

    def encode(self, message: Message) -> bytes:
        """The message as one line."""
        document = {"kind": message.kind, **dataclasses.asdict(message)}
        return json.dumps(document, allow_nan=False).encode() + b"\n"

    def decode(self, line: bytes) -> Message:
        """The message of one line.

        Raises:
            ValueError: it is none; says what is wrong with it.
        """
        document = json.loads(line)
        if not isinstance(document, dict):
            raise ValueError("not a JSON object")
        kind = document.pop("kind", None)
        if not isinstance(kind, str) or kind not in self._kinds:
            raise ValueError(f"no kind of message: {kind!r}")
        known = self._fields[kind]
        try:
            for name, value in document.items():
                if name not in known:
                    raise ValueError(f"{kind}: unknown field '{name}'")
                annotation = str(known[name].type)
                if not self._fits(value, annotation):
                    raise ValueError(f"{kind}: field '{name}' cannot be {value!r}")
                if annotation in self._parts:
                    document[name] = tuple(self._parts[annotation](**_tuples(row)) for row in value)
            return self._kinds[kind](**_tuples(document))
        except TypeError as error:
            raise ValueError(f"{kind}: {error}") from None

    def _fits(self, value: Any, annotation: str) -> bool:
        item = dict if annotation in self._parts else _ITEMS.get(annotation)
        if item is not None:
            return isinstance(value, list) and all(type(v) is item for v in value)
        if isinstance(value, bool):
            return annotation == "bool"
        return isinstance(value, _TYPES[annotation])


def _tuples(document: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in document.items()}


# -- whoever asks ------------------------------------------------------------------------------


class Client:
    """A resident process as its user's event loop sees it. Override `command`.

    Args:
        log_path: where the process's stderr goes.
        heard: told each message, on the event loop; `Died` once for each process that ended
            without being asked to.
    """

    name: ClassVar[str]
    """What the process is called in a sentence."""
    language: ClassVar[Language]

    def __init__(self, log_path: Path, heard: Callable[[Message], None]) -> None:
        self._log_path = log_path
        self._heard = heard
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._closed = False

    def command(self) -> list[str]:
        """The process's command line."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """What the process finds in its environment besides what this one does."""
        return {}

    @property
    def pid(self) -> int | None:
        """The process's number while it lives."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Start the process, should it not be there; returns before it is ready to work."""
        async with self._starting:
            if self._process is None and not self._closed:
                try:
                    self._process = await self._spawn()
                except OSError as error:
                    self._heard(Died(reason=f"the {self.name} cannot be started: {error}"))
                    return
                self._reading = asyncio.create_task(self._read(self._process))

    async def _spawn(self) -> asyncio.subprocess.Process:
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        with self._log_path.open("wb") as log:
            return await asyncio.create_subprocess_exec(
                *self.command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                limit=_LONGEST_LINE,
                env=os.environ | dict(self.environment()),
            )

    async def send(self, message: Message) -> None:
        """Ask; starts the process where there is none."""
        await self.start()
        process = self._process
        if process is None or process.stdin is None:
            return
        try:
            process.stdin.write(self.language.encode(message))
            await process.stdin.drain()
        except (ConnectionError, RuntimeError):
            # It died this moment: the reader tells so.
            return

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        # What a library printed past us (ValueError) is in nobody's interest.
        while line := await process.stdout.readline():
            try:
                message = self.language.decode(line)
            except ValueError:
                continue
            self._heard(message)
        code = await process.wait()
        if self._process is process:
            self._process = None
            if not self._closed:
                self._heard(Died(reason=f"the {self.name} is gone: {why_ended(code)}"))

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


# -- whoever is asked --------------------------------------------------------------------------

Say = Callable[[Message], None]


class Desk(Protocol):
    """Where a process does what it is asked; what happens is said to its `Say`."""

    @property
    def busy(self) -> bool:
        """Is there something to go on with?"""
        ...

    def handle(self, request: Message) -> None:
        """Do what is asked, or begin with it."""
        ...

    def step(self) -> None:
        """Go on a little."""
        ...


def serve(name: str, language: Language, make: Callable[[Say], Desk], *, niceness: int) -> None:
    """The life of a resident process: it takes requests between two steps, and ends when stdin
    does, whatever it is doing. `niceness` is how far it steps back behind whatever else runs."""
    answers = _own_stdout()
    if niceness and hasattr(os, "nice"):
        os.nice(niceness)

    def say(message: Message) -> None:
        answers.write(language.encode(message))
        answers.flush()

    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    desk = make(say)
    try:
        while True:
            try:
                line = requests.get(block=not desk.busy)
            except queue.Empty:
                desk.step()
                continue
            try:
                request = language.decode(line)
            except (ValueError, TypeError, RecursionError) as error:
                say(Refused(reason=f"the {name} was asked what it does not understand: {error}"))
                continue
            desk.handle(request)
    except (BrokenPipeError, KeyboardInterrupt):
        # Whoever asked is gone.
        os._exit(0)


def _own_stdout() -> BinaryIO:
    """Stdout for answers alone: what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def _listen(requests: queue.SimpleQueue[bytes]) -> None:
    """Pass requests on; the end of stdin is the end."""
    for line in sys.stdin.buffer:
        requests.put(line)
    os._exit(0)
