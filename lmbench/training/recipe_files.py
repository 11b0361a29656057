"""Recipes: files of settings that belong together, which a training is asked for by name. No torch.

Such a file has ``version: 1`` and ``settings:``, a mapping of a training's settings by the names
that they have in `lmbench.config`. Those that a command names itself go over them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lmbench.config import TrainConfig
from lmbench.config.setting import first_mistake
from lmbench.distiller.errors import ScheduleError, did_you_mean
from lmbench.distiller.yaml_values import YamlPlaces, one_line, read_yaml
from lmbench.errors import LmbenchError
from lmbench.user_folder import expanded

__all__ = ["recipe_names", "recipe_settings", "recipe_summary"]

_FOLDER = Path(__file__).parent / "recipes"
_KEYS = ("version", "settings")


def recipe_names() -> list[str]:
    """The names of the recipes that come with the package, the plain one first."""
    return sorted((path.stem for path in _FOLDER.glob("*.yaml")), key=lambda n: (n != "plain", n))


def recipe_summary(name: str) -> str:
    """The first sentence of the comment at the head of one of them."""
    lines = (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    head = [line.lstrip("# ") for line in lines if line.startswith("#")]
    return " ".join(head).partition(". ")[0]


def recipe_settings(name_or_path: str) -> dict[str, Any]:
    """The settings of a recipe: of a file by its path, or of one that comes with the package.

    Raises:
        LmbenchError: there is none, or a line for each mistake in it.
    """
    path = expanded(Path(name_or_path))
    if not path.is_file():
        if name_or_path not in recipe_names():
            hint = did_you_mean(name_or_path, recipe_names(), "recipes")
            raise LmbenchError(f"--recipe {one_line(name_or_path)}: neither a file nor one {hint}")
        path = _FOLDER / f"{name_or_path}.yaml"
    return _read(path)


def _read(path: Path) -> dict[str, Any]:
    source = f"recipe {one_line(path.name)}"
    try:
        data = path.read_bytes()
        document = read_yaml(data, path.name, kind="recipe")
        places = YamlPlaces(data.decode("utf-8-sig"))
    except ScheduleError as error:
        raise LmbenchError(*error.problems) from None
    except UnicodeDecodeError:
        raise LmbenchError(f"{source}: is not UTF-8; save it as that") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise LmbenchError(f"{source}: cannot be read ({reason}); check the path") from None
    if not isinstance(document, Mapping):
        raise LmbenchError(f"{source}: is not a mapping; it has version: and settings:")
    wrong = sorted((places.line(where), what) for where, what in _mistakes(document))
    if wrong:
        raise LmbenchError(*(f"{source}: line {line}: {one_line(what)}" for line, what in wrong))
    return dict(document["settings"])


def _mistakes(document: Mapping[Any, Any]) -> Iterator[tuple[list[object], str]]:
    """What is wrong with each entry, and the path to it."""
    for key in document:
        if key not in _KEYS:
            yield [key], f"'{key}' is not a key of a recipe {did_you_mean(key, _KEYS)}"
    version = document.get("version")
    if version != 1 or isinstance(version, bool):
        yield ["version"], "write version: 1"
    settings = document.get("settings")
    if not isinstance(settings, Mapping):
        yield ["settings"], "settings: is to be a mapping of settings, as lr: 20"
        return
    for name, value in settings.items():
        mistake = first_mistake(TrainConfig, {str(name): value})
        if mistake is not None:
            yield ["settings", name], mistake
