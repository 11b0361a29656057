"""A working folder and a user's cache folder of their own for each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

MakeFolder = Callable[..., Path]


@pytest.fixture(autouse=True)
def user_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder for lmbench, empty at first."""
    folder = tmp_path / "user-cache" / "lmbench"
    monkeypatch.setenv("LMBENCH_CACHE", str(folder))
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty working folder."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Makes a folder with a corpus: ``make_folder("name", train=..., valid=..., test=...)``."""

    def make(name: str = "tiny", layout: str = "{}.txt", **texts: str | bytes) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        for split in ("train", "valid", "test"):
            text = texts.get(split, f"the cat sat on the {split}\n")
            data = text.encode() if isinstance(text, str) else text
            (folder / layout.format(split)).write_bytes(data)
        return folder

    return make
