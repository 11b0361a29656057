"""Settings of a quantization from YAML files: the user's, and the presets. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmbench.distiller.quantization.errors import QuantizationError
from lmbench.distiller.quantization.settings import QuantSettings
from lmbench.distiller.yaml_values import read_yaml

_FOLDER = Path(__file__).parent / "presets"
_PUBLISHED = (
    *("fp16", "int8-symmetric", "int8-asymmetric-per-channel"),
    *("int8-avg", "mixed-eltwise-fp16", "mixed-avg"),
)


def preset_names() -> list[str]:
    """The names of the presets, the published table's rows first."""
    return [*_PUBLISHED, *sorted({path.stem for path in _FOLDER.glob("*.yaml")} - {*_PUBLISHED})]


def preset_description(name: str) -> str:
    """What a preset does, in a line."""
    return str(_read(_FOLDER / f"{name}.yaml").get("description", ""))


def load_preset(name: str) -> QuantSettings:
    """A preset by name.

    Raises:
        QuantizationError: no preset of this name.
    """
    if name not in preset_names():
        known = ", ".join(preset_names())
        raise QuantizationError(f"preset {name!r} is unknown: use one of {known}")
    return load_settings(_FOLDER / f"{name}.yaml")


def load_settings(path: str | Path) -> QuantSettings:
    """Settings from a YAML file.

    Raises:
        QuantizationError: no such file, not YAML, or a wrong setting.
    """
    return QuantSettings.from_dict(_read(Path(path)), str(path))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise QuantizationError(f"{path}: cannot be read: {error.strerror}") from None
    entries = read_yaml(text, str(path), kind="quantization settings", error=QuantizationError)
    if not isinstance(entries, Mapping):
        raise QuantizationError(f"{path}: expected a mapping of settings")
    return entries
