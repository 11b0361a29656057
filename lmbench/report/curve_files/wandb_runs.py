"""Curves as offline runs of Weights & Biases: nothing is sent, `wandb sync` uploads them."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from lmbench.errors import LmbenchError
from lmbench.report.curve_files.points import points_of
from lmbench.session import Run
from lmbench.session.files import new_folder

__all__ = ["write_wandb"]

_step = attrgetter("step")

# Nothing of the machine, the code or the packages on it, and no process that samples them.
_SETTINGS: dict[str, Any] = {
    "mode": "offline",
    "console": "off",
    "silent": True,
    "disable_git": True,
    "disable_code": True,
    "disable_job_creation": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "x_disable_viewer": True,
    "x_save_requirements": False,
}


def write_wandb(runs: Sequence[Run], folder: Path) -> None:
    """Write a folder with an ``offline-run-…`` for each run, which ``wandb sync`` uploads where the
    user asks it to; the project is called lmbench, a group is a session.

    Raises:
        LmbenchError: the package `wandb` is missing, it fails, or a run has no curves.
        OSError: the folder is there already, or cannot be written.
    """
    with (
        _own_environment(),
        new_folder(folder) as filling,
        tempfile.TemporaryDirectory(dir=filling) as work,
    ):
        for run in runs:
            _write_run(run, work)
        for made in Path(work, "wandb").glob("offline-run-*"):
            # Beside them are links with whole paths, and logs.
            made.rename(filling / made.name)


def _write_run(run: Run, work: str) -> None:
    try:
        wandb = importlib.import_module("wandb")
    except ImportError as error:
        raise LmbenchError(
            f"--format wandb needs the package ({error}): pip install 'lmbench[wandb]'"
        ) from None
    record, points = run.read(), points_of(run)
    try:
        with wandb.init(
            project="lmbench",
            group=run.session.name,
            name=run.ref,
            job_type=record.kind,
            config=record.config,
            settings=wandb.Settings(root_dir=work, **_SETTINGS),
        ) as made:
            # It takes no step that is before the last one.
            for step, at in groupby(sorted(points, key=_step), _step):
                row = {}
                for point in at:
                    row |= {point.curve: point.value, "epoch": point.epoch}
                    row["_timestamp"] = point.time
                made.log(row, step=step)
            made.summary.update({k: v for k, v in record.results.items() if v is not None})
    except wandb.Error as error:
        raise LmbenchError(f"--format wandb: wandb failed ({error})") from None


@contextmanager
def _own_environment() -> Iterator[None]:
    """Without the user's settings of wandb, which could turn it online, and without its reports."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as cache:
        try:
            for name in [name for name in before if name.startswith("WANDB_")]:
                del os.environ[name]
            os.environ |= {"WANDB_ERROR_REPORTING": "false", "WANDB_CACHE_DIR": cache}
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
