"""What every runtime offers: stepping a word at a time, and scoring a text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lmbench.config.machine import Accuracy
from lmbench.corpus.batches import windows
from lmbench.deploy.load_model import LoadedModel
from lmbench.model.device import in_float64, widest
from lmbench.perplexity import perplexity

__all__ = ["Accuracy", "Progress", "Runtime", "Score", "State", "needs_cpu", "one_thread"]

State = Any
"""A model's memory between two steps: opaque, and never changed in place by a runtime.

So keeping a reference is a snapshot, and stepping from an old one rewinds.
"""

Progress = Callable[[int, int], None]
"""Called with (rows done, rows in all) while a text is scored."""


@dataclass(frozen=True)
class Score:
    """The summed negative log-likelihood, in nats, of `tokens` predicted tokens."""

    nll: float
    tokens: int

    @property
    def loss(self) -> float:
        return self.nll / self.tokens

    @property
    def ppl(self) -> float:
        return perplexity(self.loss)


class Runtime(ABC):
    """One way to execute one model.

    A runtime keeps no state of a text: `step` is a function of its arguments. It is not
    thread-safe, since it may reuse buffers from call to call.
    """

    name: ClassVar[str]
    """What the command line calls it."""

    about: ClassVar[str]
    """One line for help and tables."""

    accuracy: ClassVar[Accuracy]
    """How near its predictions are to the model's in fp32."""

    device: torch.device = torch.device("cpu")
    """Where ids are expected best and logits are given."""

    ntoken: int
    """Types V of the vocabulary."""

    @abstractmethod
    def __init__(self, loaded: LoadedModel) -> None: ...

    @classmethod
    def refusal(cls, loaded: LoadedModel) -> str | None:
        """Why it cannot run this model on this machine, or None where it can."""
        return (
            None if loaded.plain else "a quantizer has wrapped its modules, which run as they are"
        )

    @property
    @abstractmethod
    def bytes(self) -> int:
        """Size of the model's numbers as this runtime stores them, tied weights once."""

    @abstractmethod
    def initial_state(self, batch: int = 1) -> State:
        """The state before a text, for `batch` texts at once."""

    @abstractmethod
    def step(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one word of each text.

        Args:
            ids: int64 [B].
            state: from `initial_state(B)` or an earlier step; stays usable.

        Returns:
            Logits of the next word, float32 [B, V], which are the caller's only until the next
            step, and the new state.
        """

    def hidden(self, state: State) -> Tensor:
        """What the decoder saw last, float32 [B, H] or, behind a projection, [B, E]."""
        layers = state[0] if isinstance(state, tuple) else state
        return self.projected(torch.as_tensor(layers[-1]))

    @abstractmethod
    def projected(self, output: Tensor) -> Tensor:
        """The last layer's output [..., H] as the decoder sees it: through the projection, where
        the model has one."""

    @abstractmethod
    def losses(self, windows: Iterable[tuple[Tensor, Tensor]], state: State) -> Iterator[Tensor]:
        """Score a text window by window, the state carried from one to the next.

        Args:
            windows: ids int64 [T, B] and the words that follow them, [T * B]. One more may be
                taken than was given back.
            state: before the text, for B texts.

        Yields:
            The negative log-likelihood (nats) of each word that follows, [T * B].
        """

    def evaluate(self, data: Tensor, bptt: int, progress: Progress | None = None) -> Score:
        """Score every token after the first row once, the state carried from window to window.

        Args:
            data: ids, int64 [rows, B], as `lmbench.corpus.batches.batchify` lays them out.
            bptt: rows a window; it changes speed and memory. Where activations are quantized
                dynamically it changes the score a little too, since the range is the window's.
        """
        rows, batch = data.shape
        total, done = in_float64(torch.zeros((), device=self.device)), 0
        source = data.to(self.device)
        for losses in self.losses(windows(source, bptt), self.initial_state(batch)):
            total += in_float64(losses.sum(dtype=widest(losses.device)))
            done += len(losses) // batch
            if progress:
                progress(done, rows - 1)
        return Score(float(total), (rows - 1) * batch)

    def warm(self) -> None:
        """Do now what the first step would do late: packing, capturing, paging in."""
        self.step(torch.zeros(1, dtype=torch.int64, device=self.device), self.initial_state(1))


def needs_cpu(loaded: LoadedModel) -> str | None:
    """Why a runtime of the CPU alone cannot run this model, or None."""
    return None if loaded.device.type == "cpu" else "it runs on the CPU only (--device cpu)"


@contextmanager
def one_thread() -> Iterator[None]:
    """Step on one thread: a step is too short to share, and waking threads costs more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
