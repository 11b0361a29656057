"""The files that a run is started with: a schedule, or quantization settings and statistics.

They are copied into its folder, so that editing what they came from changes nothing about a run
that waits or is resumed.
"""

from __future__ import annotations

import os
from pathlib import Path

from lmbench.config import Config, QuantizeConfig, TrainConfig
from lmbench.distiller.schedules.preset_files import find_schedule
from lmbench.errors import LmbenchError
from lmbench.session.files import write_atomic
from lmbench.session.store import Home, Run
from lmbench.user_folder import expanded

__all__ = [
    "SCHEDULE_FILE",
    "SETTINGS_FILE",
    "STATS_FILE",
    "attach",
    "name_of_file",
    "own_files",
    "schedule_file",
    "settings_file",
    "stats_file",
]

SCHEDULE_FILE = "schedule.yaml"
SETTINGS_FILE = "quantization.yaml"
STATS_FILE = "stats.yaml"
"""Activation statistics: those that a quantize run was given, or found."""


def schedule_file(name: str, home: Home) -> Path:
    """A schedule by path (looked for in the current folder, then in the working folder) or preset.

    Raises:
        ScheduleError: there is none.
    """
    name = _without_tilde(name)
    return _in_home(name, home) or find_schedule(name)


def name_of_file(path: Path, home: Home) -> str:
    """What a setting calls a file, for which `schedule_file` and its like find it: its path from
    the working folder; all of it for a file elsewhere, and where the current folder, in which is
    looked first, has another file of that name."""
    short = path.relative_to(home.path) if path.is_relative_to(home.path) else path
    return str(path if short.is_file() and short.resolve() != path.resolve() else short)


def settings_file(name: str, home: Home) -> Path:
    """Quantization settings by path, looked for in the current folder, then in the working folder.

    Raises:
        LmbenchError: there is no such file.
    """
    return _found("--config", name, home)


def stats_file(name: str, home: Home) -> Path:
    """Activation statistics by path, looked for as `settings_file` looks.

    Raises:
        LmbenchError: there is no such file.
    """
    return _found("--stats", name, home)


def _found(flag: str, name: str, home: Home) -> Path:
    name = _without_tilde(name)
    path = _in_home(name, home) or Path(name)
    if not path.is_file():
        raise LmbenchError(f"{flag} {name}: there is no such file here or in {home.path}")
    return path


def _without_tilde(name: str) -> str:
    # Of a preset's name no path is made: ./small-80 is a file.
    return str(expanded(name)) if name.startswith("~") else name


def _in_home(name: str, home: Home) -> Path | None:
    beside = home.path / name
    # What no path can be, as too long a name, is no file.
    return beside if not os.path.isfile(name) and os.path.isfile(beside) else None  # noqa: PTH113


def own_files(config: Config, home: Home) -> dict[str, bytes]:
    """What the files that the settings name hold now, under the names that a run keeps them by.

    Raises:
        LmbenchError: there is no such file of settings or statistics.
        ScheduleError: there is no such schedule.
    """
    if isinstance(config, TrainConfig) and config.compress is not None:
        return {SCHEDULE_FILE: schedule_file(config.compress, home).read_bytes()}
    if not isinstance(config, QuantizeConfig):
        return {}
    files: dict[str, bytes] = {}
    if config.config is not None:
        files[SETTINGS_FILE] = settings_file(config.config, home).read_bytes()
    if config.stats is not None:
        files[STATS_FILE] = stats_file(config.stats, home).read_bytes()
    return files


def attach(run: Run, files: dict[str, bytes]) -> None:
    """Write them into the run's folder."""
    for name, data in files.items():
        write_atomic(run.path / name, data)
