"""The model run as PyTorch's example runs it: the yardstick, and the way for wrapped models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lmbench.deploy.load_model import LoadedModel
from lmbench.deploy.runtimes.interface import Accuracy, Runtime, State

__all__ = ["NaiveRuntime"]


class NaiveRuntime(Runtime):
    """The module's own `forward`, with logits for every word and `log_softmax` over them.

    It takes whatever speaks `RNNModel`'s language (``model(ids, hidden)`` and
    ``model.init_hidden(batch)``), so models with simulated quantization run here too.
    """

    name: ClassVar[str] = "naive"
    about: ClassVar[str] = "torch's own layers, the yardstick"
    accuracy: ClassVar[Accuracy] = "exact"

    def __init__(self, loaded: LoadedModel) -> None:
        self._model: Any = loaded.model
        self.ntoken = int(loaded.shape["ntoken"])
        tensors = [*self._model.parameters(), *self._model.buffers()]
        self._bytes = sum(t.numel() * t.element_size() for t in tensors)
        self.device = tensors[0].device

    @classmethod
    def refusal(cls, loaded: LoadedModel) -> str | None:
        return None

    @property
    def bytes(self) -> int:
        return self._bytes

    def initial_state(self, batch: int = 1) -> State:
        return self._model.init_hidden(batch)

    @torch.no_grad()
    def projected(self, output: Tensor) -> Tensor:
        return self._model.projected(output)

    @torch.no_grad()
    def step(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        logits, state = self._model(ids.view(1, -1), state)  # [1, B, V]
        return logits[0], state

    @torch.no_grad()
    def losses(self, windows: Iterable[tuple[Tensor, Tensor]], state: State) -> Iterator[Tensor]:
        for input, target in windows:
            logits, state = self._model(input, state)  # [T, B, V]
            log_probs = F.log_softmax(logits.view(-1, self.ntoken), dim=1)
            yield F.nll_loss(log_probs, target, reduction="none")
