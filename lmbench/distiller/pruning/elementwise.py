"""Pruners of single weights: gradual, by level, by threshold, by sensitivity, by splicing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lmbench.distiller.errors import DistillerError
from lmbench.distiller.pruning.criteria import keep_largest, level_count, level_mask, threshold_keep
from lmbench.distiller.pruning.masks import masked_parameters, parameters_by_name
from lmbench.distiller.pruning.pruner import ListedWeightsPruner, Maskers, Meta, PerParameterPruner
from lmbench.distiller.schedules.agp import AgpPruningRate, BaiduPruningRate, Curve, epoch_target
from lmbench.distiller.schedules.arguments import bias_beside


class _RowScores:
    """Magnitudes, in layers with biases times exp(`exponent` x bias) of their row.

    The bias of a word in a decoder follows how often it occurs, and so what an error in its row
    costs.
    """

    def __init__(self, exponent: float) -> None:
        self.exponent = exponent
        self._biases: dict[str, Tensor] = {}

    def prepare(self, model: nn.Module, maskers: Maskers) -> None:
        """Find the biases, which may have moved since the last step."""
        self._biases.clear()
        if self.exponent == 0:
            return
        params = parameters_by_name(model, maskers)
        for name in params:
            if (bias := params.get(bias_beside(name))) is not None:
                self._biases |= dict.fromkeys(maskers[name].names, bias.detach())

    def of(self, weight: Tensor, name: str) -> Tensor:
        """The scores of a weight (R, …), of which the smallest are pruned."""
        bias = self._biases.get(name)
        if bias is None:
            return weight
        # Ranks are the same for every factor, and this one keeps the largest at 1.
        factors = torch.exp(self.exponent * (bias - bias.amax()))
        return weight.detach() * factors.reshape(-1, *[1] * (weight.dim() - 1))


class AutomatedGradualPruner(ListedWeightsPruner):
    """Prune the smallest magnitudes, by a sparsity that rises on the AGP curve.

    Zhu and Gupta, 2017 (arXiv:1710.01878); see `AgpPruningRate`. The count of pruned weights is
    exact at every step, ``initial_sparsity`` may be 0, and a policy of one epoch prunes at once.

    ``rate_scheduler_factory`` makes another curve of the two sparsities. With ``bias_exponent``
    magnitudes count exp(bias_exponent x bias) times as much in the rows of a layer with biases.
    """

    def __init__(
        self,
        name: str,
        initial_sparsity: float,
        final_sparsity: float,
        weights: Sequence[str],
        rate_scheduler_factory: Callable[[float, float], Curve] = AgpPruningRate,
        *,
        bias_exponent: float = 0.0,
    ) -> None:
        super().__init__(name, weights)
        self.agp_pr = rate_scheduler_factory(initial_sparsity, final_sparsity)
        self._scores = _RowScores(bias_exponent)

    def prepare(self, model: nn.Module, zeros_mask_dict: Maskers, meta: Meta) -> None:
        self._scores.prepare(model, zeros_mask_dict)

    def target_sparsity(self, param_name: str, meta: Meta) -> float:
        return epoch_target(self.agp_pr, meta)

    def set_param_mask(
        self, param: Tensor, param_name: str, zeros_mask_dict: Maskers, meta: Meta
    ) -> None:
        if self.handles(param_name):
            masker = zeros_mask_dict[param_name]
            scores = self._scores.of(param, param_name)
            masker.mask = level_mask(scores, self.target_sparsity(param_name, meta), masker.mask)


class BaiduRNNPruner(ListedWeightsPruner):
    """Prune magnitudes up to a threshold that rises in two slopes towards ``q`` and past it.

    Narang and others, 2017 (arXiv:1704.05119); see `BaiduPruningRate`.
    """

    def __init__(
        self,
        name: str,
        q: float,
        ramp_epoch_offset: int,
        ramp_slope_mult: float,
        weights: Sequence[str],
    ) -> None:
        super().__init__(name, weights)
        self.rate = BaiduPruningRate(q, ramp_epoch_offset, ramp_slope_mult)

    def set_param_mask(
        self, param: Tensor, param_name: str, zeros_mask_dict: Maskers, meta: Meta
    ) -> None:
        if self.handles(param_name):
            zeros_mask_dict[param_name].mask = threshold_keep(param, epoch_target(self.rate, meta))


class SparsityLevelParameterPruner(PerParameterPruner):
    """Prune each parameter to its own level at once; ``'*'`` is the level of all others.

    ``bias_exponent`` is that of an `AutomatedGradualPruner`.
    """

    def __init__(
        self, name: str, levels: Mapping[str, float], *, bias_exponent: float = 0.0
    ) -> None:
        super().__init__(name, levels, "levels")
        self._scores = _RowScores(bias_exponent)

    def prepare(self, model: nn.Module, zeros_mask_dict: Maskers, meta: Meta) -> None:
        self._scores.prepare(model, zeros_mask_dict)

    @property
    def levels(self) -> Mapping[str, float]:
        """Level of each parameter name; a policy's ``levels`` argument replaces it."""
        return self._values

    @levels.setter
    def levels(self, levels: Mapping[str, float]) -> None:
        self._values = dict(levels)

    def target_sparsity(self, param_name: str, meta: Meta) -> float | None:
        return self.value(param_name)

    def set_param_mask(
        self, param: Tensor, param_name: str, zeros_mask_dict: Maskers, meta: Meta
    ) -> None:
        level = self.value(param_name)
        if level:
            masker = zeros_mask_dict[param_name]
            masker.mask = level_mask(self._scores.of(param, param_name), level, masker.mask)


class MagnitudeParameterPruner(PerParameterPruner):
    """Prune magnitudes up to a threshold for each parameter; the key ``'*'`` is required."""

    def __init__(self, name: str, thresholds: Mapping[str, float]) -> None:
        if not thresholds or "*" not in thresholds:
            raise DistillerError(
                f"pruner '{name}': thresholds lacks '*'; add '*': 0.0 to leave the others alone"
            )
        super().__init__(name, thresholds, "thresholds")

    @property
    def thresholds(self) -> Mapping[str, float]:
        """Threshold of each parameter name."""
        return self._values

    def set_param_mask(
        self, param: Tensor, param_name: str, zeros_mask_dict: Maskers, meta: Meta
    ) -> None:
        threshold = self.value(param_name)
        if threshold is not None and not self.leaves_alone(param, param_name):
            zeros_mask_dict[param_name].mask = threshold_keep(param, threshold)


def _deviation(tensor: Tensor) -> float:
    """The standard deviation of all elements, 0 of one alone."""
    return float(tensor.std()) if tensor.numel() > 1 else 0.0


class SensitivityPruner(PerParameterPruner):
    """Prune magnitudes up to a multiple of the weight's standard deviation.

    The deviation is that of the first step and kept for good, so that pruning, which widens
    the deviation of what stays, does not feed itself. Han and others, 2015 (arXiv:1506.02626).
    """

    def __init__(self, name: str, sensitivities: Mapping[str, float]) -> None:
        super().__init__(name, sensitivities, "sensitivities")
        self._deviations: dict[str, float] = {}

    @property
    def sensitivities(self) -> Mapping[str, float]:
        """Sensitivity of each parameter name."""
        return self._values

    def set_param_mask(
        self, param: Tensor, param_name: str, zeros_mask_dict: Maskers, meta: Meta
    ) -> None:
        sensitivity = self.value(param_name)
        if sensitivity is None or self.leaves_alone(param, param_name):
            return
        if param_name not in self._deviations:
            self._deviations[param_name] = _deviation(param.detach())
        threshold = self._deviations[param_name] * sensitivity
        zeros_mask_dict[param_name].mask = threshold_keep(param, threshold)

    def state_dict(self) -> dict[str, Any]:
        return {"deviations": dict(self._deviations)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._deviations = dict(state["deviations"])


class SplicingPruner(PerParameterPruner):
    """Prune below a low threshold, bring back above a high one, leave alone what lies between.

    Guo, Yao and Chen, "Dynamic Network Surgery for Efficient DNNs", 2016 (arXiv:1608.04493),
    equation 3. The mean and deviation of the magnitudes are those of the first step. Weights can
    only come back when the policy sets ``mask_on_forward_only`` or ``use_double_copies``.
    """

    def __init__(
        self,
        name: str,
        sensitivities: Mapping[str, float],
        low_thresh_mult: float,
        hi_thresh_mult: float,
        sensitivity_multiplier: float = 0,
    ) -> None:
        super().__init__(name, sensitivities, "sensitivities")
        if low_thresh_mult > hi_thresh_mult:
            raise DistillerError(
                f"pruner '{name}': low_thresh_mult {low_thresh_mult} is above hi_thresh_mult "
                f"{hi_thresh_mult}; swap them"
            )
        self.low_thresh_mult = low_thresh_mult
        self.hi_thresh_mult = hi_thresh_mult
        self.sensitivity_multiplier = sensitivity_multiplier
        self._statistics: dict[str, tuple[float, float]] = {}

    def thresholds(self, param: Tensor, param_name: str, meta: Meta) -> tuple[float, float]:
        """The low and the high threshold of this step."""
        sensitivity = self.value(param_name) or 0.0
        if self.sensitivity_multiplier > 0:
            elapsed = meta["current_epoch"] - meta["starting_epoch"]
            sensitivity *= elapsed * self.sensitivity_multiplier + 1
        if param_name not in self._statistics:
            magnitudes = param.detach().abs()
            self._statistics[param_name] = (float(magnitudes.mean()), _deviation(magnitudes))
        mean, deviation = self._statistics[param_name]
        threshold = mean + deviation * sensitivity
        return threshold * self.low_thresh_mult, threshold * self.hi_thresh_mult

    def set_param_mask(
        self, param: Tensor, param_name: str, zeros_mask_dict: Maskers, meta: Meta
    ) -> None:
        if not self.handles(param_name):
            return
        low, high = self.thresholds(param, param_name, meta)
        masker = zeros_mask_dict[param_name]
        magnitudes = param.detach().abs()
        masker.mask = (masker.kept(param) & ~(magnitudes < low)) | (magnitudes >= high)

    def state_dict(self) -> dict[str, Any]:
        return {"statistics": {name: list(pair) for name, pair in self._statistics.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._statistics = {name: (pair[0], pair[1]) for name, pair in state["statistics"].items()}


class GlobalMagnitudePruner(ListedWeightsPruner):
    """Prune the smallest magnitudes of several tensors ranked together, on the AGP curve.

    ``final_sparsity`` is the share of all listed weights; the tensors are pruned unequally.
    With ``normalize`` magnitudes are first divided by their tensor's root mean square, so that
    a tensor is not pruned for its scale alone.
    """

    def __init__(
        self,
        name: str,
        initial_sparsity: float,
        final_sparsity: float,
        weights: Sequence[str],
        normalize: bool = False,
    ) -> None:
        super().__init__(name, weights)
        self.agp_pr = AgpPruningRate(initial_sparsity, final_sparsity)
        self.normalize = normalize
        self._keep: dict[str, Tensor] = {}

    def target_sparsity(self, param_name: str, meta: Meta) -> float:
        """The target of all listed weights together."""
        return epoch_target(self.agp_pr, meta)

    def prepare(self, model: nn.Module, zeros_mask_dict: Maskers, meta: Meta) -> None:
        chosen: dict[str, Tensor] = {}
        magnitudes, gone = [], []
        for masker, param in masked_parameters(model, zeros_mask_dict):
            if self.handled_name(masker.names) is None:
                continue
            weight = chosen[masker.param_name] = masker.dense(param)
            magnitude = weight.detach().abs().reshape(-1)
            if self.normalize:
                magnitude = magnitude / magnitude.square().mean().sqrt().clamp_min(1e-12)
            magnitudes.append(magnitude)
            gone.append(~masker.kept(weight).reshape(-1))
        self._keep = {}
        if not chosen:
            return
        everything = torch.cat(magnitudes)
        prune = level_count(everything.numel(), epoch_target(self.agp_pr, meta))
        keep = keep_largest(everything, prune, torch.cat(gone))
        parts = torch.split(keep, [weight.numel() for weight in chosen.values()])
        for (name, weight), part in zip(chosen.items(), parts, strict=True):
            self._keep[name] = part.reshape(weight.shape).clone()

    def set_param_mask(
        self, param: Tensor, param_name: str, zeros_mask_dict: Maskers, meta: Meta
    ) -> None:
        if self.handles(param_name):
            masker = zeros_mask_dict[param_name]
            masker.mask = self._keep.pop(masker.param_name)
