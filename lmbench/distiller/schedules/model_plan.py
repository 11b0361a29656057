"""The plan of a schedule for a model, judged by its weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lmbench.distiller.schedules.build import parameter_names
from lmbench.distiller.schedules.checking import Schedule
from lmbench.distiller.schedules.plan import SchedulePlan, predict_sparsity


class ModelWeights:
    """The magnitudes of a model's weights; each tensor is sorted and measured once, on demand."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = dict(model.named_parameters(remove_duplicate=False))
        self._sorted: dict[str, Tensor] = {}
        self._deviations: dict[str, float] = {}

    def fraction_below(self, name: str, threshold: float) -> float:
        """The share of a parameter's magnitudes that are at most ``threshold``."""
        if name not in self._sorted:
            magnitudes = self._parameters[name].detach().abs().reshape(-1)
            self._sorted[name] = magnitudes.sort().values
        ordered = self._sorted[name]
        value = torch.tensor(threshold, dtype=ordered.dtype, device=ordered.device)
        return int(torch.searchsorted(ordered, value, right=True)) / ordered.numel()

    def deviation(self, name: str) -> float:
        """The standard deviation of a parameter."""
        if name not in self._deviations:
            self._deviations[name] = float(self._parameters[name].detach().std())
        return self._deviations[name]


def plan_for_model(schedule: Schedule, model: nn.Module, epochs: int | None = None) -> SchedulePlan:
    """`predict_sparsity` with the shapes and ties of a model.

    What thresholds leave is estimated by the weights as they are now: right for a trained parent,
    meaningless for a model that is still to be trained.

    Args:
        schedule: a checked schedule.
        model: may be on the meta device where no threshold decides.
        epochs: of the training.
    """
    shapes = {name: tuple(param.shape) for name, param in model.named_parameters()}
    return predict_sparsity(schedule, shapes, parameter_names(model), epochs, ModelWeights(model))
