"""Bases of the pruners: a pruner decides which weights of each parameter stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lmbench.distiller.errors import DistillerError
from lmbench.distiller.pruning.masks import MaskDict

Meta = Mapping[str, Any]
Maskers = MaskDict


class ParameterPruner:
    """Base of the pruners.

    A policy calls `prepare` once before a pruning step and then `set_param_mask` for each
    parameter of the model. ``meta`` is the scheduler's record of the policy: ``model``,
    ``current_epoch``, ``starting_epoch``, ``ending_epoch``, ``frequency``, ``scheduled_epochs``.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def handles(self, param_name: str) -> bool:
        """Whether this pruner ever masks the parameter of that name."""
        raise NotImplementedError

    def handled_name(self, names: Sequence[str]) -> str | None:
        """By which of a parameter's names it is handled, None where it is not."""
        return next((name for name in names if self.handles(name)), None)

    def bind(self, model: nn.Module) -> None:
        """Find what is needed in the model; called once, when a scheduler gets the policy."""

    def prepare(self, model: nn.Module, zeros_mask_dict: Maskers, meta: Meta) -> None:
        """Compute what needs the whole model, before the masks of single parameters."""

    def set_param_mask(
        self, param: Tensor, param_name: str, zeros_mask_dict: Maskers, meta: Meta
    ) -> None:
        """Set ``zeros_mask_dict[param_name].mask`` for the step that ``meta`` describes."""
        raise NotImplementedError

    def target_sparsity(self, param_name: str, meta: Meta) -> float | None:
        """The sparsity this step aims at; None when a threshold decides instead."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume needs, as JSON values; empty for a pruner without memory."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`."""


class ListedWeightsPruner(ParameterPruner):
    """A pruner of the parameters in ``weights``."""

    def __init__(self, name: str, weights: Sequence[str]) -> None:
        super().__init__(name)
        if isinstance(weights, str):
            weights = [weights]
        if not weights:
            raise DistillerError(f"pruner '{name}': weights is empty; list parameter names")
        self.params_names = list(dict.fromkeys(weights))

    def handles(self, param_name: str) -> bool:
        return param_name in self.params_names


class PerParameterPruner(ParameterPruner):
    """A pruner with one number for each parameter, where ``'*'`` stands for all others."""

    def __init__(self, name: str, values: Mapping[str, float], what: str) -> None:
        super().__init__(name)
        if not values:
            raise DistillerError(
                f"pruner '{name}': {what} is empty; give a number for each parameter, or '*'"
            )
        self._values = dict(values)

    def value(self, param_name: str) -> float | None:
        """The number for a parameter, None when it is not handled."""
        return self._values.get(param_name, self._values.get("*"))

    def leaves_alone(self, param: Tensor, param_name: str) -> bool:
        """Whether ``'*'`` stands for a bias of zeros only: no threshold tells which to keep, and
        a mask of all of them would keep it from ever training."""
        return param_name not in self._values and param.dim() == 1 and not bool(param.any())

    def handles(self, param_name: str) -> bool:
        return self.value(param_name) is not None

    def handled_name(self, names: Sequence[str]) -> str | None:
        # A number of its own, under whichever name, before that of all others.
        listed = next((name for name in names if name in self._values), None)
        return listed or super().handled_name(names)


class AdaptedPruner(ParameterPruner):
    """A pruner written for the original: an object with ``set_param_mask`` alone.

    It is asked for the mask of every parameter, by the first of its names.
    """

    def __init__(self, pruner: Any) -> None:
        super().__init__(str(getattr(pruner, "name", type(pruner).__name__)))
        self.pruner = pruner

    def handles(self, param_name: str) -> bool:
        return True

    def set_param_mask(
        self, param: Tensor, param_name: str, zeros_mask_dict: Maskers, meta: Meta
    ) -> None:
        self.pruner.set_param_mask(param, param_name, zeros_mask_dict, meta)
