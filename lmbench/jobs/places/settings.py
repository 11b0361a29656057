"""What the user has to say of a cluster: ``places.toml`` in the user's config folder.

::

    [slurm]
    partition = "gpu"
    time = "12:00:00"
    setup = ["module load cuda"]
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lmbench.config.user_folder import user_folder
from lmbench.errors import LmbenchError

__all__ = ["SlurmSettings", "load_slurm_settings", "places_path"]

_LARGEST = 256 * 1024
_WORD = r"^[\w.,:@+-]*$"


class SlurmSettings(BaseModel):
    """What ``sbatch`` is asked for each run; what is left out is the cluster's default."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    partition: Annotated[str, Field(pattern=_WORD)] = ""
    account: Annotated[str, Field(pattern=_WORD)] = ""
    time: Annotated[str, Field(pattern=r"^(\d+-)?\d+(:\d\d){0,2}$|^$")] = ""
    """The limit of a run, as Slurm writes it: minutes, ``H:MM:SS`` or ``D-HH``. A run that comes to
    it saves, and goes on in a new slot."""
    gpus: Annotated[int, Field(ge=0, le=16)] = 0
    cpus: Annotated[int, Field(ge=1, le=1024)] = 1
    setup: list[str] = Field(default_factory=list)
    """Lines of bash that come before the run, such as ``module load cuda``."""


def places_path() -> Path:
    """Where the file is, whether it is there or not."""
    return user_folder() / "places.toml"


def load_slurm_settings() -> SlurmSettings:
    """The section ``[slurm]``, defaults where there is none.

    Raises:
        LmbenchError: names the file, the field and what is wrong.
    """
    path = places_path()
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return SlurmSettings()
    except OSError as error:
        raise LmbenchError(f"{path}: cannot be read ({error.strerror})") from None
    return parse_slurm_settings(data, path)


def parse_slurm_settings(data: bytes, path: Path) -> SlurmSettings:
    """What `load_slurm_settings` gives for a file that holds `data`."""
    if len(data) > _LARGEST:
        raise LmbenchError(f"{path}: too large for a settings file")
    try:
        document = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise LmbenchError(f"{path}: cannot be read as TOML ({error})") from None
    unknown = [section for section in document if section != "slurm"]
    if unknown:
        raise LmbenchError(f"{path}: {unknown[0]!r} is unknown: the only section is [slurm]")
    try:
        return SlurmSettings.model_validate(document.get("slurm", {}))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(["slurm", *map(str, first["loc"])])
        if first["type"] == "extra_forbidden":
            known = ", ".join(SlurmSettings.model_fields)
            raise LmbenchError(f"{path}: field '{field}': is unknown: use {known}") from None
        raise LmbenchError(f"{path}: field '{field}': {first['msg'].lower()}") from None
