"""The user's own settings of the workbench: theme, motion, keys. One file, for all sessions.

``workbench.yaml`` in the user's config folder (``$LMBENCH_CONFIG`` where it is set)::

    theme: dark          # dark, light, contrast, ansi
    motion: true         # false: nothing glides
    notify: false        # true: the terminal notifies when a run ends
    keys:
      main.new: n,ctrl+n # an action's id and its keys

What is wrong in it costs nothing but that line: the rest holds, and the workbench says what.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lmbench.errors import LmbenchError
from lmbench.session.files import write_atomic
from lmbench.tui.bench.themes import DEFAULT_THEME, THEMES
from lmbench.user_folder import user_folder

__all__ = [
    "Settings",
    "lists_keys",
    "load_settings",
    "save_settings",
    "settings_path",
    "unknown_keys",
    "write_keys",
]

_PREFIX = "lmbench-"
_THEMES = tuple(theme.name.removeprefix(_PREFIX) for theme in THEMES)
RENAMED = {"lab.price": "lab.evaluate", "lab.take": "lab.load", "lab.forget": "lab.remove"}
"""Actions by the names that settings files of earlier versions have for them."""
_LARGEST = 256 * 1024


@dataclass(frozen=True)
class Settings:
    """`keys` maps a binding's id to its keys, as Textual names them; `problems` are lines about
    what could not be taken from the file."""

    theme: str = DEFAULT_THEME
    motion: bool = True
    notify: bool = False
    keys: Mapping[str, str] = field(default_factory=dict)
    path: Path | None = None
    problems: tuple[str, ...] = ()


def settings_path() -> Path:
    """Where the file is, whether it is there or not."""
    return user_folder() / "workbench.yaml"


def load_settings(path: Path) -> Settings:
    """The settings of a file; defaults where there is none, or for what is wrong in it."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return Settings(path=path)
    except OSError as error:
        return Settings(path=path, problems=(f"{path}: cannot be read ({error.strerror})",))
    if len(text) > _LARGEST:
        return Settings(path=path, problems=(f"{path}: too large for a settings file",))
    import yaml

    try:
        document = yaml.safe_load(text) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        reason = getattr(error, "problem", None) or "not valid YAML"
        return Settings(path=path, problems=(f"{path}:{line} {reason}",))
    if not isinstance(document, Mapping):
        return Settings(path=path, problems=(f"{path}: write theme:, motion:, notify: and keys:",))
    return _judged(path, document)


def _judged(path: Path, document: Mapping[Any, Any]) -> Settings:
    settings = Settings(path=path)
    problems = []
    for name in document:
        if name not in ("theme", "motion", "notify", "keys"):
            known = "theme, motion, notify or keys"
            problems.append(f"{path}: '{name}' is unknown: use {known}")
    theme = document.get("theme")
    if theme in _THEMES:
        settings = replace(settings, theme=f"{_PREFIX}{theme}")
    elif theme is not None:
        problems.append(f"{path}: theme: {theme!r} is none of {', '.join(_THEMES)}")
    for name in ("motion", "notify"):
        value = document.get(name, getattr(settings, name))
        if isinstance(value, bool):
            settings = replace(settings, **{name: value})
        else:
            problems.append(f"{path}: {name}: {value!r} is neither true nor false")
    keys = document.get("keys") or {}
    # YAML takes the key 5 for a number.
    if isinstance(keys, Mapping) and all(type(v) in (str, int) for v in keys.values()):
        own = {RENAMED.get(str(name), str(name)): str(key) for name, key in keys.items()}
        settings = replace(settings, keys=own)
    else:
        problems.append(f"{path}: keys: each is written as `action: key`, such as `main.new: n`")
    return replace(settings, problems=tuple(problems))


def unknown_keys(settings: Settings, known: Iterable[str]) -> list[str]:
    """A line for each action in `keys` that there is not, with the one probably meant."""
    names = sorted(known)
    lines = []
    for name in settings.keys:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f": did you mean {close[0]}?" if close else ""
            lines.append(f"{settings.path}: keys: there is no action '{name}'{hint}")
    return lines


def save_settings(settings: Settings, path: Path) -> None:
    """Write theme, motion and, once it was on, notify; comments and keys stay as they are.

    Raises:
        LmbenchError: the file cannot be read or written, or is not such that lines can be added.
    """
    lines = _lines(path) or []
    expected = _document("\n".join(lines))
    values = {
        "theme": settings.theme.removeprefix(_PREFIX),
        "motion": settings.motion,
        "notify": settings.notify,
    }
    for name, value in values.items():
        line = f"{name}: {str(value).lower()}"
        at = next((i for i, old in enumerate(lines) if old.startswith(f"{name}:")), None)
        if at is None and name == "notify" and not settings.notify:
            continue
        if expected is not None:
            expected = {**expected, name: value}
        if at is None:
            # The theme comes first, the others behind it: what is below may be a block.
            themes = (i for i, old in enumerate(lines) if old.startswith("theme:"))
            lines.insert(next(themes, -1) + 1, line)
        else:
            comment = lines[at].partition("#")
            lines[at] = line + (f"  #{comment[2]}" if comment[1] else "")
    text = "\n".join(lines) + "\n"
    if expected is None or _document(text) != expected:
        raise _not_by_lines(path)
    _write(path, text)


def _lines(path: Path) -> list[str] | None:
    """The file's lines; None where there is no file.

    Raises:
        LmbenchError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise LmbenchError(f"{path}: cannot be read ({error}): mend or move it") from None


def _not_by_lines(path: Path) -> LmbenchError:
    return LmbenchError(f"{path}: no settings by lines, such as `theme: dark`: mend or move it")


def lists_keys(path: Path) -> bool:
    """Has the file an entry ``keys``?"""
    try:
        return "keys" in (_document("\n".join(_lines(path) or [])) or {})
    except LmbenchError:
        return False


def _document(text: str) -> Mapping[Any, Any] | None:
    """What settings a text gives; None where it gives none."""
    import yaml

    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return {} if document is None else document if isinstance(document, Mapping) else None


def write_keys(bindings: Iterable[tuple[str, str, str]], settings: Settings, path: Path) -> bool:
    """Add every action with its keys and what it does, as comments, to a file that has no `keys`;
    begin the file where it is not there. False where it has them: then it is left alone.

    `bindings` are (id, keys, words).

    Raises:
        LmbenchError: the file cannot be read or written, or is not such that lines can be added.
    """
    if lists_keys(path):
        return False
    rows = sorted(set(bindings))
    width = max((len(f"{name}: {keys}") for name, keys, _ in rows), default=0)
    lines = [
        "",
        "# To give an action other keys, take the # away before it; several are joined by commas.",
        "keys:",
        *(f"  # {f'{name}: {keys}'.ljust(width)}  # {words}" for name, keys, words in rows),
    ]
    before = _lines(path)
    if before is None:
        before = [
            f"theme: {settings.theme.removeprefix(_PREFIX)}  # {', '.join(_THEMES)}",
            f"motion: {'true' if settings.motion else 'false'}  # false: nothing glides",
        ]
    text = "\n".join([*before, *lines]) + "\n"
    if "keys" not in (_document(text) or {}):
        raise _not_by_lines(path)
    _write(path, text)
    return True


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode())
    except OSError as error:
        raise LmbenchError(f"{path}: cannot be written ({error.strerror or error})") from None
