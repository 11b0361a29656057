"""A working folder with one small trained model, which commands are called on."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked_workers import Forking
from jobs_world import world as world

from lmbench.cli import run as lmbench
from lmbench.session import Home

WORDS = 70


@pytest.fixture(scope="module", autouse=True)
def _forked(forked_workers: None) -> None:
    """Commands on tiny models: what they take is the loading of torch."""


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, kernels: Path, forking: Forking) -> Path:
    """A working folder whose session `default` has one small trained model."""
    home = tmp_path_factory.mktemp("template")
    (home / "cache").mkdir()
    (home / "cache" / "native").symlink_to(kernels)
    generator = random.Random(3)
    folder = home / "data" / "tiny"
    folder.mkdir(parents=True)
    for split, lines in (("train", 500), ("valid", 80), ("test", 80)):
        text = [
            " ".join(
                f"w{int(WORDS * generator.random() ** 3)}"
                for _ in range(generator.randrange(4, 12))
            )
            for _ in range(lines)
        ]
        (folder / f"{split}.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMBENCH_HOME", str(home))
        patch.setenv("LMBENCH_CACHE", str(home / "cache"))
        patch.setattr("lmbench.jobs.places.local.subprocess", forking)
        small = ["--emsize", "16", "--nhid", "16", "--tied", "--epochs", "1", "--threads", "1"]
        assert lmbench(["train", "--data", "tiny", *small, "--lr", "1", "--json"]) == 0
    return home


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Iterator[Home]:
    """A copy of the template for the tests of one file."""
    home = tmp_path_factory.mktemp("commands") / "home"
    shutil.copytree(template, home, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMBENCH_HOME", str(home))
        patch.setenv("LMBENCH_CACHE", str(home / "cache"))
        yield Home(home)


@pytest.fixture
def home(trained: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Home:
    monkeypatch.setenv("LMBENCH_HOME", str(trained.path))
    monkeypatch.setenv("LMBENCH_CACHE", str(trained.path / "cache"))
    monkeypatch.chdir(tmp_path)
    return trained
