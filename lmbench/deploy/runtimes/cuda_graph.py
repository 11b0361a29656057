"""A step captured once as a CUDA graph and replayed: one launch in place of dozens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lmbench.deploy.load_model import LoadedModel
from lmbench.deploy.runtimes.interface import Accuracy, State
from lmbench.deploy.runtimes.torch_cells import TorchRuntime

__all__ = ["CudaRuntime"]

# Runs before the capture, as torch asks: they choose kernels and fill the allocator.
_WARM_UP = 3


@dataclass(frozen=True)
class _Captured:
    """A graph with the buffers that it reads and writes; they stay where they are."""

    graph: torch.cuda.CUDAGraph
    ids: Tensor
    state: tuple[tuple[Tensor, ...], ...]
    logits: Tensor
    after: tuple[tuple[Tensor, ...], ...]


class CudaRuntime(TorchRuntime):
    """`TorchRuntime`'s step on the GPU; a small model's step is all launch cost otherwise.

    A graph is captured for each batch size that is stepped.
    """

    name: ClassVar[str] = "cuda"
    about: ClassVar[str] = "fp32 on the GPU, a step captured"
    accuracy: ClassVar[Accuracy] = "exact"

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__(loaded)
        self._captured: dict[int, _Captured] = {}

    @classmethod
    def refusal(cls, loaded: LoadedModel) -> str | None:
        if not torch.cuda.is_available():
            return "no CUDA device is here"
        if loaded.device.type != "cuda":
            return super().refusal(loaded) or "the model is not on the GPU (--device cuda)"
        return super().refusal(loaded)

    @torch.inference_mode()
    def step(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        batch = len(ids)
        captured = self._captured.get(batch)
        if captured is None:
            captured = self._captured[batch] = self._capture(batch)
        captured.ids.copy_(ids)
        for buffers, given in zip(captured.state, state, strict=True):
            for buffer, part in zip(buffers, given, strict=True):
                buffer.copy_(part)
        captured.graph.replay()
        # The next replay writes over the graph's own state, and the caller may keep this one.
        after = tuple(tuple(part.clone() for part in parts) for parts in captured.after)
        return captured.logits, after

    def _capture(self, batch: int) -> _Captured:
        with torch.cuda.device(self.device):
            ids = torch.zeros(batch, dtype=torch.int64, device=self.device)
            state = tuple(
                tuple(part.clone() for part in parts) for parts in self.initial_state(batch)
            )
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP):
                    super().step(ids, state)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # torch's own stream for captures is made once, on the card that is current then.
            with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
                logits, after = super().step(ids, state)
        return _Captured(graph, ids, state, logits, after)
