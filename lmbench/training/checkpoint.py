"""Checkpoints: weights for everyone, and all that an exact resume needs for the trainer.

A folder (``last/`` or ``best/``) holds ``model.safetensors`` (tied tensors once) and
``meta.json``; ``last/`` holds ``trainer.safetensors`` and ``trainer.json`` too. Where the model
is quantized while it trains, ``model.safetensors`` has the quantized values under the model's own
names, and ``trained.safetensors`` the module as it trains: floats, ranges, bounds; where weights
are averaged, ``last/`` has the averages in the one and the raw weights in the other. The folder is
written beside and swapped in whole, so a reader never sees a half of one. No pickle anywhere.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lmbench.errors import RESUME, LmbenchError, os_error_line
from lmbench.model.rnn import shared_names
from lmbench.session.files import (
    drop_fresh,
    fresh_folder,
    read_json,
    swap_in,
    write_json,
)
from lmbench.session.store import TRAINED_FILE

__all__ = [
    "checkpoint_step",
    "load_generators",
    "load_trained",
    "load_weights",
    "read_checkpoint",
    "read_trained",
    "save_generators",
    "write_checkpoint",
]

CHECKPOINT_VERSION = 1
MODEL_FILE = "model.safetensors"


def write_checkpoint(
    folder: Path,
    model: nn.Module,
    meta: Mapping[str, Any],
    *,
    trained: nn.Module | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    state: Mapping[str, Any] | None = None,
    staging: Path | None = None,
) -> None:
    """Replace the checkpoint `folder` by a new one, whole.

    Args:
        folder: ``RUN/last`` or ``RUN/best``.
        model: its parameters and buffers are written, each tied tensor once.
        meta: JSON-able facts about the checkpoint (step, epoch, losses).
        trained: the module as it trains, where `model` is what quantizing or averaging makes of it.
        tensors: the trainer's tensors (optimizer, hidden state, masks, generators).
        state: the rest of the trainer's state, JSON-able.
        staging: where it is written first; None for beside the old one.

    Raises:
        LmbenchError: the disk is full or not writable; the old checkpoint is still whole.
    """
    try:
        fresh = fresh_folder(folder, staging)
        _write_module(fresh / MODEL_FILE, model)
        if trained is not None:
            _write_module(fresh / TRAINED_FILE, trained)
        if tensors is not None:
            _write_tensors(fresh / "trainer.safetensors", tensors, {})
        if state is not None:
            write_json(fresh / "trainer.json", {"version": CHECKPOINT_VERSION, **state})
        # The last one: writing it syncs the folder.
        write_json(fresh / "meta.json", {"version": CHECKPOINT_VERSION, **meta})
        swap_in(fresh, folder)
    except OSError as error:
        # Half a checkpoint is of no use, and its room is needed for the words about it.
        drop_fresh(folder, staging)
        then = f"{RESUME} from the checkpoint before" if folder.exists() else RESUME
        line = os_error_line(error, "writing the checkpoint", file=folder, then=then)
        raise LmbenchError(line) from error


def _write_module(path: Path, module: nn.Module) -> None:
    tied = shared_names(module)
    weights = {k: v.contiguous() for k, v in module.state_dict().items() if k not in tied}
    _write_tensors(path, weights, {f"tied.{k}": v for k, v in tied.items()})


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata or None)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The trainer's tensors and state from ``last/``.

    Raises:
        LmbenchError: missing or damaged; names the file.
    """
    mapped = _read_tensors(folder / "trainer.safetensors")
    state = read_json(folder / "trainer.json", version=CHECKPOINT_VERSION)
    # A training keeps some of them, and NFS removes no folder with a file that is still mapped.
    return {name: tensor.clone() for name, tensor in mapped.items()}, state


def checkpoint_step(folder: Path) -> int:
    """The step that a checkpoint is of, 0 where that was not noted.

    Raises:
        LmbenchError: ``meta.json`` is missing or damaged.
    """
    step = read_json(folder / "meta.json", version=CHECKPOINT_VERSION).get("step")
    return step if isinstance(step, int) else 0


def load_trained(model: nn.Module, folder: Path) -> None:
    """Load the module as it trained, which is the model itself where no quantizer was in it.

    Raises:
        LmbenchError: damaged, or of another shape.
    """
    own = folder / TRAINED_FILE
    load_weights(model, own if own.is_file() else folder / MODEL_FILE)


def read_trained(folder: Path) -> dict[str, Tensor]:
    """Parameters and buffers of the module as it trained; none where it is the model itself.

    Raises:
        LmbenchError: damaged; names the file.
    """
    own = folder / TRAINED_FILE
    return _read_tensors(own) if own.is_file() else {}


def load_weights(model: nn.Module, path: Path) -> None:
    """Load ``model.safetensors`` into a model of the same shape; tied tensors stay tied.

    Raises:
        LmbenchError: damaged, or of another shape; names the first tensor that does not fit.
    """
    weights = _read_tensors(path)
    for alias, kept in shared_names(model).items():
        if kept in weights:
            weights.setdefault(alias, weights[kept])
        elif alias in weights:
            weights[kept] = weights[alias]
    own = model.state_dict()
    for name, tensor in own.items():
        if name not in weights:
            raise LmbenchError(f"{path}: tensor '{name}' is missing")
        if weights[name].shape != tensor.shape:
            raise LmbenchError(
                f"{path}: tensor '{name}' is {list(weights[name].shape)}, "
                f"but this model's is {list(tensor.shape)}"
            )
    model.load_state_dict({name: weights[name] for name in own})


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, RuntimeError, SafetensorError) as error:
        # Torch maps the file, and calls what the system says to that a RuntimeError.
        raise LmbenchError(f"{path}: cannot be read as safetensors ({error})") from None


def save_generators(device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of every random generator: python's, numpy's, torch's, and the GPU's where used."""
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=False)
    tensors = {
        "generator.torch": torch.get_rng_state(),
        "generator.numpy": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
    }
    if device.type == "cuda":
        tensors["generator.cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        tensors["generator.mps"] = torch.mps.get_rng_state()
    state = {
        "python": [version, list(words), gauss],
        "numpy": {
            "pos": int(numpy_state["state"]["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
    }
    return tensors, state


def load_generators(
    tensors: Mapping[str, Tensor], state: Mapping[str, Any], device: torch.device
) -> None:
    """Put every generator back to where `save_generators` found it."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    numpy_state = {
        "bit_generator": "MT19937",
        "state": {
            "key": tensors["generator.numpy"].numpy().astype(np.uint32),
            "pos": state["numpy"]["pos"],
        },
        "has_gauss": state["numpy"]["has_gauss"],
        "gauss": state["numpy"]["gauss"],
    }
    np.random.set_state(numpy_state)
    torch.set_rng_state(tensors["generator.torch"])
    if device.type == "cuda" and "generator.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["generator.cuda"], device)
    if device.type == "mps" and "generator.mps" in tensors:
        torch.mps.set_rng_state(tensors["generator.mps"])
