"""A sampler that says what a test wants it to, in place of the process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lmbench.jobs.hosts.sampler_messages import (
    Alternative,
    Began,
    Ended,
    Message,
    Offered,
    Write,
    Wrote,
)

TEXT = "North America on March 9 , 2010 , and received <unk> reviews . <eos> The game was"


class SamplerDouble:
    """Keeps what was asked. With `answers`, each text is written at once."""

    made: list[SamplerDouble]

    def __init__(self, log_path: Path, received: Callable[[Message], None]) -> None:
        self.received = received
        self.sent: list[Message] = []
        self.started = 0
        self.closed = False
        type(self).made.append(self)

    answers = True

    async def start(self) -> None:
        self.started += 1

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if self.answers and isinstance(message, Write):
            self.write(message)

    async def close(self) -> None:
        self.closed = True

    @property
    def writes(self) -> list[Write]:
        return [message for message in self.sent if isinstance(message, Write)]

    def write(self, request: Write, *, end: bool = True) -> None:
        """Say a whole text, and that it has ended."""
        self.received(Began(id=request.id, runtime="torch", opening=3))
        words = TEXT.split()
        first = len(request.kept)
        for at in range(first, len(words)):
            text = "branched" if at == first and request.chosen is not None else words[at]
            self.received(wrote(request.id, at, text))
        if end:
            self.received(Ended(id=request.id, halted=False))
            self.received(Offered(id=request.id, runtimes=self.runtimes(request)))

    def runtimes(self, request: Write) -> tuple[str, ...]:
        """Fewer for what is quantized."""
        return ("naive",) if "quantize" in request.run else ("naive", "torch", "native-int8")


def wrote(id: int, at: int, text: str) -> Wrote:
    """A word whose place among five alternatives, and whose surprisal, depend on `at` alone."""
    names = ["the", "a", "its", "September", "an"]
    names[at % 5] = text
    shares = [0.31, 0.12, 0.08, 0.05, 0.0004]
    after = [0.5, 0.25, 0.15, 0.1, 0.0]
    among = tuple(
        Alternative(id=10 * at + i, text=name, before=b, after=a)
        for i, (name, b, a) in enumerate(zip(names, shares, after, strict=True))
    )
    own = among[at % 5]
    return Wrote(
        id=id, at=at, word=own.id, text=text, bits=float(at), probability=own.after,
        seconds=0.002 * (at + 1), alternatives=among,
    )  # fmt: skip
