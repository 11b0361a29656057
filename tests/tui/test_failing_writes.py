"""Whichever of its writes the system refuses, the workbench says so and goes on."""

from __future__ import annotations

import errno
import io
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from driving import at_work, bench_of, opened, press, select, until, words
from textual.widgets import Static
from workbench_world import World

from lmbench.cli import run as lmbench
from lmbench.session import Home
from lmbench.tui.kit import make_and_launch
from lmbench.tui.log_file import log_path

DAYS = {
    "runs": ("space", "r", "x", "enter", "d", "y", "U", "n", "ctrl+s"),
    "plot": ("2", "]", "e", *"a.svg", "enter", "5", "x"),
    # The second session: the open one has runs at work, and is neither copied nor packed.
    "sessions": ("o", "j", "D", "2", "enter", *"rx", "enter", "p", "enter", *"dyunq", "enter"),
    "settings": (",", "down", "right", "down", "right", "escape"),
}
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
IN_CI = 1
"""Fault of each day that every run of the tests goes through."""


class Disk:
    """Counts the changes below a folder, and refuses one of them."""

    def __init__(self, folder: Path, refused: int = 0, error: int = 0) -> None:
        self._folder = str(folder)
        self._refused = refused
        self._error = error
        self.changes = 0
        self.about = ""

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        # To make a folder that is there changes nothing, and is never refused for want of room.
        patch.setattr(os, "mkdir", self._refusing(os.mkdir, changes=_is_new))
        for name in ("rmdir", "unlink", "rename", "replace", "link", "symlink"):
            patch.setattr(os, name, self._refusing(getattr(os, name)))
        patch.setattr(os, "open", self._refusing(os.open, changes=_flags_write))
        patch.setattr(io, "open", self._refusing(io.open, changes=_mode_writes))
        for name in ("fsync", "write"):
            patch.setattr(os, name, self._refusing(getattr(os, name), place=_path_of))

    def _refusing(
        self,
        function: Callable[..., Any],
        *,
        changes: Callable[..., bool] = lambda *_, **__: True,
        place: Callable[[Any], object] = lambda argument: argument,
    ) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            path = str(place(arguments[0]))
            if path.startswith(self._folder) and changes(*arguments, **named):
                self.changes += 1
                if self.changes == self._refused:
                    self.about = f"{function.__name__} {path}"
                    raise OSError(self._error, os.strerror(self._error), path)
            return function(*arguments, **named)

        return call


def _is_new(path: Any, *_: Any, **__: Any) -> bool:
    return not Path(path).exists()


def _flags_write(_path: Any, flags: int, *_: Any, **__: Any) -> bool:
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _mode_writes(_path: Any, mode: str = "r", *_: Any, **__: Any) -> bool:
    return any(letter in mode for letter in "wax+")


def _path_of(descriptor: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())
    except OSError:
        return ""


async def day(folder: Path, name: str, disk: Disk, patch: pytest.MonkeyPatch) -> str:
    """A day with this disk; all that the workbench showed."""
    world = World(folder)
    world.full()
    world.home.open_session("other")
    patch.chdir(folder)
    # The corpus is not what fails here: its cache is written by workers, too.
    patch.setattr(make_and_launch, "check_training", lambda *_, **__: None)
    said: list[str] = []
    async with opened(world) as pilot:
        await select(pilot, "003-quantize")
        bench = bench_of(pilot)
        bench.watch(bench, "last_message", lambda message: said.append(message))
        with patch.context() as only_now:
            disk.watch(only_now)
            for key in DAYS[name]:
                await press(pilot, key)
                # What asks something in a dialog works on until it is answered.
                await until(pilot, lambda: not at_work(pilot) or pilot.app.screen.is_modal)
                said.append(words(pilot))
                # What a dialog says is wrapped on the screen.
                said += [str(text.content) for text in pilot.app.screen.query(Static)]
            bench.flush()
            await press(pilot)
    return "\n".join(said)


async def once(
    folder: Path, name: str, refused: int, error: int, patch: pytest.MonkeyPatch, capfd: Any
) -> None:
    disk = Disk(folder, refused, error)
    said = await day(folder, name, disk, patch)
    where = f"{os.strerror(error)} at change {refused}, {disk.about}: {said}"
    log = log_path(Home(folder))
    logged = log.read_text(encoding="utf-8") if log.exists() else ""
    assert "Traceback" not in logged, f"{where}\n{logged}"
    if disk.about:
        assert os.strerror(error).lower() in f"{said}{logged}".lower(), where
    patch.setenv("LMBENCH_HOME", str(folder))
    assert lmbench(["sessions", "list"]) == 0
    for session in Home(folder).sessions():
        assert lmbench(["sessions", "show", session.name]) == 0, where
    assert "Traceback" not in capfd.readouterr().err, where


async def changes_of(folder: Path, name: str, patch: pytest.MonkeyPatch) -> int:
    disk = Disk(folder)
    await day(folder, name, disk, patch)
    assert disk.changes
    return disk.changes


@pytest.mark.parametrize("name", DAYS)
async def test_a_refused_write_is_said_and_nothing_is_lost(
    name, tmp_path, started, monkeypatch, capfd
):
    changes = await changes_of(tmp_path / "whole", name, monkeypatch)
    for refused in random.Random(name).sample(range(1, changes + 1), min(IN_CI, changes)):
        error = random.Random(refused).choice(ERRORS)
        await once(tmp_path / str(refused), name, refused, error, monkeypatch, capfd)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", DAYS)
async def test_any_refused_write_is_said_and_nothing_is_lost(
    name, tmp_path, started, monkeypatch, capfd
):
    changes = await changes_of(tmp_path / "whole", name, monkeypatch)
    for refused in range(1, changes + 1):
        for error in ERRORS:
            folder = tmp_path / f"{refused}-{error}"
            await once(folder, name, refused, error, monkeypatch, capfd)
    print(f"{name}: {changes} changes, {len(ERRORS) * changes} faults injected, 0 found")
