"""Masks of parameters: which weights stay, applied to the parameter and its gradient."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lmbench.distiller.errors import DistillerError, did_you_mean

# Training-time quantizers keep a full-precision copy under this prefix, or wrap the module.
_BACKUP_PREFIX = "float_"
_WRAPPER = "wrapped_module"
# In a modular cell (see `modules`): what the projections and the lists of cells are in torch.nn.
_PROJECTIONS = {"fc_gate_x": "ih", "fc_gate_h": "hh"}
_DIRECTIONS = {"cells": "", "cells_reverse": "_reverse"}


class ParameterMasker:
    """The mask of one parameter, and how policies have it applied.

    Attributes:
        param_name: the parameter's first name in the model.
        names: that name and those of its ties.
        use_double_copies: the forward pass sees masked weights, the update goes to dense ones.
        mask_on_forward_only: the update may change masked weights.
        is_regularization_mask: the mask is of a regularizer, applied once and then forgotten.
        unmasked_copy: the dense weights while the parameter holds masked ones.
        parts: the mask of each pruner that has pruned it, by the pruner's name.
    """

    def __init__(self, param_name: str, aliases: tuple[str, ...] = ()) -> None:
        self.param_name = param_name
        self.names = (param_name, *aliases)
        self.use_double_copies = False
        self.mask_on_forward_only = False
        self.is_regularization_mask = False
        self.unmasked_copy: Tensor | None = None
        self.parts: dict[str, Tensor] = {}
        self._mask: Tensor | None = None
        self._prunes: bool | None = None
        self._factor: Tensor | None = None
        self._gradient_hook: RemovableHandle | None = None
        self._buffer: Tensor | None = None
        self._masked: tuple[int, int] | None = None

    @property
    def mask(self) -> Tensor | None:
        """True where a weight stays, in the parameter's shape; None when nothing is pruned."""
        return self._mask

    @mask.setter
    def mask(self, mask: Tensor | None) -> None:
        self._mask = None if mask is None else mask.detach().to(torch.bool)
        self._prunes = None
        self._factor = None
        self._masked = None

    def add_part(self, pruner: str) -> None:
        """Take the mask that a pruner has just set as its part; what others prune stays pruned."""
        if self._mask is not None:
            self.parts[pruner] = self._mask
        self._combine_parts()

    def drop_part(self, pruner: str) -> None:
        """Forget what a pruner prunes."""
        self.parts.pop(pruner, None)
        self._combine_parts()

    def _combine_parts(self) -> None:
        masks = list(self.parts.values())
        self.mask = functools.reduce(torch.logical_and, masks) if masks else None

    def kept(self, param: Tensor) -> Tensor:
        """The mask, or one that keeps everything."""
        return torch.ones_like(param, dtype=torch.bool) if self._mask is None else self._mask

    def dense(self, param: Tensor) -> Tensor:
        """The weights that pruners rank: the dense copy where there is one."""
        return param if self.unmasked_copy is None else self.unmasked_copy

    @torch.no_grad()
    def mask_tensor(self, tensor: Tensor) -> None:
        """Set the pruned entries of ``tensor`` to zero in place."""
        if self._mask is None:
            return
        # `hold` gives a mask of ones to each parameter of a dense model. A regularizer's is new at
        # each minibatch, where finding out costs what the product does.
        if self._prunes is None:
            self._prunes = self.is_regularization_mask or not self._mask.all()
        if not self._prunes:
            return
        # Kept in the tensor's dtype: a product with a boolean takes three times as long, twice a
        # minibatch. A product and not masked_fill, for the bits of the original, whose pruned
        # negative weights are -0.0.
        if self._factor is None or self._factor.dtype != tensor.dtype:
            self._factor = self._mask.to(tensor.dtype)
        tensor.mul_(self._factor)

    @torch.no_grad()
    def apply_mask(self, parameter: Tensor) -> Tensor:
        """Mask the parameter for the forward pass, unless it still is."""
        if self._mask is not None and self._masked != _content(parameter):
            if self.use_double_copies:
                if self.unmasked_copy is None:
                    self.unmasked_copy = self._copied(parameter)
                else:
                    parameter.copy_(self.unmasked_copy)
            self.mask_tensor(parameter)
            self._masked = _content(parameter)
            if self.is_regularization_mask:
                self.is_regularization_mask = False
                self._combine_parts()
        return parameter

    def _copied(self, parameter: Tensor) -> Tensor:
        """The weights in a tensor that is kept: a new one for each minibatch costs page faults."""
        kept = self._buffer
        if kept is None or (kept.dtype, kept.device) != (parameter.dtype, parameter.device):
            self._buffer = kept = torch.empty_like(parameter)
        return kept.copy_(parameter)

    @torch.no_grad()
    def revert_weights(self, parameter: Tensor) -> None:
        """Restore the dense weights, so that the optimizer updates them."""
        if self.unmasked_copy is not None:
            parameter.copy_(self.unmasked_copy)
            self.unmasked_copy = None

    @torch.no_grad()
    def apply_after_update(self, parameter: Tensor) -> None:
        """Mask what the update brought back, unless only the forward pass is masked."""
        if self._mask is None:
            return
        # An update by a kernel or a CUDA graph leaves torch's count of writes as it was.
        self._masked = None
        if self.unmasked_copy is not None:
            # The trainer did not revert before its update, which so went to the masked weights:
            # put the weights that were masked away back underneath it.
            parameter.add_(self.unmasked_copy * ~self._mask)
            self.unmasked_copy = None
        if not self.mask_on_forward_only:
            self.apply_mask(parameter)

    def mask_gradient(self, gradient: Tensor) -> Tensor:
        """The gradient with that of the pruned weights at zero."""
        return gradient if self._mask is None else gradient * self._mask

    def watch_gradient(self, parameter: Tensor) -> None:
        """Mask the parameter's gradient in each backward pass from now on."""
        if self._gradient_hook is None:
            self._gradient_hook = parameter.register_hook(self.mask_gradient)

    def unwatch_gradient(self) -> None:
        """Stop masking the gradient."""
        if self._gradient_hook is not None:
            self._gradient_hook.remove()
            self._gradient_hook = None

    @property
    def masks_gradient(self) -> bool:
        """Whether the gradient is masked in the backward pass."""
        return self._gradient_hook is not None


def _content(parameter: Tensor) -> tuple[int, int]:
    """Where the parameter lies and torch's count of writes to it."""
    return parameter.data_ptr(), parameter._version


class MaskDict(dict[str, ParameterMasker]):
    """The maskers by first parameter name; the name of a tie leads to the same masker."""

    def __missing__(self, name: str) -> ParameterMasker:
        for masker in self.values():
            if name in masker.names:
                return masker
        known = [alias for masker in self.values() for alias in masker.names]
        raise DistillerError(
            f"'{name}' is not a parameter of this model {did_you_mean(name, known)}"
        )


def create_model_masks_dict(model: nn.Module) -> MaskDict:
    """A masker without a mask for each parameter of the model, one for tied parameters."""
    names: dict[int, list[str]] = {}
    for name, param in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(param), []).append(name)
    return MaskDict((first, ParameterMasker(first, tuple(ties))) for first, *ties in names.values())


def masked_parameters(
    model: nn.Module, maskers: MaskDict
) -> Iterator[tuple[ParameterMasker, nn.Parameter]]:
    """Each masker with its parameter as the model has it now.

    A training-time quantizer may have moved the parameter; parameters that it added have no
    masker and are left out.
    """
    for name, param in model.named_parameters():
        kept = _without_quantizer(name)
        masker = maskers.get(name) or maskers.get(kept) or maskers.get(_name_in_torch(kept))
        if masker is not None:
            yield masker, param


def parameters_by_name(model: nn.Module, maskers: MaskDict) -> dict[str, nn.Parameter]:
    """Each parameter as the model has it now under every name of its masker.

    These are the names of a schedule, also where a training-time quantizer has renamed parameters.
    """
    return {
        name: param for masker, param in masked_parameters(model, maskers) for name in masker.names
    }


def _without_quantizer(name: str) -> str:
    """A parameter's name before a training-time quantizer wrapped its module and kept its weight
    as ``float_weight``."""
    *owner, leaf = [part for part in name.split(".") if part != _WRAPPER]
    return ".".join([*owner, leaf.removeprefix(_BACKUP_PREFIX)])


def _name_in_torch(name: str) -> str:
    """A parameter's name before recurrent layers were split into cells: ``rnn.weight_ih_l0`` for
    ``rnn.cells.0.fc_gate_x.weight``, of the same shape."""
    *owner, leaf = name.split(".")
    if owner and owner[-1] in _PROJECTIONS:
        leaf = f"{leaf}_{_PROJECTIONS[owner.pop()]}"
        if len(owner) > 1 and owner[-2] in _DIRECTIONS and owner[-1].isdigit():
            direction, layer = owner[-2:]
            leaf = f"{leaf}_l{layer}{_DIRECTIONS[direction]}"
            owner = owner[:-2]
    return ".".join([*owner, leaf])


@torch.no_grad()
def mask_gradients(model: nn.Module, maskers: MaskDict) -> None:
    """Set the gradients of pruned weights to zero in place, before the norm for clipping is taken.

    Gradients that still train a dense copy, or weights masked on the forward pass only, stay.
    """
    for masker, param in masked_parameters(model, maskers):
        trains_dense = masker.use_double_copies or masker.mask_on_forward_only
        if param.grad is not None and masker.mask is not None and not trains_dense:
            masker.mask_tensor(param.grad)
