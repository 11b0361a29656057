"""Checkpoints by the original's calls: one safetensors file of tensors and JSON, no pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from lmbench.distiller.errors import DistillerError
from lmbench.distiller.schedules.nested_state import join_state, split_state
from lmbench.distiller.schedules.scheduler import CompressionScheduler
from lmbench.distiller.script_helpers import normalize_module_name

__all__ = ["load_checkpoint", "load_lean_checkpoint", "save_checkpoint"]

_KEY = "checkpoint"


def save_checkpoint(
    epoch: int,
    arch: str,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    scheduler: CompressionScheduler | None = None,
    extras: Mapping[str, Any] | None = None,
    is_best: bool = False,
    name: str | None = None,
    dir: str | Path = ".",
) -> Path:
    """Write ``checkpoint.pth.tar``, or ``NAME_checkpoint.pth.tar``, into a directory.

    Args:
        epoch: that has ended.
        arch: what the model is called.
        model: its parameters and buffers are written.
        optimizer: one of torch's.
        scheduler: its state is written.
        extras: tensors and JSON values to keep beside them.
        is_best: write ``best.pth.tar`` or ``NAME_best.pth.tar``, too.
        name: before the file's name.
        dir: must exist.

    Raises:
        DistillerError: no such directory, an extra that is neither tensor nor JSON, or a file that
            cannot be written; one of that name is then as it was.
    """
    folder = Path(dir)
    if not folder.is_dir():
        raise DistillerError(f"save_checkpoint: {folder} is not a directory; make it first")
    state: dict[str, Any] = {
        "epoch": epoch,
        "arch": arch,
        "state_dict": dict(model.state_dict()),
        "extras": dict(extras or {}),
    }
    if optimizer is not None:
        state["optimizer_type"] = type(optimizer).__name__
        state["optimizer_state_dict"] = optimizer.state_dict()
    if scheduler is not None:
        state["compression_scheduler"] = scheduler.state_dict()
    tensors, values = split_state(state)
    try:
        text = json.dumps(values)
    except TypeError as error:
        raise DistillerError(
            f"save_checkpoint: {error}; keep tensors, numbers, text, lists and dictionaries"
        ) from None
    prefix = "" if name is None else f"{name}_"
    path = folder / f"{prefix}checkpoint.pth.tar"
    for target in (path, folder / f"{prefix}best.pth.tar") if is_best else (path,):
        # Beside it first: one that cannot be written leaves the last one whole.
        beside = target.with_name(f".{target.name}.new")
        try:
            # Tied tensors are copied: the format holds each on its own.
            save_file({key: value.clone() for key, value in tensors.items()}, beside, {_KEY: text})
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
            beside.replace(target)
        except (OSError, SafetensorError) as error:
            beside.unlink(missing_ok=True)
            raise DistillerError(f"save_checkpoint: {target} cannot be written: {error}") from None
    return path


def load_checkpoint(
    model: nn.Module,
    chkpt_file: str | Path,
    optimizer: Optimizer | None = None,
    model_device: torch.device | str | None = None,
    lean_checkpoint: bool = False,
    strict: bool = False,
) -> tuple[nn.Module, CompressionScheduler | None, Optimizer | None, int]:
    """Read what `save_checkpoint` wrote.

    Args:
        model: gets the weights.
        chkpt_file: the file.
        optimizer: not used; the one of the checkpoint is made anew.
        model_device: where the model goes.
        lean_checkpoint: read the weights alone.
        strict: refuse one with more in it than the model has.

    Returns:
        The model; a scheduler with the masks, to which `file_config` adds the policies; the
        optimizer; the epoch to go on with.

    Raises:
        OSError: no such file.
        DistillerError: the file is none of ours, or of another model.
    """
    state = _read(Path(chkpt_file))
    weights, needed = state["state_dict"], model.state_dict().keys()
    plain = {normalize_module_name(name): value for name, value in weights.items()}
    # Of a model in `nn.DataParallel`, for one that is not.
    wrapped = not needed <= weights.keys() and needed <= plain.keys()
    if wrapped:
        weights = plain
    if missing := needed - weights.keys():
        raise DistillerError(
            f"{chkpt_file}: is not of this model: it has no {', '.join(sorted(missing)[:3])}"
            + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        )
    try:
        model.load_state_dict(weights, strict=strict)
    except RuntimeError as error:
        raise DistillerError(f"{chkpt_file}: is not of this model ({error})") from None
    if model_device is not None:
        model.to(model_device)
    if lean_checkpoint:
        return model, None, None, 0
    scheduler = None
    if "compression_scheduler" in state:
        scheduler = CompressionScheduler(model)
        saved = state["compression_scheduler"]
        masks = {key: saved[key] for key in ("masks_dict", "mask_parts") if key in saved}
        scheduler.load_state_dict(masks, normalize_dataparallel_keys=wrapped)
    made = None
    if "optimizer_state_dict" in state:
        made = _optimizer(model, state["optimizer_type"], state["optimizer_state_dict"])
    return model, scheduler, made, int(state["epoch"]) + 1


def load_lean_checkpoint(
    model: nn.Module, chkpt_file: str | Path, model_device: torch.device | str | None = None
) -> nn.Module:
    """Read the weights of a checkpoint alone. Raises as `load_checkpoint`."""
    return load_checkpoint(model, chkpt_file, model_device=model_device, lean_checkpoint=True)[0]


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no checkpoint is there")
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {})[_KEY]
            tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return join_state(tensors, json.loads(text))
    except (SafetensorError, KeyError, ValueError, AttributeError, RecursionError) as error:
        raise DistillerError(
            f"{path}: is not a checkpoint of lmbench ({error}); one of the original is a pickle, "
            "which is never loaded: save its state_dict with safetensors where you trust it"
        ) from None


def _optimizer(model: nn.Module, kind: str, state: Mapping[str, Any]) -> Optimizer:
    made = getattr(torch.optim, kind, None)
    if not (isinstance(made, type) and issubclass(made, Optimizer)):
        raise DistillerError(f"checkpoint: torch.optim has no optimizer {kind!r}")
    groups = state["param_groups"]
    if len(groups) != 1:
        raise DistillerError(
            f"checkpoint: an optimizer of {len(groups)} groups of parameters; make it by hand"
        )
    ours, theirs = sum(1 for _ in model.parameters()), len(groups[0]["params"])
    if ours != theirs:
        raise DistillerError(
            f"checkpoint: an optimizer of {theirs} of the model's {ours} parameters; make it by "
            "hand"
        )
    optimizer = made(model.parameters(), lr=groups[0]["lr"])  # pyright: ignore[reportCallIssue]
    entries = {int(key): value for key, value in state["state"].items()}
    optimizer.load_state_dict({"state": entries, "param_groups": groups})
    return optimizer
