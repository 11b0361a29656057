"""What a scheduler runs at its callbacks: pruning, regularization, learning rate, quantization."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lmbench.distiller.errors import DistillerError
from lmbench.distiller.pruning.masks import MaskDict, ParameterMasker, masked_parameters
from lmbench.distiller.pruning.pruner import AdaptedPruner, ParameterPruner

if TYPE_CHECKING:
    from lmbench.distiller.pruning.regularization import Regularizer

Meta = dict[str, Any]


class LossComponent(NamedTuple):
    """A named part that a policy added to the loss."""

    name: str
    value: Tensor


class PolicyLoss(NamedTuple):
    """The loss after a policy, and the parts that it added."""

    overall_loss: Tensor
    loss_components: LossComponent | list[LossComponent]


class PruningStep(NamedTuple):
    """A mask that has just changed.

    ``parameter`` is the first of its names. ``target`` is the share of what the pruner counts,
    weights or structures, and None when a threshold decides; ``reached`` is the share of weights.
    """

    epoch: int
    pruner: str
    parameter: str
    target: float | None
    reached: float


class ScheduledTrainingPolicy:
    """Base of the policies; each callback does nothing until it is overridden."""

    def __init__(self, classes: Iterable[type] | None = None, layers: Any = None) -> None:
        self.classes = classes
        self.layers = layers

    def on_epoch_begin(
        self, model: nn.Module, zeros_mask_dict: MaskDict, meta: Meta, **kwargs: Any
    ) -> None:
        """An epoch is about to begin."""

    def on_minibatch_begin(
        self,
        model: nn.Module,
        epoch: int,
        minibatch_id: int,
        minibatches_per_epoch: int,
        zeros_mask_dict: MaskDict,
        meta: Meta,
        optimizer: Optimizer | None = None,
    ) -> None:
        """The forward pass of a minibatch is about to begin."""

    def before_backward_pass(
        self,
        model: nn.Module,
        epoch: int,
        minibatch_id: int,
        minibatches_per_epoch: int,
        loss: Tensor,
        zeros_mask_dict: MaskDict,
        optimizer: Optimizer | None = None,
    ) -> PolicyLoss | None:
        """The loss is known; a policy may replace it."""

    def before_parameter_optimization(
        self,
        model: nn.Module,
        epoch: int,
        minibatch_id: int,
        minibatches_per_epoch: int,
        zeros_mask_dict: MaskDict,
        meta: Meta,
        optimizer: Optimizer | None,
    ) -> None:
        """The gradients are known and the optimizer is about to step."""

    def on_minibatch_end(
        self,
        model: nn.Module,
        epoch: int,
        minibatch_id: int,
        minibatches_per_epoch: int,
        zeros_mask_dict: MaskDict,
        optimizer: Optimizer | None,
    ) -> None:
        """The optimizer has stepped."""

    def mask_for_good(self, model: nn.Module, zeros_mask_dict: MaskDict, meta: Meta) -> bool:
        """The epoch's updates are made and its model is about to be scored: masks that stay after
        it fall. Whether they leave out weights that models scored before may have had."""
        return False

    def on_epoch_end(
        self, model: nn.Module, zeros_mask_dict: MaskDict, meta: Meta, **kwargs: Any
    ) -> None:
        """The epoch, with its validation, has ended."""


class PruningPolicy(ScheduledTrainingPolicy):
    """Runs a pruner: a `ParameterPruner`, or an object with the original's ``set_param_mask``.

    Arguments in ``pruner_args``:
        levels: replaces the pruner's levels.
        keep_mask: after the last scheduled epoch weights are masked for good, also those of
            ``mask_on_forward_only`` and ``use_double_copies``.
        mini_batch_pruning_frequency: prune again every so many minibatches; 0 never.
        mask_on_forward_only: the update may change masked weights, which so can come back.
        mask_gradients: the backward pass masks gradients too.
        use_double_copies: forward with masked weights, update dense ones.
        discard_masks_at_minibatch_end: a mask lives for one minibatch.
        skip_first_minibatch: the first step comes at the second minibatch of epoch 0; a policy
            that begins later takes its first step at its second scheduled epoch.
    """

    ARGUMENTS = (
        "levels",
        "keep_mask",
        "mini_batch_pruning_frequency",
        "mask_on_forward_only",
        "mask_gradients",
        "use_double_copies",
        "discard_masks_at_minibatch_end",
        "skip_first_minibatch",
    )

    def __init__(
        self,
        pruner: Any,
        pruner_args: Mapping[str, Any] | None = None,
        classes: Iterable[type] | None = None,
        layers: Any = None,
    ) -> None:
        super().__init__(classes, layers)
        if not isinstance(pruner, ParameterPruner):
            pruner = AdaptedPruner(pruner)
        args = dict(pruner_args or {})
        if args.pop("fold_batchnorm", False):
            raise DistillerError(
                f"policy of pruner '{pruner.name}': fold_batchnorm is for convolutions only; "
                "leave it out"
            )
        unknown = sorted(set(args) - set(self.ARGUMENTS))
        if unknown:
            raise DistillerError(
                f"policy of pruner '{pruner.name}': unknown argument '{unknown[0]}'; "
                f"choose from {', '.join(self.ARGUMENTS)}"
            )
        if args.get("levels") is not None and not hasattr(pruner, "levels"):
            raise DistillerError(
                f"policy of pruner '{pruner.name}': levels is for a SparsityLevelParameterPruner; "
                "leave it out"
            )
        self.pruner = pruner
        # The pruner's own, too: another policy may put others in their place.
        self.levels = args.get("levels") or getattr(pruner, "levels", None)
        self.keep_mask = bool(args.get("keep_mask", False))
        self.mini_batch_pruning_frequency = int(args.get("mini_batch_pruning_frequency", 0))
        self.mask_on_forward_only = bool(args.get("mask_on_forward_only", False))
        self.mask_gradients = bool(args.get("mask_gradients", False))
        self.use_double_copies = bool(args.get("use_double_copies", False))
        self.discard_masks_at_minibatch_end = bool(
            args.get("discard_masks_at_minibatch_end", False)
        )
        self.skip_first_minibatch = bool(args.get("skip_first_minibatch", False))
        self.is_initialized = False

    def _handled(
        self, model: nn.Module, zeros_mask_dict: MaskDict
    ) -> Iterable[tuple[ParameterMasker, nn.Parameter, str]]:
        self._take_levels()
        for masker, param in masked_parameters(model, zeros_mask_dict):
            name = self.pruner.handled_name(masker.names)
            if name is not None:
                yield masker, param, name

    def _take_levels(self) -> None:
        """Before each use: another policy may share the pruner, and a resumed run begins no epoch
        a second time."""
        if self.levels is not None:
            setattr(self.pruner, "levels", self.levels)  # noqa: B010 - only some pruners have it

    def attach(self, model: nn.Module, zeros_mask_dict: MaskDict) -> None:
        """Set the flags of this policy on the maskers of its pruner's parameters."""
        for masker, param, _ in self._handled(model, zeros_mask_dict):
            masker.use_double_copies = self.use_double_copies
            masker.mask_on_forward_only = self.mask_on_forward_only
            if self.mask_gradients:
                masker.watch_gradient(param)

    def _prune(self, model: nn.Module, zeros_mask_dict: MaskDict, meta: Meta) -> None:
        steps: list[PruningStep] = meta.setdefault("steps", [])
        self._take_levels()
        self.pruner.prepare(model, zeros_mask_dict, meta)
        for masker, param, name in self._handled(model, zeros_mask_dict):
            before = masker.mask
            self.pruner.set_param_mask(masker.dense(param), name, zeros_mask_dict, meta)
            if masker.mask is not before:
                masker.add_part(self.pruner.name)
            after = masker.mask
            if after is None or (before is not None and torch.equal(before, after)):
                continue
            reached = 1.0 - int(after.sum()) / after.numel()
            target = self.pruner.target_sparsity(name, meta)
            epoch, parameter = meta["current_epoch"], masker.param_name
            steps.append(PruningStep(epoch, self.pruner.name, parameter, target, reached))

    def on_epoch_begin(
        self, model: nn.Module, zeros_mask_dict: MaskDict, meta: Meta, **kwargs: Any
    ) -> None:
        first_time = not self.is_initialized
        if first_time:
            self.attach(model, zeros_mask_dict)
            self.is_initialized = True
        if not (first_time and self.skip_first_minibatch):
            self._prune(model, zeros_mask_dict, meta)

    def on_minibatch_begin(
        self,
        model: nn.Module,
        epoch: int,
        minibatch_id: int,
        minibatches_per_epoch: int,
        zeros_mask_dict: MaskDict,
        meta: Meta,
        optimizer: Optimizer | None = None,
    ) -> None:
        step = epoch * minibatches_per_epoch + minibatch_id
        frequency = self.mini_batch_pruning_frequency
        # Masks of the first minibatch were made when the epoch began.
        due = minibatch_id > 0 and frequency > 0 and step % frequency == 0
        if due or (self.skip_first_minibatch and step == 1):
            self._prune(model, zeros_mask_dict, meta)
        for masker, param in masked_parameters(model, zeros_mask_dict):
            masker.apply_mask(param)

    def on_minibatch_end(
        self,
        model: nn.Module,
        epoch: int,
        minibatch_id: int,
        minibatches_per_epoch: int,
        zeros_mask_dict: MaskDict,
        optimizer: Optimizer | None,
    ) -> None:
        if self.discard_masks_at_minibatch_end:
            for masker, param, _ in self._handled(model, zeros_mask_dict):
                masker.revert_weights(param)
                masker.drop_part(self.pruner.name)

    def on_epoch_end(
        self, model: nn.Module, zeros_mask_dict: MaskDict, meta: Meta, **kwargs: Any
    ) -> None:
        if meta["current_epoch"] != meta["scheduled_epochs"][-1]:
            return
        self.mask_for_good(model, zeros_mask_dict, meta)
        for masker, _, _ in self._handled(model, zeros_mask_dict):
            masker.unwatch_gradient()

    def mask_for_good(self, model: nn.Module, zeros_mask_dict: MaskDict, meta: Meta) -> bool:
        if not self.keep_mask or meta["current_epoch"] != meta["scheduled_epochs"][-1]:
            return False
        had_come_back = False
        for masker, param, _ in self._handled(model, zeros_mask_dict):
            had_come_back |= masker.mask_on_forward_only and masker.mask is not None
            masker.use_double_copies = False
            masker.mask_on_forward_only = False
            masker.unmasked_copy = None
            masker.mask_tensor(param)
        return had_come_back


class RegularizationPolicy(ScheduledTrainingPolicy):
    """Adds a regularizer's term to the loss and, if it thresholds, masks after each update.

    With ``keep_mask`` the mask of the last minibatch of the last scheduled epoch stays.
    """

    def __init__(self, regularizer: Regularizer, keep_mask: bool = False) -> None:
        super().__init__()
        self.regularizer = regularizer
        self.keep_mask = keep_mask
        self._last_epoch = -1

    def on_minibatch_begin(
        self,
        model: nn.Module,
        epoch: int,
        minibatch_id: int,
        minibatches_per_epoch: int,
        zeros_mask_dict: MaskDict,
        meta: Meta,
        optimizer: Optimizer | None = None,
    ) -> None:
        # Not as the epoch begins, which a resumed run does not do a second time.
        self._last_epoch = meta["scheduled_epochs"][-1]

    def before_backward_pass(
        self,
        model: nn.Module,
        epoch: int,
        minibatch_id: int,
        minibatches_per_epoch: int,
        loss: Tensor,
        zeros_mask_dict: MaskDict,
        optimizer: Optimizer | None = None,
    ) -> PolicyLoss:
        term = torch.zeros((), dtype=loss.dtype, device=loss.device)
        for masker, param in masked_parameters(model, zeros_mask_dict):
            name = self.regularizer.handled_name(masker.names)
            if name is not None:
                term = self.regularizer.loss(param, name, term, zeros_mask_dict)
        component = LossComponent(f"{type(self.regularizer).__name__}_loss", term.detach())
        return PolicyLoss(loss + term, [component])

    def mask_for_good(self, model: nn.Module, zeros_mask_dict: MaskDict, meta: Meta) -> bool:
        # The mask itself fell with the last minibatch.
        masks = self.keep_mask and self.regularizer.threshold_criteria is not None
        return masks and meta["current_epoch"] == meta["scheduled_epochs"][-1]

    def on_minibatch_end(
        self,
        model: nn.Module,
        epoch: int,
        minibatch_id: int,
        minibatches_per_epoch: int,
        zeros_mask_dict: MaskDict,
        optimizer: Optimizer | None,
    ) -> None:
        if self.regularizer.threshold_criteria is None:
            return
        last = epoch == self._last_epoch and minibatch_id == minibatches_per_epoch - 1
        for masker, param in masked_parameters(model, zeros_mask_dict):
            name = self.regularizer.handled_name(masker.names)
            if name is None:
                continue
            self.regularizer.threshold(param, name, zeros_mask_dict)
            if last and self.keep_mask:
                masker.is_regularization_mask = False
                masker.add_part(f"regularizer {self.regularizer.name}")
            masker.apply_mask(param)


class LRPolicy(ScheduledTrainingPolicy):
    """Steps one of torch's learning rate schedulers at the end of each scheduled epoch."""

    def __init__(self, lr_scheduler: LRScheduler) -> None:
        super().__init__()
        self.lr_scheduler = lr_scheduler

    def on_epoch_end(
        self, model: nn.Module, zeros_mask_dict: MaskDict, meta: Meta, **kwargs: Any
    ) -> None:
        epoch = meta["current_epoch"] + 1
        if isinstance(self.lr_scheduler, ReduceLROnPlateau):
            self.lr_scheduler.step(_plateau_metric(kwargs.get("metrics"), self.lr_scheduler.mode))
            return
        # Torch warns of a step before the optimizer's first, as of an epoch without minibatches,
        # and of a step to a given epoch.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self.lr_scheduler.last_epoch + 1 == epoch:
                self.lr_scheduler.step()
            else:
                # The schedule counts the epochs of the training, not those of the policy, so that
                # a milestone means the same wherever the policy starts.
                self.lr_scheduler.step(epoch)


def _plateau_metric(metrics: Any, mode: str) -> float:
    if isinstance(metrics, Mapping):
        metrics = metrics.get(mode)
    if metrics is None:
        raise DistillerError(
            "lr_scheduler ReduceLROnPlateau: no validation loss; call "
            f"on_epoch_end(epoch, optimizer, metrics={{'{mode}': loss}})"
        )
    return float(metrics.detach() if isinstance(metrics, Tensor) else metrics)


class QuantizationPolicy(ScheduledTrainingPolicy):
    """Prepares the model for a quantizer, and quantizes again after each update.

    A `TrainingQuantizer` does that by itself before each forward pass, and is told of epochs and
    batches. It waits for the policy's first epoch.
    """

    def __init__(self, quantizer: Any) -> None:
        # Not above: modules that schedules need without a quantizer would wait for all of them.
        from lmbench.distiller.quantization.training_base import TrainingQuantizer

        super().__init__()
        self.quantizer = quantizer
        self.training_quantizer = quantizer if isinstance(quantizer, TrainingQuantizer) else None
        self.quantizer.prepare_model()
        self.quantizer.quantize_params()

    def on_epoch_begin(
        self, model: nn.Module, zeros_mask_dict: MaskDict, meta: Meta, **kwargs: Any
    ) -> None:
        epoch, quantizer = meta["current_epoch"], self.training_quantizer
        first = epoch == meta["scheduled_epochs"][0]
        if quantizer and quantizer.begin_epoch(epoch, first=first):
            meta["narrowed"].append(quantizer.widths())

    def on_minibatch_begin(
        self,
        model: nn.Module,
        epoch: int,
        minibatch_id: int,
        minibatches_per_epoch: int,
        zeros_mask_dict: MaskDict,
        meta: Meta,
        optimizer: Optimizer | None = None,
    ) -> None:
        if self.training_quantizer:
            self.training_quantizer.begin_batch(epoch * minibatches_per_epoch + minibatch_id)

    def on_minibatch_end(
        self,
        model: nn.Module,
        epoch: int,
        minibatch_id: int,
        minibatches_per_epoch: int,
        zeros_mask_dict: MaskDict,
        optimizer: Optimizer | None,
    ) -> None:
        if not self.training_quantizer:
            self.quantizer.quantize_params()
