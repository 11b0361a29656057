"""Calling commands as a user does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lmbench.cli import run as lmbench


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """The one JSON document that a command gives."""
    capsys.readouterr()
    assert lmbench([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)
