"""Calling commands as a user does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lmbench.cli import run as lmbench
from lmbench.cli.app import build


def commands() -> dict[tuple[str, ...], list[Any]]:
    """Every command that does something, by its words, with the arguments that it takes."""
    app = build()
    found: dict[tuple[str, ...], list[Any]] = {}
    for name in app:
        if not name.startswith("-"):
            verbs = [verb for verb in app[name] if not verb.startswith("-")]
            for verb in verbs:
                found[name, verb] = list(app[name][verb].assemble_argument_collection())
            if not verbs:
                found[(name,)] = list(app[name].assemble_argument_collection())
    return found


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """The one JSON document that a command gives."""
    capsys.readouterr()
    assert lmbench([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=lambda _: 1 / 0)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which a command refuses its input, with exit code 2."""
    assert lmbench(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err
