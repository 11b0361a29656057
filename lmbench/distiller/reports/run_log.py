"""A run's log file, and a record of the machine it ran on."""

from __future__ import annotations

import configparser
import logging
import logging.config
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch

from lmbench.distiller.errors import DistillerError

__all__ = ["RunLogger", "config_pylogger", "log_execution_env_state"]


class RunLogger(logging.Logger):
    """Python's root logger as `config_pylogger` leaves it.

    Attributes:
        logdir: the directory of this run.
        log_filename: the log in it.
    """

    logdir: str
    log_filename: str


class _RunFile(logging.FileHandler):
    """The log of one run; the next run closes it."""


def config_pylogger(
    log_cfg_file: str | Path | None,
    experiment_name: str | None,
    output_dir: str | Path = "logs",
    verbose: bool = False,
) -> RunLogger:
    """Make a directory for this run and have the root logger write to a file in it.

    Args:
        log_cfg_file: a file for `logging.config.fileConfig`, which may use ``%(logfilename)s``;
            where there is none, lines go to the standard output and to the run's file.
        experiment_name: stands before the date in the directory's name.
        output_dir: where the directory is made.
        verbose: also the lines for debugging.

    Raises:
        DistillerError: the configuration file cannot be used.
    """
    stamp = time.strftime("%Y.%m.%d-%H%M%S")
    name = stamp if experiment_name is None else f"{experiment_name}___{stamp}"
    logdir = Path(output_dir) / name
    logdir.mkdir(parents=True, exist_ok=True)
    filename = str(logdir / f"{name}.log")
    root = cast("RunLogger", logging.getLogger())
    if log_cfg_file is not None and Path(log_cfg_file).is_file():
        try:
            logging.config.fileConfig(
                log_cfg_file, defaults={"logfilename": filename}, disable_existing_loggers=False
            )
        except (KeyError, RuntimeError, ValueError, TypeError, configparser.Error) as error:
            raise DistillerError(
                f"{log_cfg_file}: is no configuration of Python's logging ({error}); mend it, or "
                "leave the file out"
            ) from error
    else:
        _log_to(root, filename)
    if verbose:
        root.setLevel(logging.DEBUG)
    root.logdir, root.log_filename = str(logdir), filename
    root.info("log file of this run: %s", Path(filename).resolve())
    return root


def _log_to(root: logging.Logger, filename: str) -> None:
    for handler in list(root.handlers):
        if isinstance(handler, _RunFile):
            root.removeHandler(handler)
            handler.close()
    handlers: list[logging.Handler] = [_RunFile(filename, encoding="utf-8")]
    if not root.handlers:
        handlers.append(logging.StreamHandler(sys.stdout))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s - %(message)s"))
        root.addHandler(handler)
    root.setLevel(logging.INFO)


def log_execution_env_state(
    config_paths: str | Path | Sequence[str | Path] | None = None,
    logdir: str | Path | None = None,
    gitroot: str | Path = ".",
) -> None:
    """Log what a run ran on, as debug lines of the logger ``app_cfg``.

    Args:
        config_paths: files, such as the schedule, to keep a copy of in ``configs`` of ``logdir``.
        logdir: of the run; without one nothing is copied.
        gitroot: the repository whose commit is logged.
    """
    logger = logging.getLogger("app_cfg")
    for what, value in (
        ("CPUs", os.cpu_count()),
        ("GPUs", torch.cuda.device_count()),
        ("CUDA", torch.version.cuda),
        ("kernel", platform.release()),
        ("Python", platform.python_version()),
        ("PyTorch", torch.__version__),
        ("numpy", np.__version__),
        ("git commit", _git("rev-parse", "HEAD", root=gitroot)),
        ("git changes", _git("status", "--porcelain", root=gitroot)),
        ("command line", " ".join(sys.argv)),
    ):
        logger.debug("%s: %s", what, value)
    if config_paths is None or logdir is None:
        return
    if isinstance(config_paths, str | Path):
        config_paths = (config_paths,)
    copies = Path(logdir) / "configs"
    copies.mkdir(parents=True, exist_ok=True)
    for path in map(Path, config_paths):
        if not (copies / path.name).exists():
            shutil.copy(path, copies)


def _git(*command: str, root: str | Path) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *command], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip() or "none"
