"""A process that dies in the middle of a change to a session, and what it leaves lying about."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lmbench.config import TrainConfig
from lmbench.errors import LmbenchError
from lmbench.session import Home, Run, files
from lmbench.session.archive import pack, unpack
from lmbench.session.files import locked, try_lock, write_atomic
from lmbench.session.leftovers import remove_leftovers, without_name
from lmbench.session.manage import copy_session, rename_session
from lmbench.session.rename import finish_rename

# Whatever changes what is on the disk goes through one of these.
CHANGES = ("open", "rename", "replace", "unlink", "mkdir", "fsync")


def dies_at(number: int, work: Callable[[], object]) -> bool:
    """Run `work` in a process that is gone before its change `number`; did it come so far?"""
    child = os.fork()
    if child == 0:
        left = number

        def counted(name: str) -> Callable[..., object]:
            real = getattr(os, name)

            def call(*arguments: object, **options: object) -> object:
                nonlocal left
                left -= 1
                if left < 0:
                    os._exit(9)
                return real(*arguments, **options)

            return call

        for name in CHANGES:
            setattr(os, name, counted(name))
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 9


def linked_sessions(path: Path) -> Home:
    """A session whose second run refers to its first, and another that refers to both."""
    home = Home(path)
    old, other = home.open_session("old"), home.open_session("other")
    first = old.new_run(TrainConfig(), "train")
    old.new_run(TrainConfig(), "prune", parent=first)
    taught = TrainConfig(teacher="old/2", compress="sessions/old/schedules/agp.yaml")
    other.new_run(taught, "prune", parent=first)
    for run in home.all_runs():
        run.update(status="finished")
    old.samples_path.write_text('{"run": "old/1", "text": "a"}\n')
    (other.path / "sweep.yaml").write_text("stages:\n- from: [&a old/1, 'old/2']  # old/1\n")
    return home


def temporary_names(home: Home) -> list[str]:
    found = [p.name for p in home.sessions_path.rglob(".*")]
    return [name for name in found if name != ".lock"]


def make_old(home: Home) -> None:
    """As if the leftovers had been left some while ago."""
    for path in home.sessions_path.rglob(".*"):
        os.utime(path, (1.0, 1.0), follow_symlinks=False)


def check_whole(home: Home, name: str) -> None:
    session, other = home.session(name), home.session("other")
    assert session.read().name == name
    assert [run.read().parent for run in session.runs()] == [None, f"{name}/001-train"]
    foreign = other.runs()[0].read()
    assert (foreign.parent, foreign.config["teacher"]) == (f"{name}/001-train", f"{name}/2")
    assert foreign.config["compress"] == f"sessions/{name}/schedules/agp.yaml"
    assert home.find_run(foreign.parent or "").path == session.runs()[0].path
    assert f'"{name}/1"' in session.samples_path.read_text()
    sweep = (other.path / "sweep.yaml").read_text()
    assert yaml.safe_load(sweep) == {"stages": [{"from": [f"{name}/1", f"{name}/2"]}]}
    assert sweep.endswith("]  # old/1\n")


def test_no_death_in_a_rename_leaves_references_behind(tmp_path: Path) -> None:
    number, names = 0, set[str]()
    while True:
        home = linked_sessions(tmp_path / str(number))
        died = dies_at(number, lambda home=home: rename_session(home, "old", "new"))
        (name,) = {session.name for session in home.sessions()} - {"other"}
        names.add(name)
        check_whole(home, name)
        if name == "old":
            rename_session(home, "old", "new")
            check_whole(home, "new")
        assert not (home.sessions_path / ".rename.json").exists()
        make_old(home)
        for session in home.sessions():
            session.new_run(TrainConfig(), "train")
            for run in session.runs():
                remove_leftovers(run.path)
        assert temporary_names(home) == []
        if not died:
            break
        number += 1
    assert number > 10
    assert names == {"old", "new"}


def test_a_read_only_session_that_refers_to_nothing_keeps_no_one_from_renaming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = linked_sessions(tmp_path)
    bystander = home.open_session("bystander")

    def opens(path: Path) -> object:
        assert bystander.path not in path.parents, f"{path} was locked"
        return locked(path)

    monkeypatch.setattr("lmbench.session.rename.locked", opens)
    rename_session(home, "old", "new")
    check_whole(home, "new")


def test_where_a_reference_cannot_be_written_nothing_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = linked_sessions(tmp_path)
    closed = home.session("other").runs()[0].path
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != closed and real(path, mode))
    with pytest.raises(LmbenchError, match=r"other/runs/001-prune/run\.json has to be written"):
        rename_session(home, "old", "new")
    check_whole(home, "old")


def test_a_rename_that_another_process_is_at_is_left_to_it(tmp_path: Path) -> None:
    home = linked_sessions(tmp_path)
    note = home.sessions_path / ".rename.json"
    note.write_text('{"version": 1, "from": "old", "to": "new"}')
    with files.holding_folder(home.sessions_path):
        finish_rename(home.sessions_path)
        assert note.exists()
    finish_rename(home.sessions_path)
    assert not note.exists()


@pytest.mark.parametrize(
    "file, text",
    [
        ("samples.jsonl", '{"run": "old/1", "x": NaN}'),
        ("samples.jsonl", '{"run": "old/1", "x": ' + "[" * 480 + "]" * 480 + "}"),
        ("session.json", '{"version": 1, "name": "old", "notes": "old/1", "x": 1e999}'),
        ("runs/002-prune/run.json", '{"version": 1, "parent": "old/001-train", "x": NaN}'),
    ],
)
def test_a_damaged_file_is_renamed_with_its_session_and_left_as_it_is(
    tmp_path: Path, file: str, text: str
) -> None:
    home = linked_sessions(tmp_path)
    (home.session("old").path / file).write_text(text)
    rename_session(home, "old", "new")
    assert [session.name for session in home.sessions()] == ["new", "other"]
    assert not (home.sessions_path / ".rename.json").exists()
    if "[[" not in text:
        assert (home.session("new").path / file).read_text() == text


def test_a_reference_beside_half_a_surrogate_pair_is_renamed(tmp_path: Path) -> None:
    home = linked_sessions(tmp_path)
    home.session("old").samples_path.write_text('{"run": "old/1", "text": "caf\\udce9"}\n')
    rename_session(home, "old", "new")
    samples = home.session("new").samples_path.read_text()
    assert samples == '{"run": "new/1", "text": "caf\\udce9"}\n'


def test_what_a_death_left_is_removed_and_what_is_in_use_is_not(tmp_path: Path) -> None:
    home = linked_sessions(tmp_path)
    for number in range(1, 12):
        dies_at(number, lambda: home.session("old").update(notes="x"))
        dies_at(3 * number, lambda n=number: copy_session(home, "old", f"copy {n}"))
    used = home.sessions_path / ".new-01234567"
    used.mkdir()
    assert len(temporary_names(home)) > 3
    make_old(home)
    with files.holding_folder(used):
        home.session("old").new_run(TrainConfig(), "train")
        assert temporary_names(home) == [".new-01234567"]
    home.session("old").new_run(TrainConfig(), "train")
    assert temporary_names(home) == []


def test_what_another_machine_makes_may_take_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its locks are not seen from here.
    home = linked_sessions(tmp_path)
    monkeypatch.setattr("platform.node", lambda: "login2")
    filled = home.sessions_path / without_name("new")
    deleted = home.session("old").runs_path / without_name("deleted", "003-train")
    hour_ago = time.time() - 3600
    for path in (filled, deleted):
        path.mkdir()
        os.utime(path, (hour_ago, hour_ago))
    monkeypatch.setattr("platform.node", lambda: "login1")
    assert home.session("old").new_run(TrainConfig(), "train").path.name == "004-train"
    assert filled.exists()
    remove_leftovers(deleted.parent)
    assert deleted.exists()
    monkeypatch.setattr("platform.node", lambda: "login2")
    remove_leftovers(deleted.parent)
    home.session("old").new_run(TrainConfig(), "train")
    assert not filled.exists()
    assert not deleted.exists()


def test_a_run_that_is_being_made_is_no_leftover(tmp_path: Path) -> None:
    session = Home(tmp_path).open_session()

    def slow(run: Run) -> None:
        os.utime(run.path, (1.0, 1.0))
        remove_leftovers(session.runs_path)

    assert session.new_run(TrainConfig(), "train", fill=slow).read().status == "queued"


def test_a_new_file_has_the_mode_that_the_umask_gives(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_atomic(tmp_path / "run.json", b"{}")
        os.umask(0o002)
        os.close(try_lock(tmp_path / ".device-cpu.lock") or 0)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"run.json": 0o600, ".device-cpu.lock": 0o664}


def test_packing_writes_through_no_link_that_someone_laid(tmp_path: Path) -> None:
    home = linked_sessions(tmp_path)
    victim, target = tmp_path / "victim", tmp_path / "x.lmbench"
    victim.write_text("precious")
    (tmp_path / ".x.lmbench.part").symlink_to(victim)
    pack(home.session("old"), target)
    assert victim.read_text() == "precious"
    assert [p.name for p in tmp_path.glob(".x*")] == [".x.lmbench.part"]
    assert unpack(target, home, "again").read().name == "again"


def test_packing_replaces_nothing_unasked(tmp_path: Path) -> None:
    session = linked_sessions(tmp_path).session("old")
    target, dangling = tmp_path / "x.lmbench", tmp_path / "y.lmbench"
    target.write_text("precious")
    dangling.symlink_to("nowhere")
    for taken in (target, dangling):
        with pytest.raises(LmbenchError, match="cannot be written"):
            pack(session, taken)
    assert target.read_text() == "precious"
    assert dangling.is_symlink()
    pack(session, target, replace=True)
    assert target.read_bytes()[:2] == b"PK"


def test_unpacking_a_folder_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(LmbenchError, match="a folder; unpack takes the file"):
        unpack(tmp_path, Home(tmp_path))


def test_a_lock_that_another_process_keeps_is_given_up_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ".lock"
    monkeypatch.setattr(files, "LOCK_PATIENCE_S", 0.0)
    held = pytest.raises(LmbenchError, match="another process has held a lock")
    with locked(path), held, locked(path):
        pass
