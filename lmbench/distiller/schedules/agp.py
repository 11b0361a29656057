"""How far to prune at which epoch: the curves of the gradual pruners, without any tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from lmbench.distiller.errors import ScheduleError


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ScheduleError(f"{what}: {value!r} is not a number")
    return float(value)


def _whole(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ScheduleError(f"{what}: {value!r} is not a whole number")
    return value


def scheduled_epochs(starting_epoch: int, ending_epoch: int, frequency: int) -> range:
    """The epochs of a range policy; ``ending_epoch`` itself is not one of them."""
    return range(starting_epoch, ending_epoch, frequency)


def check_range(
    starting_epoch: int | None, ending_epoch: int | None, frequency: int | None
) -> tuple[int, int, int]:
    """The range of a policy when it holds an epoch and the frequency fits into it.

    Raises:
        ScheduleError: otherwise, with the value to change.
    """
    for name, value in (
        ("starting_epoch", starting_epoch),
        ("ending_epoch", ending_epoch),
        ("frequency", frequency),
    ):
        if value is None:
            raise ScheduleError(f"{name} is missing; give it, or list the epochs")
    assert starting_epoch is not None
    assert ending_epoch is not None
    assert frequency is not None
    if starting_epoch < 0:
        raise ScheduleError(f"starting_epoch {starting_epoch} is negative; epochs count from 0")
    if ending_epoch <= starting_epoch:
        raise ScheduleError(
            f"epochs {starting_epoch} to {ending_epoch} are "
            f"{'empty' if ending_epoch == starting_epoch else 'reversed'}; ending_epoch is "
            f"exclusive, so make it at least {starting_epoch + 1}"
        )
    if not 1 <= frequency <= ending_epoch - starting_epoch:
        raise ScheduleError(
            f"frequency {frequency} does not fit epochs {starting_epoch} to {ending_epoch} "
            f"(exclusive); choose 1 to {ending_epoch - starting_epoch}"
        )
    return starting_epoch, ending_epoch, frequency


class Curve(Protocol):
    """A pruner's target of an epoch, which may be any object with the original's ``step``."""

    def step(
        self, current_epoch: int, starting_epoch: int, ending_epoch: int, freq: int, /
    ) -> float:
        """The target of ``current_epoch``, in a range whose ``ending_epoch`` is exclusive."""
        ...


def epoch_target(curve: Curve, meta: Mapping[str, Any]) -> float:
    """The target by a scheduler's metadata; a list of epochs counts as a range of frequency 1."""
    current, epochs = meta["current_epoch"], meta["scheduled_epochs"]
    if meta.get("frequency") is None:
        return curve.step(current, epochs[0], epochs[-1] + 1, 1)
    return curve.step(current, meta["starting_epoch"], meta["ending_epoch"], meta["frequency"])


class AgpPruningRate:
    """The cubic curve of automated gradual pruning, from ``initial`` to ``final`` sparsity.

    Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model
    compression", 2017 (arXiv:1710.01878), equation 1.

    Raises:
        ScheduleError: when the sparsity would fall, or is not a number.
    """

    def __init__(self, initial_sparsity: float, final_sparsity: float) -> None:
        self.initial_sparsity = _number(initial_sparsity, "initial_sparsity")
        self.final_sparsity = _number(final_sparsity, "final_sparsity")
        if self.initial_sparsity > self.final_sparsity:
            raise ScheduleError(
                f"sparsity falls from initial_sparsity {initial_sparsity} to final_sparsity "
                f"{final_sparsity}; make final_sparsity the larger one"
            )

    def step(self, current_epoch: int, starting_epoch: int, ending_epoch: int, freq: int) -> float:
        """The target sparsity of ``current_epoch``.

        The last epoch that the policy runs (``ending_epoch`` is exclusive) gets exactly
        ``final_sparsity``. A range of a single epoch is one-shot pruning.

        Raises:
            ScheduleError: when the range is empty or reversed, or ``freq`` leaves only its first
                epoch, so that the target would never be reached.
        """
        freq = _whole(freq, "frequency")
        length = ending_epoch - starting_epoch
        if length < 1 or freq < 1:
            raise ScheduleError(
                f"epochs {starting_epoch} to {ending_epoch} (exclusive) every {freq} hold no "
                "epoch; ending_epoch must be larger than starting_epoch and frequency at least 1"
            )
        span = ((length - 1) // freq) * freq
        if span == 0 and length > 1:
            raise ScheduleError(
                f"frequency {freq} leaves only epoch {starting_epoch} of {starting_epoch} to "
                f"{ending_epoch} (exclusive), so final_sparsity {self.final_sparsity} is never "
                f"reached; use a frequency up to {length - 1}, or ending_epoch "
                f"{starting_epoch + 1} for one-shot pruning"
            )
        if span == 0:
            return self.final_sparsity
        done = (current_epoch - starting_epoch) / span
        fall = self.initial_sparsity - self.final_sparsity
        return self.final_sparsity + fall * (1.0 - done) ** 3


class BaiduPruningRate:
    """The two-slope threshold of Narang's RNN pruner.

    Narang, Diamos, Sengupta and Elsen, "Exploring Sparsity in Recurrent Neural Networks", 2017
    (arXiv:1704.05119). ``q`` is the 90th percentile of the magnitude of the trained weight.
    """

    def __init__(self, q: float, ramp_epoch_offset: int, ramp_slope_mult: float) -> None:
        self.q = _number(q, "q")
        self.ramp_epoch_offset = _whole(ramp_epoch_offset, "ramp_epoch_offset")
        self.ramp_slope_mult = _number(ramp_slope_mult, "ramp_slope_mult")

    def slopes(self, starting_epoch: int, ending_epoch: int, freq: int) -> tuple[float, float]:
        """The slope before and after the ramp epoch, in threshold a pruning step."""
        ramp_epoch = starting_epoch + self.ramp_epoch_offset
        weight = 2 * (ramp_epoch - starting_epoch) + 3 * (ending_epoch - ramp_epoch)
        if weight <= 0:
            raise ScheduleError(
                f"ramp_epoch_offset {self.ramp_epoch_offset} puts the ramp too far past the "
                f"policy's epochs {starting_epoch} to {ending_epoch}; make it smaller"
            )
        start_slope = (2 * self.q * freq) / weight
        return start_slope, start_slope * self.ramp_slope_mult

    def step(self, current_epoch: int, starting_epoch: int, ending_epoch: int, freq: int) -> float:
        """The threshold of ``current_epoch``: magnitudes up to it are pruned.

        As in the original it jumps by a step at the ramp epoch and ends above ``q``.
        """
        start_slope, ramp_slope = self.slopes(starting_epoch, ending_epoch, freq)
        ramp_epoch = starting_epoch + self.ramp_epoch_offset
        if current_epoch < ramp_epoch:
            return start_slope * (current_epoch - starting_epoch + 1) / freq
        return (
            start_slope * (ramp_epoch - starting_epoch + 1)
            + ramp_slope * (current_epoch - ramp_epoch + 1)
        ) / freq


def structures_to_prune(
    count: int, fraction: float, group_size: int = 1, round_up: bool = False
) -> int:
    """How many of ``count`` structures (rows, columns, blocks) a fraction takes.

    Rounded to whole groups of ``group_size``; all of them only when ``fraction`` is 1, since a
    layer without any structure left computes nothing.
    """
    if fraction <= 0:
        return 0
    whole = _round(fraction * count, round_up)
    taken = min(_round(whole / group_size, round_up) * group_size, count)
    return (count - 1) // group_size * group_size if taken >= count and fraction < 1 else taken


def _round(value: float, up: bool) -> int:
    # A share such as 0.1 comes off the AGP curve as 0.09999999999999998; two of twenty rows are
    # meant all the same.
    return -int(-(value - 1e-9) // 1) if up else int((value + 1e-9) // 1)
