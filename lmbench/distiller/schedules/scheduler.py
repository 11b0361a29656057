"""The scheduler: runs the policies of each epoch and keeps the masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lmbench.distiller.errors import DistillerError, ScheduleError
from lmbench.distiller.pruning.masks import (
    MaskDict,
    create_model_masks_dict,
    mask_gradients,
    masked_parameters,
)
from lmbench.distiller.schedules.agp import check_range, scheduled_epochs
from lmbench.distiller.schedules.nested_state import plain_state
from lmbench.distiller.schedules.policies import (
    LossComponent,
    LRPolicy,
    PolicyLoss,
    PruningPolicy,
    PruningStep,
    QuantizationPolicy,
    ScheduledTrainingPolicy,
)
from lmbench.distiller.script_helpers import normalize_module_name

if TYPE_CHECKING:
    from lmbench.distiller.quantization.training_base import TrainingQuantizer

STATE_VERSION = 1


class CompressionScheduler:
    """Calls the policies of a training and holds the mask of each parameter.

    The training calls, in this order, for each epoch: `on_epoch_begin`; for each minibatch
    `on_minibatch_begin`, (forward), `before_backward_pass`, (backward),
    `before_parameter_optimization`, (optimizer step), `on_minibatch_end`; (validation);
    `on_epoch_end`.

    Masks are made at the beginning of an epoch and imposed at its first minibatch, or before a
    quantizer begins the epoch, which it does after the pruners. After each update
    the masked weights are zero again, and masks stay when their policy has ended.

    A run that resumes within an epoch builds the scheduler as before, calls `load_state_dict`
    and goes on with `on_minibatch_begin`; it does not begin the epoch a second time.

    Args:
        model: any module. Tied parameters share one mask, under the first of their names.
        zeros_mask_dict: maskers to use in place of new ones.
        device: kept for the original's signature; masks live where their parameter is.
    """

    def __init__(
        self,
        model: nn.Module,
        zeros_mask_dict: MaskDict | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.model = model
        self.device = device
        self.zeros_mask_dict = zeros_mask_dict or create_model_masks_dict(model)
        self.policies: dict[int, list[ScheduledTrainingPolicy]] = {}
        self.sched_metadata: dict[ScheduledTrainingPolicy, dict[str, Any]] = {}
        self._steps: list[PruningStep] = []
        self._narrowed: list[str] = []

    def add_policy(
        self,
        policy: ScheduledTrainingPolicy,
        epochs: Iterable[int] | None = None,
        starting_epoch: int | None = None,
        ending_epoch: int | None = None,
        frequency: int = 1,
    ) -> None:
        """Run a policy at the listed epochs, or from ``starting_epoch`` to before ``ending_epoch``.

        Args:
            policy: one of the policies.
            epochs: the epochs, in place of a range.
            starting_epoch: the first epoch of a range.
            ending_epoch: the first epoch after it.
            frequency: the distance between its epochs; not used with ``epochs``.

        Raises:
            ScheduleError: when both or neither are given, or they hold no epoch.
        """
        if epochs is not None:
            if starting_epoch is not None or ending_epoch is not None:
                raise ScheduleError(
                    "a policy takes epochs, or starting_epoch and ending_epoch; leave one of them "
                    "out"
                )
            given = list(epochs)
            if not given or min(given) < 0:
                raise ScheduleError(f"epochs {given} must hold one epoch or more, none negative")
            meta = {
                "starting_epoch": min(given),
                "ending_epoch": max(given) + 1,
                "frequency": None,
            }
            run = sorted(set(given))
        else:
            start, end, every = check_range(starting_epoch, ending_epoch, frequency)
            meta = {"starting_epoch": start, "ending_epoch": end, "frequency": every}
            run = list(scheduled_epochs(start, end, every))
        if isinstance(policy, PruningPolicy):
            policy.pruner.bind(self.model)
        elif isinstance(policy, QuantizationPolicy) and policy.training_quantizer and run[0] > 0:
            policy.training_quantizer.wait()
        self.sched_metadata[policy] = {**meta, "scheduled_epochs": run}
        for epoch in run:
            ordered = self.policies.setdefault(epoch, [])
            ordered.append(policy)
            ordered.sort(key=lambda policy: isinstance(policy, QuantizationPolicy))

    def _active(self, epoch: int) -> Iterable[tuple[ScheduledTrainingPolicy, dict[str, Any]]]:
        for policy in self.policies.get(epoch, ()):
            meta = self.sched_metadata[policy]
            meta["current_epoch"] = epoch
            meta["model"] = self.model
            meta["steps"] = self._steps
            meta["narrowed"] = self._narrowed
            yield policy, meta

    def on_epoch_begin(self, epoch: int, optimizer: Optimizer | None = None, **kwargs: Any) -> None:
        """Compute the masks of this epoch; the weights change at its first minibatch."""
        for policy, meta in self._active(epoch):
            meta["optimizer"] = optimizer
            if isinstance(policy, QuantizationPolicy):
                # Its scales are fitted to the weights that this epoch's masks leave.
                if any(isinstance(other, PruningPolicy) for other in self.policies[epoch]):
                    self.mask_all_weights()
                else:
                    self._mask_copies()
            policy.on_epoch_begin(self.model, self.zeros_mask_dict, meta, **kwargs)

    def on_minibatch_begin(
        self,
        epoch: int,
        minibatch_id: int,
        minibatches_per_epoch: int,
        optimizer: Optimizer | None = None,
    ) -> None:
        """Impose the masks before the forward pass."""
        batch = (epoch, minibatch_id, minibatches_per_epoch)
        for policy, meta in self._active(epoch):
            if isinstance(policy, QuantizationPolicy):
                self._mask_copies()
            policy.on_minibatch_begin(self.model, *batch, self.zeros_mask_dict, meta, optimizer)
        self._mask_copies()

    def _mask_copies(self) -> None:
        """Of weights that train in a dense copy the masked ones are scored and kept, also in epochs
        without a pruner."""
        for masker, param in masked_parameters(self.model, self.zeros_mask_dict):
            if masker.use_double_copies:
                masker.apply_mask(param)

    def before_backward_pass(
        self,
        epoch: int,
        minibatch_id: int,
        minibatches_per_epoch: int,
        loss: Tensor,
        optimizer: Optimizer | None = None,
        return_loss_components: bool = False,
    ) -> Tensor | PolicyLoss:
        """The loss with what the policies add to it, and on demand their parts."""
        batch = (epoch, minibatch_id, minibatches_per_epoch)
        overall, components = loss, []
        for policy, _ in self._active(epoch):
            answer = policy.before_backward_pass(
                self.model, *batch, overall, self.zeros_mask_dict, optimizer
            )
            if answer is not None:
                overall = answer.overall_loss
                components += self.verify_policy_loss(answer)
        return PolicyLoss(overall, components) if return_loss_components else overall

    @staticmethod
    def verify_policy_loss(policy_loss: PolicyLoss) -> list[LossComponent]:
        """The parts that a policy added to the loss.

        Raises:
            DistillerError: it returned something else than a `PolicyLoss`.
        """
        if not isinstance(policy_loss, PolicyLoss):
            raise DistillerError("a policy's before_backward_pass must return None or a PolicyLoss")
        parts = policy_loss.loss_components
        return [parts] if isinstance(parts, LossComponent) else list(parts)

    def changes_backward(self, epoch: int) -> bool:
        """Whether a policy takes part between the forward pass and the end of the backward pass.

        It does where it adds to the loss, or where gradients are masked in the backward pass. Else
        a training may leave out `before_backward_pass`.
        """
        plain = ScheduledTrainingPolicy.before_backward_pass
        adding = (type(p).before_backward_pass is not plain for p in self.policies.get(epoch, ()))
        masking = (masker.masks_gradient for masker in self.zeros_mask_dict.values())
        return any(adding) or any(masking)

    def before_parameter_optimization(
        self,
        epoch: int,
        minibatch_id: int,
        minibatches_per_epoch: int,
        optimizer: Optimizer | None = None,
    ) -> None:
        """Restore dense copies, so that the optimizer updates them."""
        batch = (epoch, minibatch_id, minibatches_per_epoch)
        for masker, param in masked_parameters(self.model, self.zeros_mask_dict):
            masker.revert_weights(param)
        for policy, meta in self._active(epoch):
            policy.before_parameter_optimization(
                self.model, *batch, self.zeros_mask_dict, meta, optimizer
            )

    def on_minibatch_end(
        self,
        epoch: int,
        minibatch_id: int,
        minibatches_per_epoch: int,
        optimizer: Optimizer | None = None,
    ) -> None:
        """Mask again what the update changed: momentum moves weights whose gradient is zero."""
        batch = (epoch, minibatch_id, minibatches_per_epoch)
        self.mask_all_weights(is_forward=False)
        for policy, _ in self._active(epoch):
            policy.on_minibatch_end(self.model, *batch, self.zeros_mask_dict, optimizer)

    def mask_for_good(self, epoch: int) -> bool:
        """After the last epoch of a policy with ``keep_mask``: prune what its masks leave out, so
        that the model that is scored is the one that is kept. `on_epoch_end` does so, too.

        Whether models that were scored before may have weights that are pruned now.
        """
        had_come_back = False
        for policy, meta in self._active(epoch):
            had_come_back |= policy.mask_for_good(self.model, self.zeros_mask_dict, meta)
        return had_come_back

    def on_epoch_end(self, epoch: int, optimizer: Optimizer | None = None, **kwargs: Any) -> None:
        """Step the learning rates (``metrics``: the validation loss) and finish ended policies."""
        for policy, meta in self._active(epoch):
            meta["optimizer"] = optimizer
            policy.on_epoch_end(self.model, self.zeros_mask_dict, meta, **kwargs)

    def mask_all_weights(self, is_forward: bool = True) -> None:
        """Impose every mask now: as before a forward pass, or as after an update."""
        for masker, param in masked_parameters(self.model, self.zeros_mask_dict):
            if is_forward:
                masker.apply_mask(param)
            else:
                masker.apply_after_update(param)

    @contextmanager
    def copies_masked(self) -> Iterator[None]:
        """Within, weights that train in a dense copy are the masked ones, which are kept."""
        dense = [
            (masker, param)
            for masker, param in masked_parameters(self.model, self.zeros_mask_dict)
            if masker.use_double_copies and masker.unmasked_copy is None
        ]
        for masker, param in dense:
            masker.apply_mask(param)
        try:
            yield
        finally:
            for masker, param in dense:
                masker.revert_weights(param)

    def mask_gradients(self) -> None:
        """Zero the gradients of pruned weights, so that they do not count in a norm."""
        mask_gradients(self.model, self.zeros_mask_dict)

    def pruning_steps(self) -> list[PruningStep]:
        """The masks that changed since the last call."""
        steps, self._steps = self._steps, []
        return steps

    def narrowed_to(self) -> str | None:
        """The bits to which a quantizer has brought the model since the last call, if it has."""
        widths = self._narrowed[-1] if self._narrowed else None
        self._narrowed.clear()
        return widths

    @property
    def quantizer(self) -> TrainingQuantizer | None:
        """The training-time quantizer that has prepared the model, if the schedule has one."""
        policies = (p for p in self.sched_metadata if isinstance(p, QuantizationPolicy))
        return next((policy.quantizer for policy in policies), None)

    def state_dict(self) -> dict[str, Any]:
        """All that an exact resume needs: tensors and JSON values only.

        ``masks_dict`` (boolean masks or None, by parameter) is where the original had it. See
        `split_state` to store tensors and values apart.
        """
        maskers = self.zeros_mask_dict.values()
        return {
            "version": STATE_VERSION,
            "masks_dict": {masker.param_name: masker.mask for masker in maskers},
            "mask_parts": {
                # A lone part is the whole mask, which is not stored twice.
                masker.param_name: dict(masker.parts)
                if len(masker.parts) > 1
                else dict.fromkeys(masker.parts)
                for masker in maskers
                if masker.parts
            },
            "unmasked": {
                masker.param_name: masker.unmasked_copy
                for masker in maskers
                if masker.unmasked_copy is not None
            },
            "maskers": {
                masker.param_name: {
                    "use_double_copies": masker.use_double_copies,
                    "mask_on_forward_only": masker.mask_on_forward_only,
                    "is_regularization_mask": masker.is_regularization_mask,
                    "masks_gradient": masker.masks_gradient,
                }
                for masker in maskers
            },
            "policies": [_policy_state(policy) for policy in self.sched_metadata],
        }

    def load_state_dict(
        self, state: Mapping[str, Any], normalize_dataparallel_keys: bool = False
    ) -> None:
        """Restore a `state_dict`; of one with only ``masks_dict`` the masks alone.

        Raises:
            DistillerError: when it is of another version, another schedule or another model.
        """
        if "masks_dict" not in state:
            raise DistillerError(
                f"scheduler state: masks_dict is missing; it holds {', '.join(state) or 'nothing'}"
            )
        version = state.get("version", STATE_VERSION)
        if version != STATE_VERSION:
            raise DistillerError(
                f"scheduler state: version {version}, this lmbench reads {STATE_VERSION}"
            )
        self.init_from_masks_dict(state["masks_dict"], normalize_dataparallel_keys)
        normal = normalize_module_name if normalize_dataparallel_keys else str
        parts, maskers, unmasked = (
            {normal(name): its for name, its in state.get(key, {}).items()}
            for key in ("mask_parts", "maskers", "unmasked")
        )
        for masker, param in masked_parameters(self.model, self.zeros_mask_dict):
            # A whole state without parts has a mask that the next minibatch makes anew.
            if "mask_parts" in state:
                masker.parts = {
                    pruner: masker.kept(param)
                    if part is None
                    else part.to(param.device, torch.bool).clone()
                    for pruner, part in parts.get(masker.param_name, {}).items()
                }
        if "policies" not in state:
            return
        policies = list(self.sched_metadata)
        if len(policies) != len(state["policies"]):
            raise DistillerError(
                f"scheduler state: made by a schedule of {len(state['policies'])} policies, "
                f"this one has {len(policies)}; resume with the schedule of the run"
            )
        if missing := self.zeros_mask_dict.keys() - maskers.keys():
            raise DistillerError(f"scheduler state: of another model, without '{min(missing)}'")
        for masker, param in masked_parameters(self.model, self.zeros_mask_dict):
            flags = maskers[masker.param_name]
            masker.use_double_copies = flags["use_double_copies"]
            masker.mask_on_forward_only = flags["mask_on_forward_only"]
            masker.is_regularization_mask = flags["is_regularization_mask"]
            copy = unmasked.get(masker.param_name)
            masker.unmasked_copy = None if copy is None else copy.to(param.device).clone()
            masker.unwatch_gradient()
            if flags["masks_gradient"]:
                masker.watch_gradient(param)
        for policy, saved in zip(policies, state["policies"], strict=True):
            _load_policy_state(policy, saved)
        self._steps = []

    def init_from_masks_dict(
        self, masks_dict: Mapping[str, Tensor | None], normalize_dataparallel_keys: bool = False
    ) -> None:
        """Set the masks by parameter name; a parameter that is not named gets none."""
        masks = {
            normalize_module_name(name) if normalize_dataparallel_keys else name: mask
            for name, mask in masks_dict.items()
        }
        # Unknown names raise here, before anything has changed.
        found = {self.zeros_mask_dict[name].param_name: mask for name, mask in masks.items()}
        for masker, param in masked_parameters(self.model, self.zeros_mask_dict):
            mask = found.get(masker.param_name)
            if mask is not None and mask.shape != param.shape:
                raise DistillerError(
                    f"scheduler state: the mask of '{masker.param_name}' has shape "
                    f"{tuple(mask.shape)}, the parameter {tuple(param.shape)}"
                )
            masker.mask = None if mask is None else mask.to(param.device).clone()
            # Nobody's part by name: what is given stays, whatever prunes on.
            masker.parts = {} if masker.mask is None else {"": masker.mask}


def _policy_state(policy: ScheduledTrainingPolicy) -> dict[str, Any]:
    state: dict[str, Any] = {"kind": type(policy).__name__}
    if isinstance(policy, PruningPolicy):
        state["is_initialized"] = policy.is_initialized
        state["pruner"] = policy.pruner.state_dict()
    elif isinstance(policy, LRPolicy):
        state["lr_scheduler"] = plain_state(policy.lr_scheduler.state_dict())
    elif isinstance(policy, QuantizationPolicy) and policy.training_quantizer:
        state["quantizer"] = policy.training_quantizer.state_dict()
    return state


def _load_policy_state(policy: ScheduledTrainingPolicy, state: Mapping[str, Any]) -> None:
    if state["kind"] != type(policy).__name__:
        raise DistillerError(
            f"scheduler state: holds a {state['kind']} where this schedule has a "
            f"{type(policy).__name__}; resume with the schedule of the run"
        )
    if isinstance(policy, PruningPolicy):
        policy.is_initialized = state["is_initialized"]
        policy.pruner.load_state_dict(state["pruner"])
    elif isinstance(policy, LRPolicy):
        policy.lr_scheduler.load_state_dict(
            {**policy.lr_scheduler.state_dict(), **state["lr_scheduler"]}
        )
    elif (
        isinstance(policy, QuantizationPolicy)
        and policy.training_quantizer
        and "quantizer" in state
    ):
        policy.training_quantizer.load_state_dict(state["quantizer"])
