"""Attempts at a run: who may write, who is fenced off, and who is taken for lost."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from lmbench.config import TrainConfig
from lmbench.session import Home, Run, files
from lmbench.session.attempts import (
    LOST_AFTER_S,
    FencedError,
    attempt_folder,
    begin_attempt,
    begin_heartbeat,
    check_attempt,
    fence_attempts,
    last_sign_of_life,
    next_attempt,
    remove_fenced,
    show_life,
)
from lmbench.session.manage import copy_session


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Home(tmp_path).open_session().new_run(TrainConfig(), "train")


def attempt(run: Run, number: int) -> Run:
    """The run as the worker of an attempt has it."""
    assert begin_attempt(run.path, number)
    return Run(run.path, attempt_folder(run.path, number))


def write_checkpoint(run: Run, content: str) -> None:
    fresh = files.fresh_folder(run.path / "last", run.staging)
    (fresh / "meta.json").write_text(content)
    files.swap_in(fresh, run.path / "last")


def content(run: Run) -> str:
    folder = run.checkpoint("last")
    assert folder is not None
    return (folder / "meta.json").read_text()


def test_a_late_attempt_can_replace_nothing(run: Run) -> None:
    late = attempt(run, 1)
    late.update(name="first")
    write_checkpoint(late, "first")
    new = attempt(run, 2)
    remove_fenced(run.path)
    new.update(name="second")
    write_checkpoint(new, "second")
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    with pytest.raises(FileNotFoundError):
        late.update(name="late")
    with pytest.raises(FileNotFoundError):
        write_checkpoint(late, "late")
    with pytest.raises(FileNotFoundError):
        files.write_atomic(run.path / "table.csv", b"late", late.staging)
    with pytest.raises(FencedError, match=r"newer attempt .* \(1\) ends and changes nothing"):
        check_attempt(late.staging)
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before
    assert (run.read().name, content(run)) == ("second", "second")


def test_a_run_whose_folder_was_moved_says_so_and_blames_no_newer_attempt(run: Run) -> None:
    own = attempt(run, 1)
    run.path.rename(run.path.with_name("elsewhere"))
    with pytest.raises(FencedError, match="the run's folder is there no more"):
        check_attempt(own.staging)


@pytest.mark.parametrize("renames_done", [0, 1])
def test_an_attempt_stopped_amid_a_swap_loses_it_and_no_checkpoint(
    renames_done: int, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped before one of the two renames and goes on when it has been superseded."""
    late = attempt(run, 1)
    write_checkpoint(late, "old")
    real, left = Path.rename, renames_done

    def rename(path: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left == -1:
            monkeypatch.setattr(Path, "rename", real)
            newer = attempt(run, 2)
            assert content(run) == ("whole" if renames_done else "old")
            remove_fenced(run.path)
            assert content(run) == ("whole" if renames_done else "old")
            write_checkpoint(newer, "newer")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(FileNotFoundError):
        write_checkpoint(late, "whole")
    assert content(run) == "newer"
    assert sorted(p.name for p in run.path.glob("*last*")) == ["last"]
    assert [p.name for p in run.path.glob(".attempt-*")] == [".attempt-2"]


def test_what_a_fenced_attempt_cannot_let_go_of_yet_is_left(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = attempt(run, 1)
    attempt(run, 2)

    def rmtree(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise OSError(errno.ENOTEMPTY, "NFS keeps a file that is mapped", str(path))

    monkeypatch.setattr(files.shutil, "rmtree", rmtree)
    remove_fenced(run.path)
    assert kept.staging is not None
    assert not kept.staging.exists()


def test_numbers_of_attempts_are_never_used_again(run: Run) -> None:
    assert next_attempt(run.path, 0) == 1
    attempt(run, 1)
    assert next_attempt(run.path, 0) == 2
    assert not begin_attempt(run.path, 1)
    fence_attempts(run.path)
    assert next_attempt(run.path, 0) == 2
    remove_fenced(run.path)
    assert next_attempt(run.path, 4) == 5


def test_a_run_of_another_machine_is_lost_when_its_signs_of_life_end(run: Run) -> None:
    folder = attempt(run, 1).staging
    assert folder is not None
    run.update(status="running", attempt=1, host="elsewhere", started=1.0, pid=os.getpid())
    # No heartbeat yet: that it began is the last sign.
    assert run.status() == "lost"
    begin_heartbeat(folder)
    assert run.status() == "running"
    then = time.time() - LOST_AFTER_S - 1.0
    os.utime(folder / "heartbeat", (then, then))
    assert run.status() == "lost"
    assert last_sign_of_life(run.path, run.read()) == pytest.approx(then, abs=0.01)
    show_life(folder)
    assert run.status() == "running"
    # A newer attempt, which has yet to show one, is not judged by the older one's.
    run.update(attempt=2)
    assert run.status() == "lost"


def test_a_run_of_a_version_without_signs_of_life_is_believed(run: Run) -> None:
    run.update(status="running", host="elsewhere", started=1.0)
    assert run.status() == "running"


def test_a_fenced_attempt_gives_no_sign_of_life(run: Run) -> None:
    folder = attempt(run, 1).staging
    assert folder is not None
    begin_heartbeat(folder)
    fence_attempts(run.path)
    with pytest.raises(FileNotFoundError):
        show_life(folder)


def test_a_checkpoint_left_amid_a_swap_is_copied_with_its_session(run: Run) -> None:
    late = attempt(run, 1)
    write_checkpoint(late, "whole")
    assert late.staging is not None
    (run.path / "last").rename(late.staging / "last.old")
    copy = copy_session(run.home, "default", "other").runs()[0]
    assert content(copy) == "whole"
    assert not list(copy.path.glob(".attempt-*"))
