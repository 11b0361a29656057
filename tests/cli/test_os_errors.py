"""What the system refuses is one line: what was being done, the file, the reason, what to do."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmbench.cli import run as lmbench
from lmbench.config import TrainConfig
from lmbench.errors import RESUME, os_error_line
from lmbench.session import Home

Capture = pytest.CaptureFixture[str]
NUMBERS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EDQUOT)

COMMANDS = (
    "train --data tiny --batch-size 2 --eval-batch-size 2 --detach",
    "train --data tiny --batch-size 2 --eval-batch-size 2 --detach --session other",
    "prune --schedule small-80 --tied --data tiny --batch-size 2 --eval-batch-size 2 --detach",
    "evaluate 1 --detach",
    "benchmark 1",
    "report --output report.md",
    "sessions copy default second",
    "sessions pack default --output packed.lmbench",
    "runs stop 1",
    "runs resume 1",
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    monkeypatch.setenv("LMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        words = " ".join(f"w{number % 50}" for number in range(2000))
        (folder / f"{split}.txt").write_text(words, encoding="utf-8")
    run = Home(tmp_path).open_session().new_run(TrainConfig(), "train")
    (run.path / "best").mkdir()
    (run.path / "best" / "model.safetensors").write_bytes(b"")
    return Home(tmp_path)


def refusing(number: int) -> Callable[..., Any]:
    def call(*_arguments: Any, **_named: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", NUMBERS, ids=[errno.errorcode[n] for n in NUMBERS])
@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_that_may_not_write_says_what_and_why(
    line, number, home: Home, monkeypatch: pytest.MonkeyPatch, capsys: Capture
):
    monkeypatch.setattr(os, "fsync", refusing(number))
    before = len(home.session("default").runs())
    assert lmbench(line.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("lmbench: ")
    assert os.strerror(number) in err
    assert err.count("\n") == 1
    assert str(home.path) in err or "packed.lmbench" in err or "report.md" in err
    assert len(home.session("default").runs()) == before


def buffered(words: str, streams: str) -> tuple[int, str, str]:
    """A command in a shell, its output buffered as it is in a pipe: code, stdout, stderr."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    line = f"{shlex.quote(sys.executable)} -m lmbench {words} {streams}"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False, env=env)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("words", ["schedule list --json", "schedule list"])
def test_an_answer_that_cannot_be_written_is_told(words: str) -> None:
    code, _, err = buffered(words, "> /dev/full")
    assert code == 2
    assert err.startswith("lmbench: ")
    assert os.strerror(errno.ENOSPC) in err
    assert err.count("\n") == 1


def test_where_nobody_reads_an_answer_nothing_is_told() -> None:
    assert buffered("schedule list --json", "| sh -c 'exec <&-; sleep 3'") == (0, "", "")


@pytest.mark.parametrize(
    "words, streams, code", [("schedule list --json", ">&-", 0), ("score no.lmpack", "<&-", 2)]
)
def test_a_command_that_is_started_without_a_stream_has_an_empty_one(words, streams, code) -> None:
    done, out, err = buffered(words, streams)
    assert (done, out) == (code, "")
    assert "Traceback" not in err


@pytest.mark.parametrize("number", NUMBERS, ids=[errno.errorcode[n] for n in NUMBERS])
def test_a_rename_that_may_not_write_says_so_and_leaves_one_whole_session(
    number, home: Home, monkeypatch: pytest.MonkeyPatch, capsys: Capture
):
    home.session("default").runs()[0].update(status="finished")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refusing(number))
        assert lmbench(["sessions", "rename", "default", "second"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("lmbench: ")
    assert os.strerror(number) in err
    assert err.count("\n") == 1
    (session,) = home.sessions()
    assert session.read().name == session.name
    assert [run.read().status for run in session.runs()] == ["finished"]


def test_the_line_has_what_was_done_the_reason_a_remedy_and_last_the_file():
    error = OSError(errno.ENOSPC, "No space left on device", "/home/u/run.json")
    assert os_error_line(error, "train") == (
        "train: No space left on device; make room on that disk and try again (/home/u/run.json)"
    )
    assert os_error_line(OSError("odd"), "pack") == "pack: odd; try again"


@pytest.mark.parametrize(
    "number, remedy",
    [
        (errno.ENOSPC, "make room on that disk and resume the run"),
        (errno.EACCES, "see that you may read and write there, then resume the run"),
        (0, "resume the run"),
    ],
)
def test_the_line_of_a_run_says_to_resume_it(number: int, remedy: str):
    line = os_error_line(OSError(number, "no"), file=Path("here"), then=RESUME)
    assert line == f"no; {remedy} (here)"


def test_of_many_files_that_could_not_be_copied_the_first_is_named():
    error = shutil.Error([("a", "b", "[Errno 28] No space left on device"), ("c", "d", "e")])
    assert os_error_line(error) == "[Errno 28] No space left on device; try again (a)"
