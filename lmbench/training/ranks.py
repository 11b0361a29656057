"""The processes that train one model together, a GPU each, and what they tell each other.

Torch's word for such a process, and for its number, is rank. Each has the whole model and a share
of the batch's columns. The gradients are averaged over the ranks before the norm is taken, so that
the update, the weights and the masks are the same on all of them. There is no
`DistributedDataParallel`: it reduces gradients as autograd hands them over, and the fused loss
leaves them in ``.grad`` past autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import (
    Tensor,
    _foreach_mul_,  # pyright: ignore[reportPrivateImportUsage]
    nn,
)

from lmbench.distiller.schedules.nested_state import join_state, split_state
from lmbench.training.evaluate import Evaluation

__all__ = ["ALONE", "Ranks"]

# A paused run waits in a decision, for as long as the user likes.
_DECISION_TIMEOUT = timedelta(days=365)
_WORD_BYTES = 32
# Far from a neighbour's seed, and odd: no two ranks have the same.
_BETWEEN_RANKS = 0x9E3779B1


class Ranks:
    """This process among those of its run; of a run that has one process, all of it does nothing.

    Every method but `share` is collective: all ranks call it, in the same order.

    Attributes:
        rank: this process's number; the one with 0 alone writes to the run's folder.
        count: how many there are.
        local: this process's number on its machine, which is its GPU's.
    """

    def __init__(self, rank: int = 0, count: int = 1, local: int = 0) -> None:
        self.rank, self.count, self.local = rank, count, local
        # Of the CPU also where the gradients go by NCCL: a decision must not wait for the GPU.
        self._decisions: dist.ProcessGroup | None = None
        self._seed = 0

    @property
    def first(self) -> bool:
        return self.rank == 0

    def join(self, backend: str, **store: Any) -> None:
        """Meet the other ranks.

        Args:
            backend: ``nccl`` or ``gloo``.
            store: arguments of `torch.distributed.init_process_group` that say where; without any,
                the environment says it, as torch's launcher sets it.
        """
        dist.init_process_group(backend, rank=self.rank, world_size=self.count, **store)
        group = dist.new_group(backend="gloo", timeout=_DECISION_TIMEOUT)
        assert isinstance(group, dist.ProcessGroup)
        self._decisions = group

    def leave(self) -> None:
        """Part from the others: whatever comes now, this process does alone."""
        if self.count > 1:
            dist.destroy_process_group()

    def share(self, columns: Tensor) -> Tensor:
        """This rank's part of columns of text [rows, batch]: [rows, about batch / count]."""
        return columns.tensor_split(self.count, dim=1)[self.rank].contiguous()

    @torch.no_grad()
    def begin(self, model: nn.Module, seed: int) -> None:
        """Give all ranks the first one's weights, and each a dropout of its own."""
        self._seed = seed
        if self.count == 1:
            return
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor, 0)
        if not self.first:
            # The generator of a CPU takes no more than the lowest 32 bits.
            torch.manual_seed((seed + self.rank * _BETWEEN_RANKS) % 2**32)

    def average(self, parameters: Iterable[Tensor], loss: Tensor) -> Tensor:
        """Average the gradients over the ranks, in place; gives the mean of their losses.

        The shares of a batch are equal, so the means are those over the whole batch.
        """
        if self.count == 1:
            return loss
        loss = loss.clone()
        tensors = [p.grad for p in parameters if p.grad is not None] + [loss]
        for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
            assert work is not None
            work.wait()
        _foreach_mul_(tensors, 1.0 / self.count)
        return loss

    def combine(self, share: Evaluation) -> Evaluation:
        """The evaluation of a split of which each rank has scored its share."""
        if self.count == 1:
            return share
        sums = torch.tensor([share.loss * share.tokens, share.tokens], dtype=torch.float64)
        dist.all_reduce(sums, group=self._decisions)
        loss, tokens = sums.tolist()
        return Evaluation(loss / tokens, round(tokens), share.seconds)

    def agree(self, decide: Callable[[], str | None]) -> str | None:
        """What the first rank decides, on all of them: a word, or None. The others wait for it."""
        if self.count == 1:
            return decide()
        word = (decide() or "") if self.first else ""
        sent = torch.tensor(list(word.encode().ljust(_WORD_BYTES)), dtype=torch.uint8)
        dist.broadcast(sent, 0, group=self._decisions)
        return bytes(sent.tolist()).decode().rstrip() or None

    def gather(self, state: dict[str, Any]) -> list[dict[str, Any]]:
        """On the first rank what each of the others has where it has `state`; elsewhere nothing.

        Args:
            state: tensors and JSON values, nested. The tensors may differ from rank to rank, but
                not in shape; the values are the first rank's.
        """
        if self.count == 1:
            return []
        tensors, values = split_state(state)
        gathered: list[dict[str, Tensor]] = [{} for _ in range(self.count)]
        for name in sorted(tensors):
            own = tensors[name].detach().cpu().contiguous()
            parts = [torch.empty_like(own) for _ in gathered] if self.first else None
            dist.gather(own, parts, 0, group=self._decisions)
            for rank, part in enumerate(parts or ()):
                gathered[rank][name] = part
        return [join_state(part, values) for part in gathered[1:]] if self.first else []

    @contextmanager
    def same_draws(self, step: int, device: torch.device) -> Iterator[None]:
        """What is drawn at random within is the same on all ranks, as a mask has to be."""
        if self.count == 1:
            yield
            return
        cards = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(cards):
            torch.manual_seed(self._seed ^ step)
            yield


ALONE = Ranks()
"""A process that trains by itself."""
