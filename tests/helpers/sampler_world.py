"""A home with two tiny models that speak twelve words, and the answers of a sampler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import save_file

from lmbench.config import TrainConfig
from lmbench.jobs.hosts.sampler_messages import Ended, Message, Refused, Write, Wrote
from lmbench.model.rnn import RNNModel
from lmbench.session import Home, Run
from lmbench.session.store import Corpus

_TEXT = "<unk> <eos> the game was released in March and sold very well"
WORDS: list[str] = list(_TEXT.split())
SETTINGS = {"words": 8, "prompt": "the game", "seed": 3, "alternatives": 5}


def speaking_run(home: Home, seed: int = 0, which: str = "best") -> Run:
    """A finished run with a checkpoint and a vocabulary, as training leaves them."""
    session = home.open_session("demo")
    run = session.new_run(TrainConfig(), "train", name=f"model {seed}")
    session.write_vocabulary("f" * 64, WORDS)
    run.update(
        status="finished",
        corpus=Corpus(name="tiny", fingerprint="f" * 64, ntokens=len(WORDS)),
        shape={
            "model": "LSTM", "emsize": 8, "nhid": 8, "nlayers": 1, "dropout": 0.0,
            "tied": False, "ntoken": len(WORDS),
        },
    )  # fmt: skip
    save_weights(run, seed, which)
    return run


def save_weights(run: Run, seed: int, which: str = "best") -> None:
    torch.manual_seed(seed)
    model = RNNModel("LSTM", len(WORDS), 8, 8, 1, 0.0, False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1, 1)
    folder = run.path / which
    folder.mkdir(exist_ok=True)
    save_file({n: p.detach().clone() for n, p in model.named_parameters()},
              folder / "model.safetensors")  # fmt: skip


def ask(id: int, run: Run, **changes: Any) -> Write:
    branch = {k: changes.pop(k) for k in ("kept", "chosen", "opening", "of") if k in changes}
    return Write(id=id, run=str(run.path), settings={**SETTINGS, **changes}, **branch)


class Answers:
    """Keeps what was said, and waits for more."""

    def __init__(self) -> None:
        self.received: list[Message] = []
        self._news = asyncio.Event()

    def __call__(self, message: Message) -> None:
        self.received.append(message)
        self._news.set()

    async def until(self, good: Callable[[Message], bool], seconds: float = 120.0) -> Message:
        async def wait() -> Message:
            seen = 0
            while True:
                for message in self.received[seen:]:
                    if good(message):
                        return message
                seen = len(self.received)
                self._news.clear()
                await self._news.wait()

        return await asyncio.wait_for(wait(), seconds)

    async def until_over(self, id: int) -> Message:
        return await self.until(lambda m: m.id == id and isinstance(m, Ended | Refused))

    def text(self, id: int) -> list[str]:
        return words_of(self.received, id)


def words_of(received: list[Message], id: int) -> list[str]:
    return [m.text for m in received if isinstance(m, Wrote) and m.id == id]
