"""Running averages of the weights, begun when the validation loss has stopped falling.

That is the averaging of NT-ASGD (Merity et al. 2018, arXiv 1708.02182), beside whatever optimizer
there is: training goes on from the raw weights, while the averages are validated and kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import (
    Tensor,
    _foreach_copy_,  # pyright: ignore[reportPrivateImportUsage]
    nn,
)
from torch.optim.swa_utils import get_swa_multi_avg_fn

from lmbench.distiller import CompressionScheduler
from lmbench.distiller.pruning.masks import masked_parameters

__all__ = ["Averages"]


class Averages:
    """The mean of each trained weight over the updates since averaging began.

    Only losses and weights under the same masks are put together: where pruning takes weights away,
    averaging ends, and may begin anew as it did at first.

    Args:
        nonmono: averaging begins after an epoch whose validation loss is above the best of all that
            lie more than so many epochs before it; None: never.
        scheduler: whose masks hold for the averages, too.
    """

    def __init__(
        self,
        model: nn.Module,
        nonmono: int | None,
        scheduler: CompressionScheduler | None = None,
    ) -> None:
        self._model, self._nonmono, self._scheduler = model, nonmono, scheduler
        self._parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._average = get_swa_multi_avg_fn()
        self._losses: list[float] = []
        self._means: dict[str, Tensor] = {}
        self._count = 0

    @property
    def active(self) -> bool:
        return self._count > 0

    def judge(self, loss: float, *, masks_changed: bool) -> bool:
        """Take an epoch's validation loss: does averaging begin now, with the weights as they are?

        It does for the loss of epoch t where that is above the least of those up to epoch
        t - n - 1, as in algorithm 1 of the paper.
        """
        if self._nonmono is None or self.active:
            return False
        if masks_changed:
            self._losses = []
        before = self._losses[: max(0, len(self._losses) - self._nonmono)]
        if math.isfinite(loss):
            self._losses.append(loss)
        if not before or not loss > min(before):
            return False
        self._means = dict(zip(self._parameters, map(torch.clone, self._weights()), strict=True))
        self._count = 1
        return True

    def update(self, *, masks_changed: bool) -> None:
        """Take the weights after an update into the averages, if they have begun.

        Args:
            masks_changed: whether weights were pruned away since the epoch began.
        """
        if not self.active:
            return
        if masks_changed:
            self.end()
            return
        self._average(list(self._means.values()), self._weights(), self._count)
        self._count += 1

    def _weights(self) -> list[Tensor]:
        """The weights that are trained: the dense ones, where the model holds masked ones beside
        them."""
        dense: dict[Tensor, Tensor] = {}
        if self._scheduler is not None:
            masked = masked_parameters(self._model, self._scheduler.zeros_mask_dict)
            dense = {parameter: masker.dense(parameter) for masker, parameter in masked}
        return [dense.get(p, p).detach() for p in self._parameters.values()]

    def end(self) -> None:
        """Forget the averages."""
        self._means, self._losses, self._count = {}, [], 0

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the model has the averages as its weights, where there are averages."""
        if not self.active:
            yield
            return
        raw = [p.detach().clone() for p in self._parameters.values()]
        self._apply()
        try:
            yield
        finally:
            self._copy(raw)

    def keep(self) -> None:
        """The model has the averages as its weights from now on, and averaging has ended."""
        if self.active:
            self._apply()
            self.end()

    def _apply(self) -> None:
        self._copy(list(self._means.values()))
        if self._scheduler is not None:
            for masker, parameter in masked_parameters(
                self._model, self._scheduler.zeros_mask_dict
            ):
                # A weight that is masked in the forward pass alone is as it trains here, too.
                if not masker.mask_on_forward_only or masker.unmasked_copy is not None:
                    masker.mask_tensor(parameter)

    @torch.no_grad()
    def _copy(self, weights: list[Tensor]) -> None:
        # In place: captured graphs and cuDNN know where the parameters lie.
        _foreach_copy_([p.detach() for p in self._parameters.values()], weights)

    def state(self) -> dict[str, Any]:
        """What an exact resume needs: tensors and JSON values."""
        return {"count": self._count, "losses": self._losses, "means": self._means}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take what `state` gave.

        Raises:
            ValueError: it is of another model, or of none.
        """
        count, losses, means = state["count"], state["losses"], state["means"]
        if type(count) is not int or count < 0 or not all(type(x) is float for x in losses):
            raise ValueError("its averages' counters are impossible")
        expected = {n: p.shape for n, p in self._parameters.items()} if count else {}
        if {n: mean.shape for n, mean in means.items()} != expected:
            raise ValueError("its averages are of another model")
        self._count, self._losses = count, list(losses)
        self._means = {n: means[n].to(p).clone() for n, p in self._parameters.items() if count}
