"""What the user has to say of a cluster: ``places.toml`` in the user's config folder.

::

    [slurm]
    partition = "gpu"
    time = "12:00:00"
    setup = ["module load cuda"]

    [ray]
    address = "head-node:6379"
    gpus = 1
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lmbench.errors import LmbenchError
from lmbench.user_folder import user_folder

__all__ = ["PlaceSettings", "RaySettings", "SlurmSettings", "load_place_settings", "places_path"]

_LARGEST = 256 * 1024
_WORD = r"^[\w.,:@+-]*$"


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _RunSettings(_Settings):
    """What a run is given, on whichever cluster."""

    gpus: Annotated[int, Field(ge=0, le=16)] = 0
    cpus: Annotated[int, Field(ge=1, le=1024)] = 1
    setup: list[str] = Field(default_factory=list)
    """Lines of bash that come before the run, such as ``module load cuda``."""


class SlurmSettings(_RunSettings):
    """What ``sbatch`` is asked for each run; what is left out is the cluster's default."""

    partition: Annotated[str, Field(pattern=_WORD)] = ""
    account: Annotated[str, Field(pattern=_WORD)] = ""
    time: Annotated[str, Field(pattern=r"^(\d+-)?\d+(:\d\d){0,2}$|^$")] = ""
    """The limit of a run, as Slurm writes it: minutes, ``H:MM:SS`` or ``D-HH``. A run that comes to
    it saves, and goes on in a new slot."""


class RaySettings(_RunSettings):
    """Which Ray cluster, and what each run is given there."""

    address: Annotated[str, Field(pattern=r"^([\w.-]+|\[[0-9A-Fa-f:]+\]):\d{1,5}$|^$")] = ""
    """``HOST:PORT`` of the head node; "" for the cluster that this machine belongs to, or that
    ``RAY_ADDRESS`` names."""


class PlaceSettings(_Settings):
    """A section for each kind of cluster."""

    slurm: SlurmSettings = SlurmSettings()
    ray: RaySettings = RaySettings()


def places_path() -> Path:
    """Where the file is, whether it is there or not."""
    return user_folder() / "places.toml"


def load_place_settings() -> PlaceSettings:
    """All sections, defaults for what is not there.

    Raises:
        LmbenchError: names the file, the field and what is wrong.
    """
    path = places_path()
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return PlaceSettings()
    except OSError as error:
        raise LmbenchError(f"{path}: cannot be read ({error.strerror})") from None
    return parse_place_settings(data, path)


def parse_place_settings(data: bytes, path: Path) -> PlaceSettings:
    """What `load_place_settings` gives for a file that holds `data`."""
    if len(data) > _LARGEST:
        raise LmbenchError(f"{path}: too large for a settings file")
    try:
        document = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise LmbenchError(f"{path}: cannot be read as TOML ({error})") from None
    try:
        return PlaceSettings.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        section, *rest = map(str, first["loc"])
        if first["type"] != "extra_forbidden":
            field = ".".join([section, *rest])
            raise LmbenchError(f"{path}: field '{field}': {first['msg'].lower()}") from None
        if not rest:
            raise LmbenchError(
                f"{path}: {section!r} is unknown: the sections are [slurm] and [ray]"
            ) from None
        known = ", ".join((SlurmSettings if section == "slurm" else RaySettings).model_fields)
        raise LmbenchError(
            f"{path}: field '{section}.{rest[0]}': is unknown: use {known}"
        ) from None
