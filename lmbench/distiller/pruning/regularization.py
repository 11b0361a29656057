"""Regularizers that push weights, or whole rows and columns, towards zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lmbench.distiller.errors import DistillerError
from lmbench.distiller.pruning.hidden_units import HiddenUnits
from lmbench.distiller.pruning.masks import MaskDict, parameters_by_name
from lmbench.distiller.pruning.structures import CRITERIA, EPSILON, check_group_type
from lmbench.distiller.pruning.thresholding import group_threshold_mask, threshold_mask
from lmbench.distiller.schedules.arguments import two_of_one_layer


class Regularizer:
    """Base of the regularizers.

    Args:
        name: of the regularizer.
        model: kept for the original's signature.
        reg_regims: what to do with each parameter, by name.
        threshold_criteria: None, or how to threshold after each update, with the strength as
            the threshold.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module | None,
        reg_regims: Mapping[str, Any],
        threshold_criteria: str | None = None,
    ) -> None:
        if not reg_regims:
            raise DistillerError(f"regularizer '{name}': reg_regims is empty; list parameters")
        self.name = name
        self.model = model
        self.reg_regims = dict(reg_regims)
        self.threshold_criteria = threshold_criteria

    def handled_name(self, names: Sequence[str]) -> str | None:
        """Which of a parameter's names is regularized, None when none is."""
        return next((name for name in names if name in self.reg_regims), None)

    def loss(
        self, param: Tensor, param_name: str, regularizer_loss: Tensor, zeros_mask_dict: MaskDict
    ) -> Tensor:
        """``regularizer_loss`` plus the term of this parameter."""
        raise NotImplementedError

    def threshold(self, param: Tensor, param_name: str, zeros_mask_dict: MaskDict) -> None:
        """Set a mask, good for one use, of what is at or below the threshold."""
        raise NotImplementedError


class L1Regularizer(Regularizer):
    """Adds ``strength * sum(|w|)``; any ``threshold_criteria`` zeroes magnitudes up to it.

    ``reg_regims`` maps a parameter name to its strength.
    """

    def loss(
        self, param: Tensor, param_name: str, regularizer_loss: Tensor, zeros_mask_dict: MaskDict
    ) -> Tensor:
        if param_name not in self.reg_regims:
            return regularizer_loss
        return regularizer_loss + param.abs().sum() * float(self.reg_regims[param_name])

    def threshold(self, param: Tensor, param_name: str, zeros_mask_dict: MaskDict) -> None:
        if self.threshold_criteria is None or param_name not in self.reg_regims:
            return
        masker = zeros_mask_dict[param_name]
        masker.mask = threshold_mask(param.detach(), float(self.reg_regims[param_name]))
        masker.is_regularization_mask = True


class GroupLassoRegularizer(Regularizer):
    """Adds ``strength`` times the sum of the Euclidean norms of rows, columns or both.

    Yuan and Lin, "Model selection and estimation in regression with grouped variables", 2006.
    ``reg_regims`` maps a parameter name to ``[strength, 'Rows' | 'Cols' | 'Rows+Cols']``, or any
    weight of a recurrent layer to ``[strength, 'HiddenUnits']``: a group is all that goes with a
    unit, see `HiddenUnits.group_norms`. These it makes small; a pruner of hidden units, which
    takes as many from each layer, removes them.
    """

    hidden_units = True

    def __init__(
        self,
        name: str,
        model: nn.Module | None,
        reg_regims: Mapping[str, Sequence[Any]],
        threshold_criteria: str | None = None,
    ) -> None:
        super().__init__(name, model, reg_regims, threshold_criteria)
        if threshold_criteria not in (None, *CRITERIA):
            raise DistillerError(
                f"regularizer '{name}': unknown threshold_criteria {threshold_criteria!r}; "
                f"choose {', '.join(CRITERIA)}, or leave it out"
            )
        self._regimes = {
            key: (float(pair[0]), tuple(str(pair[1]).split("+")))
            for key, pair in self.reg_regims.items()
        }
        self._units: dict[str, HiddenUnits] = {}
        layers: dict[str, str] = {}
        for key, (_, groups) in self._regimes.items():
            if groups == ("HiddenUnits",) and self.hidden_units:
                self._units[key] = units = self._bound(key)
                (layer,) = units.layers
                if (other := layers.setdefault(layer.name, key)) != key:
                    raise DistillerError(f"regularizer '{name}': {two_of_one_layer(other, key)}")
                continue
            for group_type in groups:
                check_group_type(group_type)
                if group_type == "Blocks":
                    raise DistillerError(
                        f"regularizer '{name}': group_type Blocks; choose Rows, Cols or Rows+Cols"
                    )

    def loss(
        self, param: Tensor, param_name: str, regularizer_loss: Tensor, zeros_mask_dict: MaskDict
    ) -> Tensor:
        if param_name not in self._regimes:
            return regularizer_loss
        strength, groups = self._regimes[param_name]
        if param_name in self._units:
            assert self.model is not None
            (layer,) = self._units[param_name].layers
            parameters = parameters_by_name(self.model, zeros_mask_dict)
            norms = [self._units[param_name].group_norms(layer, parameters)]
        else:
            norms = [_group_norms(param, group_type) for group_type in groups]
        for of_groups in norms:
            regularizer_loss = regularizer_loss + self._penalty(of_groups) * strength
        return regularizer_loss

    def _bound(self, weight: str) -> HiddenUnits:
        if self.threshold_criteria is not None:
            raise DistillerError(
                f"regularizer '{self.name}': threshold_criteria is of rows and columns; leave it "
                "out, and let a pruner of hidden units remove them"
            )
        if self.model is None:
            raise DistillerError(
                f"regularizer '{self.name}': HiddenUnits are found in a model; give it"
            )
        units = HiddenUnits([weight])
        units.bind(self.model)
        return units

    def _penalty(self, norms: Tensor) -> Tensor:
        return norms.sum()

    def threshold(self, param: Tensor, param_name: str, zeros_mask_dict: MaskDict) -> None:
        if self.threshold_criteria is None or param_name not in self._regimes:
            return
        strength, groups = self._regimes[param_name]
        masker = zeros_mask_dict[param_name]
        mask = masker.kept(param)
        for group_type in groups:
            part, _ = group_threshold_mask(param, group_type, strength, self.threshold_criteria)
            mask = mask & part.bool()
        masker.mask = mask
        masker.is_regularization_mask = True


class GroupVarianceRegularizer(GroupLassoRegularizer):
    """Adds ``strength`` times the sum of the variances of the groups' Euclidean norms.

    ``reg_regims`` is that of `GroupLassoRegularizer`: groups of one parameter are pushed towards
    one size.
    """

    hidden_units = False

    def __init__(
        self, name: str, model: nn.Module | None, reg_regims: Mapping[str, Sequence[Any]]
    ) -> None:
        super().__init__(name, model, reg_regims)

    def _penalty(self, norms: Tensor) -> Tensor:
        return norms.var(correction=0)


def _group_norms(param: Tensor, group_type: str) -> Tensor:
    """The Euclidean norm of each row or column, with a finite gradient where it is zero."""
    return (param.square().sum(1 if group_type == "Rows" else 0) + EPSILON).sqrt()
