"""From a schedule to a scheduler with its policies: `file_config` and `dict_config`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lmbench.distiller import pruning
from lmbench.distiller.errors import DistillerError, ScheduleError, did_you_mean
from lmbench.distiller.pruning import regularization
from lmbench.distiller.pruning.masks import create_model_masks_dict
from lmbench.distiller.schedules import lr_schedulers
from lmbench.distiller.schedules.checking import (
    SECTIONS,
    Component,
    PolicyEntry,
    Schedule,
    check_parameters,
    load_schedule,
    schedule_from_dict,
)
from lmbench.distiller.schedules.lr_arguments import LRArgs
from lmbench.distiller.schedules.policies import (
    LRPolicy,
    PruningPolicy,
    QuantizationPolicy,
    RegularizationPolicy,
    ScheduledTrainingPolicy,
)
from lmbench.distiller.schedules.scheduler import CompressionScheduler
from lmbench.distiller.yaml_values import one_line, read_yaml

_ORDER = {"quantizer": 1, "lr_scheduler": 2}
# What the constructors of pruners, quantizers and torch's schedulers raise for wrong arguments.
_MISTAKES = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError)


def file_config(
    model: nn.Module,
    optimizer: Optimizer | None,
    filename: str | Path,
    scheduler: CompressionScheduler | None = None,
    resumed_epoch: int | None = None,
) -> CompressionScheduler:
    """Build the scheduler of a YAML file.

    Args:
        model: whose parameters the schedule names.
        optimizer: needed by learning rate schedulers and training-time quantizers.
        filename: of the schedule.
        scheduler: to add the policies to, in place of a new one.
        resumed_epoch: the last finished epoch when learning rates go on without a saved state.

    Raises:
        ScheduleError: one line for each mistake, with file, section, entry and the fix.
    """
    return build_scheduler(load_schedule(filename), model, optimizer, scheduler, resumed_epoch)


def dict_config(
    model: nn.Module,
    optimizer: Optimizer | None,
    sched_dict: Mapping[str, Any],
    scheduler: CompressionScheduler | None = None,
    resumed_epoch: int | None = None,
) -> CompressionScheduler:
    """`file_config` for a schedule that is a dictionary already."""
    return build_scheduler(
        schedule_from_dict(sched_dict), model, optimizer, scheduler, resumed_epoch
    )


def parameter_names(model: nn.Module) -> dict[str, str]:
    """Every name of every parameter, the ties' too, to the first name."""
    maskers = create_model_masks_dict(model).values()
    return {name: masker.param_name for masker in maskers for name in masker.names}


def build_scheduler(
    schedule: Schedule,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    scheduler: CompressionScheduler | None = None,
    resumed_epoch: int | None = None,
) -> CompressionScheduler:
    """Build the policies of a checked schedule for a model. Raises as `file_config`."""
    shapes = {name: tuple(param.shape) for name, param in model.named_parameters()}
    check_parameters(schedule, parameter_names(model), shapes=shapes)
    scheduler = scheduler or CompressionScheduler(model)
    built: dict[tuple[str, str], ScheduledTrainingPolicy | Any] = {}
    # Pruners learn the model's layout before a quantizer takes its layers apart, and a quantizer
    # may replace parameters in the optimizer, which learning rates must see.
    order = sorted(schedule.policies, key=lambda policy: _ORDER.get(policy.kind, 0))
    for policy in order:
        component = schedule.component(policy)
        key = (policy.kind, policy.instance_name)
        try:
            if key not in built:
                begins = min(
                    other.run[0]
                    for other in schedule.policies
                    if (other.kind, other.instance_name) == key
                )
                built[key] = _build(policy, component, model, optimizer, resumed_epoch, begins)
            _add(scheduler, _policy(policy, built[key]), policy)
        except _MISTAKES as error:
            reason = one_line(error, 400).removeprefix(f"{policy.kind} '{component.name}': ")
            raise ScheduleError(
                f"schedule {one_line(schedule.source)}: {SECTIONS[policy.kind]}: "
                f"{one_line(component.name)}: {reason}"
            ) from error
    return scheduler


def _build(
    policy: PolicyEntry,
    component: Component,
    model: nn.Module,
    optimizer: Optimizer | None,
    resumed_epoch: int | None,
    begins: int,
) -> Any:
    name, arguments = component.name, component.arguments()
    if policy.kind == "pruner":
        if component.class_name == "StructureParameterPruner":
            arguments["model"] = model
        return getattr(pruning, component.class_name)(name=name, **arguments)
    if policy.kind == "regularizer":
        return getattr(regularization, component.class_name)(name=name, model=model, **arguments)
    if policy.kind == "quantizer":
        return quantizer_class(component.class_name)(model=model, optimizer=optimizer, **arguments)
    if optimizer is None:
        raise DistillerError(f"{component.class_name} needs the optimizer; pass it to file_config")
    # ReduceLROnPlateau does without.
    if resumed_epoch is not None and isinstance(component.args, LRArgs):
        arguments.setdefault("last_epoch", resumed_epoch)
    before = [dict(group) for group in optimizer.param_groups]
    ours = getattr(lr_schedulers, component.class_name, None)
    made = (ours or getattr(torch.optim.lr_scheduler, component.class_name))(optimizer, **arguments)
    if resumed_epoch is not None or begins > 0:
        # Torch sets the first rate as it is made; the epochs before the policy have their own, and
        # an optimizer that goes on has the rate of its next epoch.
        for group, kept in zip(optimizer.param_groups, before, strict=True):
            group.update(kept)
    return made


def quantizer_class(class_name: str) -> type[Any]:
    """A training-time quantizer by the name of its class."""
    module = importlib.import_module("lmbench.distiller.quantization")
    names = getattr(module, "__all__", None) or dir(module)
    known = [name for name in names if name.endswith("Quantizer")]
    found = getattr(module, class_name, None)
    if class_name not in known or not isinstance(found, type):
        raise DistillerError(f"unknown class '{class_name}' {did_you_mean(class_name, known)}")
    return found


def _policy(policy: PolicyEntry, instance: Any) -> ScheduledTrainingPolicy:
    arguments = policy.args.model_dump(exclude_unset=True) if policy.args else {}
    if policy.kind == "pruner":
        return PruningPolicy(instance, arguments)
    if policy.kind == "regularizer":
        return RegularizationPolicy(instance, **arguments)
    if policy.kind == "quantizer":
        return QuantizationPolicy(instance)
    return LRPolicy(instance)


def _add(
    scheduler: CompressionScheduler, built: ScheduledTrainingPolicy, policy: PolicyEntry
) -> None:
    if policy.epochs is not None:
        scheduler.add_policy(built, epochs=policy.epochs)
    else:
        scheduler.add_policy(
            built,
            starting_epoch=policy.starting_epoch,
            ending_epoch=policy.ending_epoch,
            frequency=policy.frequency or 1,
        )


def config_component_from_file_by_class(
    model: nn.Module, filename: str | Path, class_name: str, **extra_args: Any
) -> Any:
    """Build the one quantizer of a class that a YAML file defines, whatever its policies.

    Args:
        model: given to the constructor.
        filename: of the YAML file.
        class_name: the class to look for in ``quantizers``.
        extra_args: arguments that override those of the file.

    Raises:
        ScheduleError: when the file defines no such quantizer, or its arguments are wrong.
    """
    path = Path(filename)
    if not path.is_file():
        raise ScheduleError(f"schedule {one_line(path)}: there is no such file; check the path")
    data = read_yaml(path.read_bytes(), path.name)
    entries = data.get("quantizers") if isinstance(data, Mapping) else None
    for name, spec in entries.items() if isinstance(entries, Mapping) else ():
        if isinstance(spec, Mapping) and spec.get("class") == class_name:
            arguments = {key: value for key, value in spec.items() if key != "class"}
            try:
                return quantizer_class(class_name)(model, **{**arguments, **extra_args})
            except _MISTAKES as error:
                raise ScheduleError(
                    f"schedule {path.name}: quantizers: {one_line(name)}: {one_line(error, 400)}"
                ) from error
    raise ScheduleError(
        f"schedule {path.name}: quantizers: none has class {class_name}; add one or name another"
    )
