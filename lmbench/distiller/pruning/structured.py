"""Pruners of whole rows, columns, blocks and hidden units, and of N weights in every M."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from lmbench.distiller.errors import DistillerError
from lmbench.distiller.pruning.criteria import keep_largest
from lmbench.distiller.pruning.hidden_units import HiddenUnits
from lmbench.distiller.pruning.masks import parameters_by_name
from lmbench.distiller.pruning.norms import NamedFunction, e_greedy_normal_noise, l1_norm
from lmbench.distiller.pruning.pruner import ListedWeightsPruner, Maskers, Meta, ParameterPruner
from lmbench.distiller.pruning.structures import (
    CRITERIA,
    Norm,
    Structures,
    block_of,
    check_group_type,
)
from lmbench.distiller.schedules.agp import AgpPruningRate, epoch_target, structures_to_prune

Rounding = Callable[[float], int] | str


class StructureParameterPruner(ParameterPruner):
    """Prune rows or columns whose size is at most a threshold; see `Structures.sizes`.

    Args:
        name: of the pruner.
        model: the model, kept for the original's signature.
        reg_regims: parameter name to ``[threshold, 'Rows' | 'Cols']``.
        threshold_criteria: see `Structures.sizes`.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module | None,
        reg_regims: Mapping[str, Sequence[Any]],
        threshold_criteria: str,
    ) -> None:
        super().__init__(name)
        if threshold_criteria not in CRITERIA:
            raise DistillerError(
                f"pruner '{name}': unknown threshold_criteria {threshold_criteria!r}; "
                f"choose {', '.join(CRITERIA)}"
            )
        self.model = model
        self.reg_regims = {key: (float(pair[0]), str(pair[1])) for key, pair in reg_regims.items()}
        self.threshold_criteria = threshold_criteria
        for _, group_type in self.reg_regims.values():
            check_group_type(group_type)

    def handles(self, param_name: str) -> bool:
        return param_name in self.reg_regims

    def set_param_mask(
        self, param: Tensor, param_name: str, zeros_mask_dict: Maskers, meta: Meta
    ) -> None:
        if not self.handles(param_name):
            return
        threshold, group_type = self.reg_regims[param_name]
        structures = Structures(group_type)
        keep = structures.sizes(param, self.threshold_criteria, param_name) > threshold
        zeros_mask_dict[param_name].mask = structures.expand(keep, param)


class RankedStructureParameterPruner(ListedWeightsPruner):
    """Rank the structures of each weight and prune the lowest share of them.

    Args:
        name: of the pruner.
        group_type: ``Rows``, ``Cols``, ``Channels`` (columns), ``Blocks`` or ``HiddenUnits``.
        desired_sparsity: the share of structures to prune, rounded to whole ones.
        weights: parameter names. For hidden units any weight of a recurrent layer names it.
        group_dependency: ``Leader`` gives all weights the mask of the first.
        kwargs: ``{block_shape: [rows, columns]}`` for blocks; ``{consumers: [names]}`` for hidden
            units whose reader is not found by itself, ``{rank_by: group}`` to rank them by all that
            a group lasso makes small and not by their own rows alone.
        noise: the probability that a step ranks by norms times random numbers.
        group_size: prune a multiple of this many structures.
        rounding_fn: ``math.floor`` or ``math.ceil``, or their names.
        seed: of the noise.
    """

    norm: Norm = "L1"

    def __init__(
        self,
        name: str,
        group_type: str,
        desired_sparsity: float,
        weights: Sequence[str],
        group_dependency: str | None = None,
        kwargs: dict[str, Any] | None = None,
        noise: float = 0.0,
        group_size: int = 1,
        rounding_fn: Rounding = math.floor,
        seed: int = 0,
    ) -> None:
        super().__init__(name, weights)
        try:
            check_group_type(group_type, extra=("HiddenUnits",))
            self.units: HiddenUnits | None = None
            self.structures: Structures | None = None
            if group_type == "HiddenUnits":
                given = kwargs or {}
                self.units = HiddenUnits(
                    self.params_names, given.get("consumers"), given.get("rank_by") or "rows"
                )
            else:
                self.structures = Structures(group_type, block_of(kwargs))
        except DistillerError as error:
            raise DistillerError(f"pruner '{name}': {error}") from error
        if group_dependency not in (None, "Leader"):
            raise DistillerError(
                f"pruner '{name}': unknown group_dependency {group_dependency!r}; "
                "choose Leader or leave it out"
            )
        self.group_type = group_type
        self.desired_sparsity = desired_sparsity
        self.group_dependency = group_dependency
        self.group_size = group_size
        self.round_up = _rounds_up(name, rounding_fn)
        self.noise = noise
        self.seed = seed
        self._unit_masks: dict[str, Tensor] = {}
        self._leader_keep: Tensor | None = None

    def bind(self, model: nn.Module) -> None:
        if self.units is not None:
            self.units.bind(model)

    def handles(self, param_name: str) -> bool:
        return super().handles(param_name) or (
            self.units is not None and param_name in self.units.affected
        )

    def fraction_to_prune(self, param_name: str, meta: Meta | None = None) -> float:
        """The share of a parameter's structures that this step prunes."""
        return self.desired_sparsity

    def target_sparsity(self, param_name: str, meta: Meta) -> float:
        """The share of structures, not of weights."""
        return self.fraction_to_prune(self._ranked_name(param_name), meta)

    def _ranked_name(self, param_name: str) -> str:
        """The layer or the parameter whose ranking says what a parameter loses."""
        if self.units is not None:
            return self.units.layer_of(param_name) or param_name
        return param_name if self.group_dependency is None else self.params_names[0]

    def scores(self, norms: Tensor, param_name: str, meta: Meta) -> Tensor:
        """The rank of each structure, the lowest go first."""
        if self.noise <= 0:
            return norms
        generator = _generator(f"{self.seed} {param_name} {meta['current_epoch']}")
        if float(torch.rand((), generator=generator)) > self.noise:
            return norms
        return (norms * torch.randn(norms.shape, generator=generator).to(norms)).abs()

    def prepare(self, model: nn.Module, zeros_mask_dict: Maskers, meta: Meta) -> None:
        parameters = parameters_by_name(model, zeros_mask_dict)
        dense = {name: zeros_mask_dict[name].dense(p) for name, p in parameters.items()}
        if self.units is not None:
            self._unit_masks = self.units.masks(
                dense,
                lambda norms, layer: self._keep(norms, layer, meta),
                self.norm,
            )
        elif self.group_dependency == "Leader":
            leader = self.params_names[0]
            self._leader_keep = self._structures_to_keep(dense[leader], leader, meta)

    @staticmethod
    def rank_and_prune_channels(
        fraction_to_prune: float,
        param: Tensor,
        param_name: str | None = None,
        zeros_mask_dict: Maskers | None = None,
        model: nn.Module | None = None,
        binary_map: Tensor | None = None,
        magnitude_fn: NamedFunction = l1_norm,
        noise: float = 0.0,
        group_size: int = 1,
        rounding_fn: Rounding = math.floor,
    ) -> Tensor | None:
        """Masks the lowest share of a matrix's columns; a script's own call, without a schedule.

        Args:
            fraction_to_prune: the share.
            param: the matrix.
            param_name: whose masker gets the mask.
            zeros_mask_dict: the maskers; None leaves it at the map.
            model: the original's; it changes nothing.
            binary_map: 1 for each column to keep, in place of a ranking.
            magnitude_fn: `l1_norm`, `l2_norm` or `max_norm`.
            noise: the probability that norms are multiplied by random numbers.
            group_size: prune a multiple of this many.
            rounding_fn: ``math.floor`` or ``math.ceil``.

        Returns:
            The map, None when the share comes to no column.
        """
        structures = Structures("Channels")
        if binary_map is None:
            norms = structures.norms(param, _norm_of(magnitude_fn), param_name or "param")
            binary_map = _lowest(norms, fraction_to_prune, noise, group_size, rounding_fn)
        return _masked(structures, param, param_name, zeros_mask_dict, binary_map)

    @staticmethod
    def rank_and_prune_blocks(
        fraction_to_prune: float,
        param: Tensor,
        param_name: str | None = None,
        zeros_mask_dict: Maskers | None = None,
        model: nn.Module | None = None,
        binary_map: Tensor | None = None,
        block_shape: Sequence[int] | None = None,
        magnitude_fn: NamedFunction = l1_norm,
        group_size: int = 1,
    ) -> Tensor | None:
        """`rank_and_prune_channels` of blocks of ``block_shape``."""
        structures = Structures("Blocks", block_of({"block_shape": block_shape}))
        if binary_map is None:
            norms = structures.norms(param, _norm_of(magnitude_fn), param_name or "param")
            binary_map = _lowest(norms, fraction_to_prune, 0.0, group_size, math.floor)
        return _masked(structures, param, param_name, zeros_mask_dict, binary_map)

    def _keep(self, norms: Tensor, name: str, meta: Meta) -> Tensor:
        fraction = self.fraction_to_prune(name, meta)
        count = structures_to_prune(norms.numel(), fraction, self.group_size, self.round_up)
        return keep_largest(self.scores(norms, name, meta), count)

    def _structures_to_keep(self, param: Tensor, param_name: str, meta: Meta) -> Tensor:
        assert self.structures is not None
        return self._keep(self.structures.norms(param, self.norm, param_name), param_name, meta)

    def set_param_mask(
        self, param: Tensor, param_name: str, zeros_mask_dict: Maskers, meta: Meta
    ) -> None:
        if not self.handles(param_name):
            return
        masker = zeros_mask_dict[param_name]
        if self.units is not None:
            mask = next((self._unit_masks[n] for n in masker.names if n in self._unit_masks), None)
        else:
            assert self.structures is not None
            keep = self._leader_keep
            if self.group_dependency is None or keep is None:
                keep = self._structures_to_keep(param, param_name, meta)
            mask = self.structures.expand(keep, param)
        if mask is not None and (masker.mask is not None or not bool(mask.all())):
            masker.mask = mask


class L1RankedStructureParameterPruner(RankedStructureParameterPruner):
    """Rank structures by their mean magnitude."""

    norm = "L1"


class L2RankedStructureParameterPruner(RankedStructureParameterPruner):
    """Rank structures by their root mean square."""

    norm = "L2"


class RandomLevelStructureParameterPruner(L1RankedStructureParameterPruner):
    """Rank structures by their mean magnitude and prune a random share of them at each step.

    Args:
        sparsity_range: the least and the largest share; each step draws one between them for each
            parameter. Of one epoch it is always the same, so that a resumed run repeats it.

    The other arguments are those of `RankedStructureParameterPruner`.
    """

    def __init__(
        self,
        name: str,
        group_type: str,
        sparsity_range: Sequence[float],
        weights: Sequence[str],
        group_dependency: str | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        low, high = sparsity_range
        if not 0 <= low < high <= 1:
            raise DistillerError(
                f"pruner '{name}': sparsity_range {[low, high]} must rise within 0 to 1"
            )
        super().__init__(name, group_type, (low + high) / 2, weights, group_dependency, kwargs)
        self.sparsity_range = (low, high)

    def fraction_to_prune(self, param_name: str, meta: Meta | None = None) -> float:
        low, high = self.sparsity_range
        epoch = (meta or {}).get("current_epoch")
        generator = None if epoch is None else _generator(f"{self.name} {param_name} {epoch}")
        return low + (high - low) * float(torch.rand((), generator=generator))


class RandomStructureParameterPruner(RankedStructureParameterPruner):
    """Prune structures at random, as a baseline for the rankings.

    The order is drawn once from ``seed`` and the parameter's name, so a larger share only adds to
    a smaller one, and a resumed run goes on with the same draw.
    """

    def scores(self, norms: Tensor, param_name: str, meta: Meta) -> Tensor:
        return torch.rand(norms.shape, generator=_generator(f"{self.seed} {param_name}")).to(norms)


class _Gradual(RankedStructureParameterPruner):
    """A ranked pruner whose share of structures rises on the AGP curve."""

    def __init__(
        self,
        name: str,
        initial_sparsity: float,
        final_sparsity: float,
        group_type: str,
        weights: Sequence[str],
        group_dependency: str | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(name, group_type, final_sparsity, weights, group_dependency, kwargs)
        self.agp_pr = AgpPruningRate(initial_sparsity, final_sparsity)

    def fraction_to_prune(self, param_name: str, meta: Meta | None = None) -> float:
        return self.agp_pr.final_sparsity if meta is None else epoch_target(self.agp_pr, meta)


class L1RankedStructureParameterPruner_AGP(  # noqa: N801 - the name of the schedules
    _Gradual, L1RankedStructureParameterPruner
):
    """`L1RankedStructureParameterPruner` on the AGP curve."""


class L2RankedStructureParameterPruner_AGP(  # noqa: N801 - the name of the schedules
    _Gradual, L2RankedStructureParameterPruner
):
    """`L2RankedStructureParameterPruner` on the AGP curve."""


class NMSparsityPruner(ListedWeightsPruner):
    """Keep the ``n`` largest of every ``m`` consecutive weights of a row, such as 2 of 4.

    Mishra and others, "Accelerating Sparse Deep Neural Networks", 2021 (arXiv:2104.08378). A last
    group shorter than ``m`` keeps its ``n`` largest too.
    """

    def __init__(self, name: str, weights: Sequence[str], n: int = 2, m: int = 4) -> None:
        super().__init__(name, weights)
        if not 0 < n < m:
            raise DistillerError(f"pruner '{name}': n {n} must be at least 1 and below m {m}")
        self.n, self.m = n, m

    def target_sparsity(self, param_name: str, meta: Meta) -> float:
        return 1.0 - self.n / self.m

    def set_param_mask(
        self, param: Tensor, param_name: str, zeros_mask_dict: Maskers, meta: Meta
    ) -> None:
        if self.handles(param_name):
            zeros_mask_dict[param_name].mask = self.create_mask(param)

    def create_mask(self, weight: Tensor) -> Tensor:
        """The boolean mask of a weight; groups run along its last dimension."""
        magnitudes = weight.detach().abs().reshape(-1, weight.shape[-1])
        padded = torch.nn.functional.pad(magnitudes, (0, -weight.shape[-1] % self.m), value=-1.0)
        groups = padded.reshape(-1, self.m)
        order = groups.argsort(dim=1, descending=True, stable=True)
        keep = torch.zeros_like(groups, dtype=torch.bool)
        keep.scatter_(1, order[:, : self.n], True)
        return keep.reshape(padded.shape)[:, : weight.shape[-1]].reshape(weight.shape).contiguous()


def _generator(key: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(key.encode()))


def _norm_of(magnitude_fn: NamedFunction) -> Norm:
    for norm in get_args(Norm):
        if str(magnitude_fn) == norm:
            return norm
    raise DistillerError(f"magnitude_fn {magnitude_fn} is unknown: use l1_norm, l2_norm, max_norm")


def _lowest(
    norms: Tensor, fraction: float, noise: float, group_size: int, rounding_fn: Rounding
) -> Tensor | None:
    """0 for the structures with the lowest norms, 1 for the others; None when none goes."""
    up = _rounds_up("rank_and_prune", rounding_fn)
    count = structures_to_prune(norms.numel(), fraction, group_size, up)
    if count == 0:
        return None
    return keep_largest(e_greedy_normal_noise(norms, noise).abs(), count).to(norms.dtype)


def _masked(
    structures: Structures,
    param: Tensor,
    param_name: str | None,
    zeros_mask_dict: Maskers | None,
    binary_map: Tensor | None,
) -> Tensor | None:
    if zeros_mask_dict is not None and binary_map is not None:
        if param_name is None:
            raise DistillerError("zeros_mask_dict needs a param_name, whose masker gets the mask")
        zeros_mask_dict[param_name].mask = structures.expand(binary_map.bool(), param)
    return binary_map


def _rounds_up(name: str, rounding_fn: Rounding) -> bool:
    if rounding_fn in (math.floor, "floor"):
        return False
    if rounding_fn in (math.ceil, "ceil"):
        return True
    raise DistillerError(f"pruner '{name}': rounding_fn must be floor or ceil")
