"""What the documents name is there: links, and files of the house."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from places import REPOSITORY

PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]
FOLDERS = (REPOSITORY, REPOSITORY / "lmbench", REPOSITORY / "lmbench" / "tui")
LINK = re.compile(r"\]\(([\w./-]+)[)#]")
# A path in backticks; words in capitals stand for a name that the reader gives.
NAMED = re.compile(r"`((?:[\w.-]+/)+[\w-]+\.(?:py|cpp|h|md))`")


def is_there(name: str) -> bool:
    return any((folder / name).exists() for folder in FOLDERS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not [link for link in LINK.findall(text) if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page: Path) -> None:
    names = NAMED.findall(page.read_text(encoding="utf-8"))
    given = [name for name in names if not re.search(r"\b[A-Z_]{4,}\b", name)]
    assert not [name for name in given if not is_there(name)]
