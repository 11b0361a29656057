"""The page of all commands and settings says what the command line takes."""

from __future__ import annotations

import runpy

from places import REPOSITORY


def test_the_reference_is_up_to_date() -> None:
    script = REPOSITORY / "docs" / "make_reference.py"
    text = runpy.run_path(str(script))["reference"]()
    there = (REPOSITORY / "docs" / "reference.md").read_text(encoding="utf-8")
    assert there == text, "run: python docs/make_reference.py"
