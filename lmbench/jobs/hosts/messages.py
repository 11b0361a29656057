"""Requests to a resident process and its answers: lines of strict JSON over its stdin and stdout.

Such a process stays, since loading torch and a model takes longer than what it is then asked for.
Its stderr goes to a file. It ends when its stdin ends, so it cannot outlive its client.
`sampler_messages` and `laboratory_messages` hold the messages of each process. No torch here.
"""

from __future__ import annotations

import asyncio
import os
import queue
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar, Literal, Protocol

from lmbench.distiller.errors import DistillerError
from lmbench.errors import LmbenchError
from lmbench.jobs.exit_reasons import why_ended
from lmbench.session.process import python
from lmbench.session.tagged_lines import TaggedLines

__all__ = ["Client", "Died", "Host", "Message", "Messages", "Refused", "Send", "refusal", "serve"]

# A line with a thousand alternatives, or a model of many modules, stays below it.
_LONGEST_LINE = 1 << 20
_PATIENCE_S = 2.0
# Of a process, for what was requested right before the end.
_LAST_REQUESTS_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Base of all messages. `id` is that of the request, given by the client; 0 for none."""

    kind: str
    id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Message):
    """Answer: it cannot be done, and why; the request is over."""

    kind: Literal["refused"] = "refused"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Died(Message):
    """From the client itself: the process is gone, and with it all that it held; the next request
    starts a new one."""

    kind: Literal["died"] = "died"
    reason: str


Messages = TaggedLines[Message]
"""The messages that are exchanged with one process; a field that none of them has is refused."""


# -- the client --------------------------------------------------------------------------------


class Client:
    """A resident process as its user's event loop sees it.

    Args:
        log_path: where the process's stderr goes.
        on_message: called with each message, on the event loop; with `Died` once for each process
            that ended without being asked to.
    """

    name: ClassVar[str]
    """The process's module beside this one, and what it is called in a sentence."""
    messages: ClassVar[Messages]

    def __init__(self, log_path: Path, on_message: Callable[[Message], None]) -> None:
        self._log_path = log_path
        self._on_message = on_message
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._closed = False

    def command(self) -> list[str]:
        """The process's command line."""
        return python(f"lmbench.jobs.hosts.{self.name}")

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
                    self._on_message(Died(reason=f"the {self.name} cannot be started: {error}"))
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
        """Send a request; starts the process where there is none."""
        await self.start()
        process = self._process
        if process is None or process.stdin is None:
            return
        try:
            process.stdin.write(self.messages.line(message))
            await process.stdin.drain()
        except (ConnectionError, RuntimeError):
            # It died this moment, which the reader reports.
            return

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        # What a library printed on stdout is passed over.
        while line := await process.stdout.readline():
            try:
                message = self.messages.parse(line)
            except ValueError:
                continue
            self._on_message(message)
        code = await process.wait()
        if self._process is process:
            self._process = None
            if not self._closed:
                self._on_message(Died(reason=f"the {self.name} is gone: {why_ended(code)}"))

    async def close(self) -> None:
        """End the process, whatever it is doing; no message follows."""
        self._closed = True
        # One that is being started would outlive this.
        async with self._starting:
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


# -- the process -------------------------------------------------------------------------------

Send = Callable[[Message], None]


def refusal(id: int, name: str, error: Exception) -> Refused:
    """The answer to what cannot be done; of a defect of ours the traceback goes to stderr."""
    words = " ".join(str(error).split())
    if not isinstance(error, LmbenchError | DistillerError):
        traceback.print_exception(error)
        sys.stderr.flush()
        words = f"{type(error).__name__} in the {name}: {words or 'no further words'}"
    return Refused(id=id, reason=words)


class Host(Protocol):
    """What works on the requests that a process gets; its answers go to a `Send`."""

    @property
    def busy(self) -> bool:
        """Is there something to go on with?"""
        ...

    def handle(self, request: Message) -> None:
        """Do what is requested, or begin with it."""
        ...

    def step(self) -> None:
        """Go on a little."""
        ...


def serve(name: str, messages: Messages, make: Callable[[Send], Host], *, niceness: int) -> None:
    """The life of a resident process: it takes requests between two steps, and ends a moment after
    stdin, whatever it is doing. `niceness` is how far it steps back behind whatever else runs."""
    answers = _own_stdout()
    os.nice(niceness)

    def send(message: Message) -> None:
        answers.write(messages.line(message))
        answers.flush()

    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()
    host = make(send)
    try:
        while True:
            try:
                line = requests.get(block=not host.busy)
            except queue.Empty:
                host.step()
                continue
            if not line:
                break
            try:
                request = messages.parse(line)
            except ValueError as error:
                send(Refused(reason=f"the {name} does not understand a request: {error}"))
                continue
            host.handle(request)
        os._exit(0)
    except (BrokenPipeError, KeyboardInterrupt):
        # The client is gone.
        os._exit(0)


def _own_stdout() -> BinaryIO:
    """Stdout for answers alone: what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def _read_requests(requests: queue.SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        requests.put(line)
    # The end of stdin is the end of the process, which may first do what was still requested.
    requests.put(b"")
    time.sleep(_LAST_REQUESTS_S)
    os._exit(0)
