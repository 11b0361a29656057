"""What every command shares: its common flags, where output goes, and how errors are told."""

from __future__ import annotations

import json as jsonlib
import math
import sys
from collections.abc import Callable
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from lmbench.errors import LmbenchError

__all__ = ["Json", "SessionName", "Yes", "confirm", "console", "print_json", "stderr"]

Json = Annotated[
    bool,
    Parameter(name="--json", negative="", help="one JSON document on stdout and nothing else"),
]
SessionName = Annotated[
    str, Parameter(name="--session", help="the session that a bare run number means")
]
Yes = Annotated[bool, Parameter(name=("--yes", "-y"), negative="", help="do not ask")]


def console() -> Console:
    """Rich output on stdout, as wide as a terminal or as a pipe can be."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=max(out.width, 160))


def stderr() -> Console:
    return Console(stderr=True, highlight=False)


def print_json(document: Any) -> None:
    """One strict JSON document on stdout; a number that JSON has no word for becomes null."""
    text = jsonlib.dumps(_finite(document), indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write(text + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def confirm(question: str, *, yes: bool, ask: Callable[[str], str] = input) -> None:
    """Ask on a terminal before something is lost; elsewhere ``--yes`` has to be given.

    Raises:
        LmbenchError: the answer is no, or there is nobody to ask.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise LmbenchError(f"{question} There is no terminal to ask on: add --yes")
    if ask(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise LmbenchError("nothing was changed")
