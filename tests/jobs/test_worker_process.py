"""Real workers: what they write, how they end, and how they are killed."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jobs_world import World

from lmbench.config import EvaluateConfig
from lmbench.jobs import launch, worker
from lmbench.jobs.control_file import ask
from lmbench.jobs.places.local import Local
from lmbench.session import Home, Run, read_events
from lmbench.session.events import Event, Failed, Finished, Progress, RunResumed, StatusChanged
from lmbench.session.process import process_started, python


def events(run: Run) -> list[Event]:
    return read_events(run.events_path)


def finish(run: Run) -> launch.Look:
    *_, last = launch.follow(run)
    return last


def test_a_run_is_worked_on_and_its_end_is_written(world: World) -> None:
    run = world.run(total=5)
    launch.start(run)
    last = finish(run)
    record = run.read()
    assert last.status == record.status == "finished"
    assert record.results["number"] == 5
    assert record.results["seconds"] > 0
    assert record.results["test_ppl"] is None
    assert (record.pid, record.exit_code, record.reason) == (None, 0, "")
    assert record.started is not None
    assert record.ended is not None
    assert record.created <= record.started <= record.ended
    assert set(record.versions) == {"lmbench", "python", "torch", "numpy"}
    assert world.counted(run) == [1.0, 2.0, 3.0, 4.0, 5.0]
    end = events(run)[-1]
    assert isinstance(end, Finished)
    assert (end.status, end.results) == ("finished", record.results)


@pytest.mark.parametrize("where", ["_job", "_handler"])
def test_a_signal_while_the_end_is_written_is_not_heard(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Home(tmp_path).open_session().new_run(EvaluateConfig(), "evaluate")
    handlers: dict[int, object] = {}
    heard: list[object] = []

    def stopped_twice(*_: object) -> None:
        raise worker.StopAtOnceError

    def end(*arguments: Any, **options: Any) -> None:
        heard.append(handlers[signal.SIGTERM])
        write_end(*arguments, **options)

    write_end = worker._end
    monkeypatch.setattr(worker, "_end", end)
    monkeypatch.setattr(worker.signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(worker, where, stopped_twice)
    assert worker.work(run) == 0
    assert heard == [signal.SIG_IGN]
    assert run.read().status == "stopped"


def test_a_worker_is_a_process_apart_that_imports_only_its_own_kind(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    # A module of the user's own folder must not stand in for the library's.
    (tmp_path / "here" / "random.py").write_text("raise SystemExit('the wrong module')\n")
    monkeypatch.chdir(tmp_path / "here")
    run = world.run("look")
    monkeypatch.chdir(tmp_path)
    launch.start(run)
    assert finish(run).status == "finished"
    results = run.read().results
    assert results["cwd"] == str(tmp_path / "here")
    assert results["home"] == str(tmp_path)
    assert results["torch"] is False
    assert results["kinds"] == ["lmbench.jobs.kinds.evaluate"]
    assert results["session"] == results["pid"]
    assert results["session"] != os.getsid(0)
    assert results["stdin"] == ""
    log = run.log_path.read_text()
    assert "to stdout\n" in log
    assert "to stderr\n" in log
    assert "warning: mind the gap\n" in log


@pytest.mark.parametrize(
    "behaviour, reason, code",
    [
        ("fail", "ZeroDivisionError: nothing to divide by", 1),
        ("refuse", "corpus x: file y is missing; put it there", 2),
        ("out_of_gpu_memory", "out of memory: tried to allocate 7 GiB", 1),
        ("out_of_memory", "out of memory", 1),
        ("no_such_behaviour", "KeyError: 'no_such_behaviour'", 1),
    ],
)
def test_an_error_is_told_in_words_and_its_traceback_kept(
    world: World, behaviour: str, reason: str, code: int
) -> None:
    run = world.run(behaviour)
    launch.start(run)
    assert finish(run).status == "failed"
    record = run.read()
    assert (record.reason, record.exit_code, record.pid) == (reason, code, None)
    failed = events(run)[-1]
    assert isinstance(failed, Failed)
    assert failed.reason == reason
    assert "Traceback" in failed.traceback
    # A user's mistake is a line; a defect is shown in full.
    written = f"error: {reason}\n" if code == 2 else failed.traceback
    world.until(lambda: run.log_path.read_text().endswith(written))
    assert ("Traceback" in run.log_path.read_text()) == (code != 2)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)],
            check=True, capture_output=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk cannot be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_run_on_a_full_disk_says_so_and_goes_on_when_there_is_room(
    world: World, small_disk: Path
) -> None:
    full = World(Home(small_disk))
    run = full.run(total=400)
    launch.start(run)
    full.until_working(run)
    filling = small_disk / "filling"
    with filling.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    full.until_status(run, "failed")
    words, _, file = run.read().reason.partition(" (")
    assert Path(file.removesuffix(")")).is_relative_to(run.path)
    assert words == "No space left on device; make room on that disk and resume the run"
    assert isinstance(events(run)[-1], Failed)
    filling.unlink()
    launch.resume(run)
    assert finish(run).status == "finished"
    assert not (run.path / ".room").exists()


@pytest.mark.parametrize("before, written", [("whole\n", ""), ("torn o", "\n")])
def test_the_reason_is_a_line_of_its_own(
    before: str, written: str, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    run = world.run()
    run.log_path.write_text(before)
    worker._print_reason(run, "no room")
    assert capsys.readouterr().err == f"{written}error: no room\n"


def test_an_installation_that_cannot_be_read_damages_no_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: None)
    assert worker._versions()["torch"] == "unknown"


def test_settings_that_cannot_be_read_fail_the_run(world: World) -> None:
    run = world.run()
    path = run.path / "run.json"
    path.write_text(path.read_text().replace('"runtime"', '"runtimee"'))
    launch.start(run)
    assert finish(run).status == "failed"
    assert "unknown setting 'runtimee'; did you mean 'runtime'?" in run.read().reason


@pytest.mark.parametrize(
    "behaviour, code, reason",
    [
        ("fault", -signal.SIGSEGV, "crashed by a memory fault"),
        ("leave", 7, "its process ended with exit code 7 and wrote no end"),
    ],
)
def test_a_worker_that_dies_without_a_word_is_lost_for_a_known_reason(
    world: World, behaviour: str, code: int, reason: str
) -> None:
    run = world.run(behaviour)
    launch.start(run)
    assert finish(run).status == "lost"
    record = run.read()
    assert (record.status, record.exit_code) == ("lost", code)
    assert reason in record.reason
    if behaviour == "fault":
        # Where it crashed is in the log.
        assert "in fault" in run.log_path.read_text()


def test_a_killed_worker_is_lost_and_resumed_exactly(world: World) -> None:
    run = world.run(total=60)
    launch.start(run)
    world.until(lambda: len(world.counted(run)) > 3)
    ask(run, "checkpoint")
    world.until(lambda: run.checkpoint("last") is not None)
    saved = json.loads((run.path / "last" / "trainer.json").read_text())["number"]
    world.until(lambda: len(world.counted(run)) > saved)
    os.kill(world.pid(run), signal.SIGKILL)
    assert finish(run).status == "lost"
    assert run.read().exit_code == -9
    assert launch.why_lost(run) == "killed, probably out of memory"

    launch.resume(run)
    assert finish(run).status == "finished"
    assert world.counted(run) == [float(n) for n in range(1, 61)]
    assert run.read().results["number"] == 60
    assert run.read().exit_code == 0
    resumed = [event for event in events(run) if isinstance(event, RunResumed)]
    assert [event.step for event in resumed] == [saved]


def test_a_run_killed_before_its_first_checkpoint_begins_anew(world: World) -> None:
    run = world.run(total=30)
    launch.start(run)
    world.until_working(run)
    os.kill(world.pid(run), signal.SIGKILL)
    world.until_status(run, "lost")
    launch.resume(run)
    finish(run)
    assert world.counted(run) == [float(n) for n in range(1, 31)]


def test_one_sigterm_stops_cleanly(world: World) -> None:
    run = world.run()
    launch.start(run)
    world.until_working(run)
    os.kill(world.pid(run), signal.SIGTERM)
    assert finish(run).status == "stopped"
    assert run.read().results["number"] == len(world.counted(run))
    assert run.checkpoint("last") is not None


def test_a_second_sigterm_stops_at_once(world: World) -> None:
    run = world.run("deaf")
    launch.start(run)
    world.until_working(run)
    pid = world.pid(run)
    os.kill(pid, signal.SIGTERM)
    # Two that come before the first is answered are one.
    world.until(lambda: "heard" in [e.what for e in events(run) if isinstance(e, Progress)])
    os.kill(pid, signal.SIGTERM)
    assert finish(run).status == "stopped"
    assert "stopped at once" in run.read().reason


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_a_terminals_signals_mean_nothing_to_a_worker(world: World, name: str) -> None:
    run = world.run(total=20)
    launch.start(run)
    world.until_working(run)
    os.kill(world.pid(run), getattr(signal, name))
    assert finish(run).status == "finished"


def test_a_run_is_paused_continued_and_stopped_from_another_process(world: World) -> None:
    run = world.run()
    launch.start(run)
    world.until_working(run)
    _from_elsewhere(run, "pause")
    world.until_status(run, "paused")
    counted = world.counted(run)
    assert run.status() == "paused"
    _from_elsewhere(run, "continue")
    world.until(lambda: len(world.counted(run)) > len(counted))
    _from_elsewhere(run, "stop")
    assert finish(run).status == "stopped"
    changes = [event.status for event in events(run) if isinstance(event, StatusChanged)]
    assert changes == ["paused", "running"]


def _from_elsewhere(run: Run, action: str) -> None:
    code = (
        "import sys; from pathlib import Path; from lmbench.jobs import launch; "
        "from lmbench.session import Run; launch.request(Run(Path(sys.argv[1])), sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, str(run.path), action], check=True)


@pytest.mark.parametrize("full", [False, True])
def test_a_killed_run_is_stopped_at_the_users_request(world: World, full: bool) -> None:
    run = world.run("deaf")
    launch.start(run)
    world.until_working(run)
    pid = world.pid(run)
    if full:
        # A full disk is when one wants it.
        run.control_path.unlink(missing_ok=True)
        run.control_path.symlink_to("/dev/full")
    launch.request(run, "kill")
    record = run.read()
    assert (record.status, record.pid) == ("stopped", None)
    assert record.reason == "killed at the user's request"
    assert process_started(pid) is None


def test_two_workers_for_one_run_work_once(world: World) -> None:
    run = world.run(total=10)
    command = python("lmbench.jobs.worker", str(run.path))
    workers = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(3)]
    assert [worker.wait() for worker in workers] == [0, 0, 0]
    assert run.read().status == "finished"
    assert world.counted(run) == [float(n) for n in range(1, 11)]


def test_wishes_of_an_earlier_attempt_are_not_heard(world: World) -> None:
    run = world.run(total=5)
    run.control_path.write_text("stop\n")
    launch.start(run)
    assert finish(run).status == "finished"


def test_a_worker_says_what_it_would_need_when_the_folder_is_none(tmp_path: Path) -> None:
    done = subprocess.run(
        python("lmbench.jobs.worker", str(tmp_path / "nowhere")), capture_output=True, check=False
    )
    assert done.returncode == 0
    assert not (tmp_path / "nowhere").exists()


def test_no_number_of_progress_is_lost_in_following(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Local, "look_s", 0.001)
    run = world.run(total=40)
    launch.start(run)
    followed = [e for look in launch.follow(run) for e in look.events]
    assert [e.done for e in followed if isinstance(e, Progress)] == world.counted(run)
    assert isinstance(followed[-1], Finished)
