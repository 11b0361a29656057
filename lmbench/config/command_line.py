"""Settings as the command line that gives them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from lmbench.config.kinds import Kind
from lmbench.config.setting import Config, flag_of, value_text
from lmbench.config.training import PruneConfig, TrainConfig
from lmbench.printable import one_line

__all__ = ["command_for", "flag_in", "flag_words", "run_name"]


def run_name(kind: Kind, config: Config) -> str:
    """What a run is called where nobody says: ``lstm-2x200-tied``, or its schedule or preset."""
    if isinstance(config, PruneConfig) and config.compress:
        return config.compress.rpartition("/")[2].removesuffix(".yaml")
    if isinstance(config, TrainConfig):
        tied = "-tied" * config.tied + "-projected" * config.projection
        return f"{config.model.lower().replace('_', '-')}-{config.nlayers}x{config.nhid}{tied}"
    for setting in ("preset", "granularity"):
        chosen = getattr(config, setting, None)
        if chosen:
            return str(chosen)
    return "packed" if kind == "pack" else kind


def command_for(
    kind: Kind,
    given: Mapping[str, Any],
    *,
    parent: str | None = None,
    name: str | None = None,
    session: str = "default",
) -> str:
    """The command line that asks for a run of `kind` with the settings `given`, in one line and
    quoted for a shell.

    Args:
        given: what differs from the defaults, or, for a pruning, from its parent's settings.
        parent: the run it starts from, as ``SESSION/NNN-kind``; it says the session, too.
    """
    words = ["lmbench", kind]
    if parent is not None:
        words.append(_argument(parent))
    settings = dict(given)
    if kind == "prune":
        settings = {k: "none" if v is None else v for k, v in settings.items()}
    if kind == "pack":  # older runs have these; its command has no such flags
        settings.pop("device", None)
        settings.pop("cuda", None)
    if kind == "prune" and settings.get("compress") is not None:
        words += _flagged(flag_in(kind, "compress"), str(settings.pop("compress")))
    words += map(_argument, settings.pop("models", ()))
    words += flag_words(settings)
    if name and kind != "evaluate":  # which is called by its split
        words += _flagged("--name", name)
    if parent is None and session != "default":
        words += ["--session", session]
    return shlex.join(map(one_line, words))


def flag_in(kind: Kind, name: str) -> str:
    """The flag of a setting in the command of this kind of run."""
    return "--schedule" if (kind, name) == ("prune", "compress") else flag_of(name)


def flag_words(settings: Mapping[str, Any]) -> list[str]:
    """The settings as the flags of a command line; a setting that is None needs no flag."""
    words: list[str] = []
    for name, value in settings.items():
        flag = flag_of(name)
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, list | tuple):
            words += _flagged(flag, *map(value_text, value))
        elif value is not None:
            words += _flagged(flag, value_text(value))
    return words


def _argument(word: str) -> str:
    """A name or path of someone's making, which must not be taken for a flag."""
    word = one_line(word)
    return f"./{word}" if word.startswith("-") else word


def _flagged(flag: str, *values: str) -> list[str]:
    """A flag and its values, which must not be taken for flags."""
    lines = [one_line(value) for value in values]
    if any(line.startswith("-") for line in lines):
        return [f"{flag}={line}" for line in lines]
    return [flag, *lines]
