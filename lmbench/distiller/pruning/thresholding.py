"""Masks by thresholds, of single weights and of whole structures."""

from __future__ import annotations

from torch import Tensor

from lmbench.distiller.pruning.criteria import create_mask_threshold_criterion
from lmbench.distiller.pruning.structures import Structures


def threshold_mask(weights: Tensor, threshold: float) -> Tensor:
    """A mask in the dtype of ``weights`` that keeps magnitudes above ``threshold``."""
    return create_mask_threshold_criterion(weights, threshold)


def group_threshold_binary_map(
    param: Tensor, group_type: str, threshold: float, threshold_criteria: str
) -> Tensor:
    """1 for each row or column whose size is above the threshold, else 0.

    Args:
        param: a matrix.
        group_type: ``Rows``, ``Cols`` or ``Channels`` (the same as columns).
        threshold: what a structure must exceed to stay.
        threshold_criteria: see `Structures.sizes`.
    """
    sizes = Structures(group_type).sizes(param, threshold_criteria)
    return (sizes > threshold).to(param.dtype)


def expand_binary_map(param: Tensor, group_type: str, binary_map: Tensor) -> tuple[Tensor, Tensor]:
    """The mask in the shape and dtype of ``param``, and the map that it came from."""
    mask = Structures(group_type).expand(binary_map.bool(), param)
    return mask.to(param.dtype), binary_map


def group_threshold_mask(
    param: Tensor,
    group_type: str,
    threshold: float,
    threshold_criteria: str,
    binary_map: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A mask that drops the structures at or below the threshold, and its map of structures."""
    if binary_map is None:
        binary_map = group_threshold_binary_map(param, group_type, threshold, threshold_criteria)
    return expand_binary_map(param, group_type, binary_map)


class GroupThresholdMixin:
    """Gives a class `group_threshold_mask` as a method."""

    def group_threshold_mask(
        self, param: Tensor, group_type: str, threshold: float, threshold_criteria: str
    ) -> tuple[Tensor, Tensor]:
        """See `group_threshold_mask`."""
        return group_threshold_mask(param, group_type, threshold, threshold_criteria)
