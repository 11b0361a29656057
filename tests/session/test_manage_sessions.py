"""Copying, renaming and deleting sessions and runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live_runs import make_live

from lmbench.config import EvaluateConfig, TrainConfig
from lmbench.errors import LmbenchError
from lmbench.session import Home, Run, Session, manage
from lmbench.session.files import try_lock
from lmbench.session.leftovers import remove_leftovers
from lmbench.session.manage import (
    copy_session,
    delete_run,
    delete_session,
    rename_run,
    rename_session,
    set_aside_run,
    set_aside_session,
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def session(home: Home) -> Session:
    """A finished run, a child of it, and what a worker leaves about."""
    session = home.open_session("old")
    parent = session.new_run(TrainConfig(), "train")
    child = session.new_run(TrainConfig(teacher="old/001-train"), "prune", parent=parent)
    for run in (parent, child):
        run.update(status="finished", started=1.0)
        (run.path / "last").mkdir()
        (run.path / "last" / "model.safetensors").write_bytes(os.urandom(64))
        run.control_path.write_text("stop\n")
        run.log_path.write_text("old/001-train is only a text here\n")
    session.samples_path.write_text(
        '{"run": "old/1", "text": "a"}\ntorn\n{"run": "other/1", "text": "old/1 b"}\n'
    )
    session.update(workbench={"selected": ["old/001-train", "old/002-prune"], "x": "older/1"})
    return session


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def check_refs(home: Home, name: str) -> None:
    session = home.session(name)
    train, prune = session.runs()
    assert session.read().name == name
    assert prune.read().parent == f"{name}/001-train"
    assert prune.read().config["teacher"] == f"{name}/001-train"
    assert session.read().workbench == {
        "selected": [f"{name}/001-train", f"{name}/002-prune"],
        "x": "older/1",
    }
    first, torn, third, _ = session.samples_path.read_text().split("\n")
    assert json.loads(first) == {"run": f"{name}/1", "text": "a"}
    assert torn == "torn"
    assert json.loads(third) == {"run": "other/1", "text": "old/1 b"}
    assert train.log_path.read_text() == "old/001-train is only a text here\n"


@pytest.mark.parametrize(
    "change",
    [lambda home: set_aside_session(home, "old"), lambda home: rename_session(home, "old", "new")],
)
def test_no_run_is_made_while_it_is_seen_that_none_is_at_work(
    home: Home,
    session: Session,
    change: Callable[[Home], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[bool] = []

    def look(*_: object) -> None:
        looks.append(try_lock(session.path / ".lock") is None)

    monkeypatch.setattr(manage, "refuse_busy", look)
    change(home)
    assert looks == [True]
    with pytest.raises(LmbenchError, match="is no session"):
        session.new_run(TrainConfig(), "train")
    assert not session.path.exists()


def test_a_copy_refers_to_itself_and_the_first_is_untouched(home: Home, session: Session) -> None:
    before = tree(session.path)
    copy = copy_session(home, "old", "new")
    assert tree(session.path) == before
    check_refs(home, "new")
    for mine, its in zip(copy.runs(), session.runs(), strict=True):
        weights = Path("last") / "model.safetensors"
        assert (mine.path / weights).read_bytes() == (its.path / weights).read_bytes()
        assert not mine.control_path.exists()


def test_a_session_of_which_a_run_begins_while_it_is_copied_is_not_copied(
    home: Home, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, copytree = session.runs()[0], shutil.copytree

    def worked_on(*arguments: Any, **named: Any) -> None:
        copytree(*arguments, **named)
        run.update(attempt=run.read().attempt + 1)

    monkeypatch.setattr(shutil, "copytree", worked_on)
    with pytest.raises(LmbenchError, match="a run of it began or was deleted"):
        copy_session(home, "old", "new")
    assert [p.name for p in home.sessions_path.iterdir() if "old" not in p.name] == []


def test_a_run_that_is_made_while_its_session_is_copied_is_left_out(
    home: Home, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would stand in the queue a second time."""
    before, copytree = len(session.runs()), shutil.copytree

    def made_meanwhile(*arguments: Any, **named: Any) -> None:
        session.new_run(TrainConfig(), "train")
        copytree(*arguments, **named)

    monkeypatch.setattr(shutil, "copytree", made_meanwhile)
    copy = copy_session(home, "old", "new")
    assert len(copy.runs()) == before
    assert "queued" not in {run.status() for run in copy.runs()}


def test_a_copy_of_what_is_read_only_can_be_written(home: Home, session: Session) -> None:
    read_only = [session.path, *session.path.rglob("*")]
    for path in read_only:
        path.chmod(path.stat().st_mode & ~0o222)
    copy = copy_session(home, "old", "new")
    for path in (copy.path, *copy.path.rglob("*")):
        assert path.stat().st_mode & 0o200
    for path in read_only:
        path.chmod(path.stat().st_mode | 0o200)


def test_a_link_to_nothing_is_left_out_of_a_copy(home: Home, session: Session) -> None:
    (session.path / "gone.txt").symlink_to("gone")
    copy = copy_session(home, "old", "new")
    assert len(copy.runs()) == 2
    assert not os.path.lexists(copy.path / "gone.txt")


def test_of_a_session_elsewhere_the_link_is_deleted(home: Home, session: Session) -> None:
    elsewhere = home.path / "elsewhere"
    session.path.rename(elsewhere)
    session.path.symlink_to(elsewhere)
    delete_session(home, "old")
    assert list(home.sessions_path.iterdir()) == []
    assert (elsewhere / "session.json").is_file()


def test_a_copy_of_waiting_and_lost_runs_has_nothing_waiting_or_alive(
    home: Home, session: Session
) -> None:
    queued = session.new_run(EvaluateConfig(), "evaluate")
    lost = session.new_run(EvaluateConfig(), "evaluate")
    lost.update(status="running", pid=os.getpid(), process_started=1e-3)
    copy = copy_session(home, "old", "new")
    records = [run.read() for run in copy.runs()[2:]]
    assert [(r.status, r.pid) for r in records] == [("stopped", None), ("lost", None)]
    assert queued.read().status == "queued"


def test_a_renamed_session_is_followed_by_all_that_refers_to_it(
    home: Home, session: Session
) -> None:
    other = home.open_session("other")
    elsewhere = other.new_run(TrainConfig(), "prune", parent="old/001-train")
    files = [str(home.sessions_path / "old/runs/003-pack/m.lmpack"), "/other/sessions/old/m.lmpack"]
    of_files = [other.new_run(TrainConfig(), "evaluate", parent=file) for file in files]
    rename_session(home, "old", "new")
    assert [run.read().parent for run in of_files] == [
        str(home.sessions_path / "new/runs/003-pack/m.lmpack"),
        "/other/sessions/old/m.lmpack",
    ]
    assert [s.name for s in home.sessions()] == ["new", "other"]
    check_refs(home, "new")
    assert elsewhere.read().parent == "new/001-train"


@pytest.mark.parametrize("verb", [copy_session, rename_session])
def test_a_name_that_is_taken_or_none_is_refused(home: Home, session: Session, verb) -> None:
    home.open_session("taken")
    before = tree(home.path)
    with pytest.raises(LmbenchError, match="there is a session 'taken' already"):
        verb(home, "old", "taken")
    with pytest.raises(LmbenchError, match="session name"):
        verb(home, "old", "../new")
    with pytest.raises(LmbenchError, match="no session 'nobody'"):
        verb(home, "nobody", "new")
    assert tree(home.path) == before
    assert {p.name for p in home.sessions_path.iterdir()} == {"old", "taken"}


def test_a_session_with_a_live_run_is_left_alone(home: Home, session: Session) -> None:
    make_live(session.runs()[1])
    before = tree(home.path)
    for act in (
        lambda: copy_session(home, "old", "new"),
        lambda: rename_session(home, "old", "new"),
        lambda: delete_session(home, "old"),
    ):
        with pytest.raises(LmbenchError, match="run 2 is running; stop it first"):
            act()
    assert tree(home.path) == before


def test_a_deleted_session_is_gone(home: Home, session: Session) -> None:
    home.open_session("other")
    delete_session(home, "old")
    assert [p.name for p in home.sessions_path.iterdir()] == ["other"]


def test_a_deleted_run_is_gone_and_the_others_stay(home: Home, session: Session) -> None:
    first, second = session.runs()
    delete_run(first)
    assert session.runs() == [second]
    assert [p.name for p in session.runs_path.iterdir()] == ["002-prune"]


@pytest.mark.parametrize("then", [delete_run, lambda run: rename_run(run, "other")])
def test_a_run_that_was_deleted_elsewhere_is_said_to_be(
    session: Session, then: Callable[[Run], None]
) -> None:
    run = session.runs()[0]
    delete_run(run)
    with pytest.raises(LmbenchError, match=f"run {run.ref} was deleted"):
        then(run)


def test_a_live_run_is_not_deleted(home: Home, session: Session) -> None:
    run = session.runs()[0]
    make_live(run)
    with pytest.raises(LmbenchError, match="stop it before you delete it"):
        delete_run(run)
    assert run.path.is_dir()


def test_the_number_of_a_run_that_may_come_back_is_not_given_to_another(session: Session) -> None:
    newest = session.runs()[-1]
    deletion = set_aside_run(newest)
    added = session.new_run(TrainConfig(), "train")
    deletion.undo()
    assert [run.id for run in session.runs()] == [1, newest.id, added.id]


def test_a_run_with_a_damaged_record_can_be_deleted(home: Home, session: Session) -> None:
    run = session.runs()[0]
    (run.path / "run.json").write_text("{")
    delete_run(run)
    assert not run.path.exists()


def test_a_deletion_can_be_undone_and_is_no_leftover_while_it_can(home: Home) -> None:
    first = home.open_session("old").path
    os.utime(first, (1, 1))
    deletion = set_aside_session(home, "old")
    assert home.sessions() == []
    remove_leftovers(home.sessions_path)
    deletion.undo()
    assert [session.path for session in home.sessions()] == [first]
    deletion = set_aside_session(home, "old")
    home.open_session("old")
    with pytest.raises(LmbenchError, match="is there again"):
        deletion.undo()
    assert deletion.is_open
    deletion.finish()
    assert not deletion.is_open
    assert [path.name for path in home.sessions_path.iterdir()] == ["old"]


def test_a_deleted_run_comes_back_into_its_session_s_new_folder(
    home: Home, session: Session
) -> None:
    deletion = set_aside_run(session.runs()[0])
    rename_session(home, "old", "new")
    deletion.moved(session.path, home.session("new").path)
    deletion.undo()
    assert [run.id for run in home.session("new").runs()] == [1, 2]


def test_what_was_deleted_of_an_earlier_session_of_the_name_stays_where_it_is(
    home: Home, session: Session
) -> None:
    run, whole = set_aside_run(session.runs()[0]), set_aside_session(home, "old")
    home.open_session("old")
    renamed = rename_session(home, "old", "new")
    for deletion in (run, whole):
        deletion.moved(session.path, renamed.path)
    whole.undo()
    run.undo()
    assert [run.id for run in home.session("old").runs()] == [1, 2]
