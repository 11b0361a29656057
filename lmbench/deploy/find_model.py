"""The model that a user means: a run, a packed file, a file of weights, or a folder of one."""

from __future__ import annotations

from pathlib import Path

import torch

from lmbench.deploy.load_model import load_file, load_run
from lmbench.deploy.loaded_model import Loaded
from lmbench.deploy.packed_file.writing import is_packed, load_packed
from lmbench.session import Home, Run

__all__ = ["open_model"]


def open_model(
    ref: str,
    home: Home,
    session: str,
    checkpoint: str = "best",
    device: str | torch.device = "cpu",
) -> tuple[Loaded, Run | None]:
    """Load what `ref` names, with its run where it is one.

    Args:
        ref: a run as `Home.find_run` reads it, a packed file, a ``.safetensors`` file, or a folder
            that holds a ``model.safetensors``.

    Raises:
        LmbenchError: there is no such model, or its files are damaged.
    """
    path = Path(ref).expanduser()
    if path.is_file():
        load = load_packed if is_packed(path) else load_file
        return load(path, device), None
    if (path / "model.safetensors").is_file() and not (path / "run.json").is_file():
        return load_file(path, device), None
    run = home.find_run(ref, session, with_model=True)
    return load_run(run, checkpoint, device), run
