"""Sessions and runs as folders: records, numbers, names, and who is alive."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmbench.config import EvaluateConfig, TrainConfig
from lmbench.errors import LmbenchError
from lmbench.session import Home, Run, RunRecord, SessionRecord
from lmbench.session.process import process_started
from lmbench.session.records import Status, parse_record
from lmbench.session.store import check_session_name


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def new_run(home: Home, session: str = "default", name: str | None = None) -> Run:
    return home.open_session(session).new_run(EvaluateConfig(), "evaluate", name=name)


texts = st.text(st.characters(codec="utf-8"), max_size=20)
records = st.builds(
    RunRecord,
    id=st.integers(1, 10**6),
    name=texts,
    kind=st.sampled_from(["train", "prune", "pack"]),
    config=st.dictionaries(texts, texts | st.integers() | st.floats(-1e9, 1e9), max_size=4),
    parent=st.none() | texts,
    status=st.sampled_from(get_args(Status)),
    started=st.none() | st.floats(0, 2.5e11),
    pid=st.none() | st.integers(1, 2**22),
    process_started=st.none() | st.floats(0, 2.5e11),
    reason=texts,
    # Results of the names that have a type of their own would have to be of it.
    results=st.dictionaries(texts.map("x{}".format), st.none() | st.floats(-1e9, 1e9), max_size=4),
)


@given(records)
def test_a_record_comes_back_from_the_disk_as_it_was(record: RunRecord) -> None:
    document = json.loads(json.dumps(record.model_dump(mode="json")))
    assert parse_record(RunRecord, document, "run.json") == record


def test_a_new_run_keeps_what_it_was_asked_for(home: Home) -> None:
    config = TrainConfig(nhid=8, emsize=8, tied=True)
    parent = new_run(home)
    run = home.open_session().new_run(config, "train", name="small", parent=parent, command="c")
    assert run.path.name == "002-train"
    assert run.config() == config
    record = run.read()
    assert record.config == {"nhid": 8, "emsize": 8, "tied": True}
    assert (record.name, record.parent, record.command) == ("small", "default/001-evaluate", "c")
    assert (record.status, record.pid, record.cwd) == ("queued", None, str(Path.cwd()))
    assert run.home == home


def test_runs_that_are_made_at_once_get_numbers_of_their_own(home: Home) -> None:
    session = home.open_session()
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: session.new_run(EvaluateConfig(), "evaluate"), range(24)))
    assert sorted(run.id for run in runs) == list(range(1, 25))
    assert [run.id for run in session.runs()] == list(range(1, 25))


def test_changes_that_two_processes_make_at_once_are_all_kept(home: Home) -> None:
    run = new_run(home)
    fields = ["name", "device", "reason", "command", "host"]
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda field: run.update(**{field: "changed"}), fields))
    record = run.read()
    assert [getattr(record, field) for field in fields] == ["changed"] * 5


def test_fields_of_a_later_version_are_kept_when_a_record_is_changed(home: Home) -> None:
    run = new_run(home)
    path = run.path / "run.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "mood": "good"}))
    run.update(name="renamed")
    assert json.loads(path.read_text())["mood"] == "good"


def test_a_record_of_a_newer_version_is_refused_and_left_alone(home: Home) -> None:
    run = new_run(home)
    path = run.path / "run.json"
    newer = path.read_text().replace('"version": 1', '"version": 7')
    path.write_text(newer)
    with pytest.raises(LmbenchError, match="written by a newer lmbench"):
        run.update(name="x")
    assert path.read_text() == newer


def test_a_damaged_record_is_told_by_file_and_field(home: Home) -> None:
    run = new_run(home)
    path = run.path / "run.json"
    path.write_text(path.read_text().replace('"queued"', '"asleep"'))
    with pytest.raises(LmbenchError, match=r"^field 'status': .*run\.json\)$"):
        run.read()


@pytest.mark.parametrize(
    "ref", ["2", "002-evaluate", "work/2", "work/002-evaluate", "second", "work/second", "@"]
)
def test_a_run_is_found_by_each_of_its_names(home: Home, ref: str) -> None:
    new_run(home, "work")
    second = new_run(home, "work", name="second")
    assert home.find_run(ref, "work") == second


def test_a_number_that_two_folders_have_is_no_run(home: Home) -> None:
    run = new_run(home)
    copied = run.path.with_name("001-backup")
    shutil.copytree(run.path, copied)
    with pytest.raises(LmbenchError, match=r"several runs 1 \(001-\w+, 001-\w+\)"):
        home.find_run("1")
    assert home.find_run("001-backup").path == copied


def test_a_file_with_a_runs_name_hides_no_run(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As ``2>1`` leaves one."""
    new_run(home, name="mine")
    monkeypatch.chdir(tmp_path)
    for name in ("1", "mine", "other"):
        (tmp_path / name).touch()
    assert home.file_of("1", "default") is None
    assert home.file_of("mine", "default") is None
    assert home.file_of("./1", "default") == Path("1")
    assert home.file_of("other", "default") == Path("other")


def test_a_run_that_is_named_through_a_link_is_the_same_run(home: Home, tmp_path: Path) -> None:
    run = new_run(home)
    (tmp_path / "link").symlink_to(home.path)
    named = home.find_run(str(tmp_path / "link" / run.path.relative_to(home.path)))
    assert named == run


def test_a_run_is_found_by_the_path_of_its_folder(home: Home) -> None:
    run = new_run(home)
    assert home.find_run(str(run.path)) == run


def test_a_session_that_may_not_be_looked_at_is_passed_over(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs, gone = (new_run(home, session) for session in ("mine", "theirs", "gone"))
    real_stat, real_iterdir = os.stat, Path.iterdir

    def stat(path: Any, **options: Any) -> os.stat_result:
        if str(theirs.session.path) + "/" in str(path):
            raise PermissionError(errno.EACCES, "not yours", str(path))
        return real_stat(path, **options)

    def iterdir(path: Path) -> Iterator[Path]:
        if path == gone.session.runs_path:
            raise FileNotFoundError(errno.ENOENT, "deleted in this moment", str(path))
        return real_iterdir(path)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert [session.name for session in home.sessions()] == ["gone", "mine"]
    assert list(home.all_runs()) == [mine]


@pytest.mark.parametrize(
    "ref, complaint",
    [
        ("~nosuchuser/1", "there is no such user"),
        ("7", r"session 'work' has no run 7 \(it has 1, 2\)"),
        ("nobody", "session 'work' has no run 'nobody'"),
        ("twin", "'twin' names several runs of session 'work': 1, 2"),
        ("nowhere/1", "no session 'nowhere'"),
        ("../../etc/1", "there is no such run or file"),
        ("etc*/1", "session name"),
        ("model.lmpack", "there is no such run or file"),
        ("/nowhere/001-train", "there is no such run or file"),
        ("", "has no run ''"),
    ],
)
def test_a_name_that_fits_no_run_is_told(home: Home, ref: str, complaint: str) -> None:
    new_run(home, "work", name="twin")
    new_run(home, "work", name="twin")
    with pytest.raises(LmbenchError, match=complaint):
        home.find_run(ref, "work")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-x", "a\nb", "a.", "a ", "x" * 65, "ü"])
def test_a_name_that_is_no_folder_of_ours_makes_no_session(home: Home, name: str) -> None:
    with pytest.raises(LmbenchError, match="session name"):
        home.open_session(name)
    assert home.sessions() == []


@given(st.text(max_size=70))
def test_a_session_name_never_leads_out_of_the_folder(name: str) -> None:
    try:
        check_session_name(name)
    except LmbenchError:
        return
    assert Path(name).name == name
    assert name not in (".", "..")


def test_a_run_that_may_not_be_looked_at_hides_no_other(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = (new_run(home) for _ in range(2))
    real_stat = os.stat

    def stat(path: Any, **options: Any) -> os.stat_result:
        if str(theirs.path) + "/" in str(path):
            raise PermissionError(errno.EACCES, "not yours", str(path))
        return real_stat(path, **options)

    monkeypatch.setattr(os, "stat", stat)
    assert mine.session.runs() == [mine]


def test_folders_that_are_no_runs_are_passed_over(home: Home) -> None:
    run = new_run(home)
    for name in (".new-abcd", "notes", "7-train", "003-train"):
        (run.session.runs_path / name).mkdir()
    assert home.open_session().runs() == [run]


def test_a_live_run_whose_process_is_gone_is_lost(home: Home) -> None:
    run = new_run(home)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    run.update(status="running", pid=child.pid, process_started=process_started(child.pid))
    assert run.status() == "running"
    child.kill()
    child.wait()
    assert run.status() == "lost"


def test_a_child_that_died_and_was_not_waited_for_is_gone(home: Home) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert child.stdout is not None
    # The pipe ends when the child does.
    child.stdout.read()
    while process_started(child.pid) is not None:
        pass
    child.wait()


def test_another_process_of_the_same_number_is_not_the_runs(home: Home) -> None:
    run = new_run(home)
    mine = process_started(os.getpid())
    assert mine is not None
    run.update(status="running", pid=os.getpid(), process_started=mine - 60.0)
    assert run.status() == "lost"
    run.update(process_started=mine)
    assert run.status() == "running"


def test_a_run_of_another_machine_is_believed(home: Home) -> None:
    run = new_run(home)
    run.update(status="running", pid=2**22, process_started=1.0, host=f"not-{platform.node()}")
    assert run.status() == "running"


def test_the_start_of_a_process_is_the_same_each_time() -> None:
    assert process_started(os.getpid()) == process_started(os.getpid())
    assert process_started(2**22 + 1) is None


def test_a_sessions_record_is_kept_by_name(home: Home) -> None:
    session = home.open_session("work")
    session.update(workbench={"theme": "dark"}, notes="n")
    record = home.session("work").read()
    assert record == SessionRecord(
        name="work", created=record.created, workbench={"theme": "dark"}, notes="n"
    )
    assert [s.name for s in home.sessions()] == ["work"]


def test_a_fingerprint_that_is_a_path_is_read_from_nowhere(tmp_path: Path) -> None:
    session = Home(tmp_path).open_session()
    (tmp_path / "secret.txt").write_text("not a word list")
    for forged in (str(tmp_path / "secret"), "../../../secret", "", "a\nb"):
        with pytest.raises(LmbenchError, match="record of a run is damaged"):
            session.read_vocabulary(forged)
