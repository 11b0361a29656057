"""The learning rate of each step: warmed up, annealed on a plateau, or along one of torch's curves.

A curve's rate depends on nothing but the step, and on the rate before it, which the optimizer's
state has: so a resumed run needs nothing else to go on with equal bits.
"""

from __future__ import annotations

import warnings

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, OneCycleLR

from lmbench.config import TrainConfig
from lmbench.distiller import CompressionScheduler
from lmbench.distiller.schedules.policies import LRPolicy

__all__ = ["LearningRates"]

# The share of a one-cycle training that the rate rises in, as torch has it.
_RISE = 0.3


class LearningRates:
    """Sets the learning rate of an optimizer, which stands at ``--lr`` when this is made.

    Args:
        steps_per_epoch: by which a curve is stretched over the training. Where there turn out to be
            more, the last ones have the rate at its end.
        scheduler: the compression schedule; where it sets the rate, nothing anneals on a plateau.

    Raises:
        LmbenchError: more steps of warm-up than the training has.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        config: TrainConfig,
        steps_per_epoch: int,
        scheduler: CompressionScheduler | None = None,
    ) -> None:
        self._optimizer, self._config = optimizer, config
        self._plateau = config.rate_schedule == "plateau" and not (
            scheduler is not None and _sets_learning_rate(scheduler)
        )
        config.check_warm_up(steps_per_epoch)
        total = config.epochs * steps_per_epoch
        rise = config.warmup_steps or config.warmup * steps_per_epoch
        cycles = config.rate_schedule == "onecycle"
        # A warm-up of one step would begin at the full rate.
        rising = 0 if cycles else round(rise)
        self._warm_steps = rising if rising > 1 else 0
        self._curve_steps = max(2, total - self._warm_steps)
        self._curve = self._make_curve(rise)
        # Made after the curve, which begins at the full rate: this one sets that of step 0.
        self._warm_up = (
            LinearLR(optimizer, 1 / self._warm_steps, 1.0, self._warm_steps - 1)
            if self._warm_steps
            else None
        )

    def _make_curve(self, rise: float) -> LRScheduler | None:
        optimizer, steps = self._optimizer, self._curve_steps
        match self._config.rate_schedule:
            case "cosine":
                return CosineAnnealingLR(optimizer, steps)
            case "linear":
                return LinearLR(optimizer, 1.0, 0.0, steps)
            case "onecycle":
                # Torch divides by the length of the rise but for one step.
                share = min(1.0, max(rise or _RISE * steps, 2.0) / steps)
                lr = self._config.lr
                return OneCycleLR(optimizer, lr, steps, pct_start=share, cycle_momentum=False)
        return None

    def begin_step(self, step: int) -> None:
        """Set the rate of a step; they are counted from 0 over all epochs, and come in order."""
        after = step - self._warm_steps
        if after < 0:
            _move(self._warm_up, step)
        elif after == 0 and self._warm_up is not None:
            for group in self._optimizer.param_groups:
                group["lr"] = group["initial_lr"]
        elif after < self._curve_steps:
            _move(self._curve, after)

    def end_epoch(self, step: int, *, stuck: bool) -> None:
        """Multiply the rate where the settings say so, unless it is still warming up.

        Args:
            step: how many are done.
            stuck: whether the validation loss no longer falls.
        """
        # The step after the warm-up begins at the full rate.
        if step <= self._warm_steps:
            return
        if self._config.rate_schedule == "decay":
            factor = self._config.decay
        else:
            factor = self._config.anneal_factor if self._plateau and stuck else None
        if factor is not None:
            for group in self._optimizer.param_groups:
                group["lr"] *= factor


def _move(curve: LRScheduler | None, step: int) -> None:
    """Set the rate of a curve's step; that of the step before it is set."""
    # That of step 0 was set when the curve was made.
    if curve is None or step == 0:
        return
    # In a resumed run it was made anew.
    curve.last_epoch = step - 1
    # Torch warns where the optimizer has not stepped itself, as plain SGD's fast way does not.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        curve.step()


def _sets_learning_rate(scheduler: CompressionScheduler) -> bool:
    return any(isinstance(policy, LRPolicy) for policy in scheduler.sched_metadata)
