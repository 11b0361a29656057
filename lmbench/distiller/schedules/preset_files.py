"""The schedules that come with the package. No torch here."""

from __future__ import annotations

import os
from pathlib import Path

from lmbench.distiller.errors import ScheduleError, did_you_mean
from lmbench.distiller.schedules.checking import Schedule, load_schedule

_FOLDER = Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    """The names of the presets, in order."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def preset_path(name: str) -> Path:
    """The file of a preset.

    Raises:
        ScheduleError: when there is none of that name, with the closest ones.
    """
    if name not in preset_names():
        raise ScheduleError(f"schedule '{name}': no preset of that name {_hint(name)}")
    return _FOLDER / f"{name}.yaml"


def preset_summary(name: str) -> str:
    """The comment at the head of a preset: what it leaves and for how long a training it is."""
    lines = []
    for line in preset_path(name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def find_schedule(name_or_path: str | Path) -> Path:
    """The file that ``--schedule`` means: a path if there is one, else a preset.

    Raises:
        ScheduleError: when it is neither.
    """
    path = Path(name_or_path)
    if os.path.isfile(path):  # noqa: PTH113
        return path
    if str(name_or_path) in preset_names():
        return preset_path(str(name_or_path))
    raise ScheduleError(
        f"schedule '{name_or_path}': neither a file nor a preset {_hint(str(name_or_path))}"
    )


def load_preset(name: str) -> Schedule:
    """The checked schedule of a preset. Raises as `preset_path`."""
    return load_schedule(preset_path(name))


def _hint(name: str) -> str:
    return did_you_mean(name, preset_names(), "closest presets")
