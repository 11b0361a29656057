"""One run at a time on a device, the oldest first, whoever dies."""

from __future__ import annotations

import itertools
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from jobs_world import World

from lmbench.config import EvaluateConfig
from lmbench.errors import LmbenchError
from lmbench.jobs import launch
from lmbench.jobs import queue as queue_module
from lmbench.jobs.queue import lock_path, queue_device, take_device, take_queue
from lmbench.session import Run


def worked_on(runs: list[Run]) -> list[Run]:
    """The runs in the order in which they began, having made sure that no two overlapped."""
    records = sorted(((run.read(), run) for run in runs), key=lambda entry: entry[0].started or 0)
    for (one, _), (other, _) in itertools.pairwise(records):
        assert one.ended is not None
        assert other.started is not None
        assert one.ended <= other.started
    return [run for _, run in records]


def until_all(world: World, runs: list[Run], status: str = "finished") -> None:
    for run in runs:
        world.until_status(run, status)


def test_runs_of_all_sessions_are_worked_on_in_the_order_they_were_made(world: World) -> None:
    blocker = world.run()
    launch.start(blocker)
    world.until_working(blocker)
    runs = [world.run(total=3, session=name) for name in ("b", "a", "b", "c")]
    for run in reversed(runs):
        launch.start(run)
    assert {run.read().status for run in runs} == {"queued"}
    launch.request(blocker, "stop")
    until_all(world, runs)
    assert worked_on([blocker, *runs]) == [blocker, *runs]


def test_sessions_on_another_disk_are_of_the_folder_that_links_to_them(
    world: World, tmp_path: Path
) -> None:
    disk = tmp_path / "disk" / "mine"
    disk.mkdir(parents=True)
    world.home.sessions_path.symlink_to(disk)
    run = world.run(total=1)
    launch.start(run)
    world.until_status(run, "finished")
    assert world.home.find_run(str(run.path)).home == world.home
    assert list(disk.parent.iterdir()) == [disk]


def test_a_link_to_a_session_or_a_run_names_the_run_itself(world: World, tmp_path: Path) -> None:
    run = world.run(total=1)
    (tmp_path / "mine").symlink_to(run.session.path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "best").symlink_to(run.path)
    for named in (tmp_path / "mine" / "runs" / run.path.name, tmp_path / "runs" / "best"):
        found = world.home.find_run(str(named))
        assert (found, found.home) == (run, world.home)


def test_a_queue_outlives_whoever_started_it(world: World) -> None:
    runs = [world.run(total=10) for _ in range(3)]
    code = (
        "import os, signal, sys; from pathlib import Path; from lmbench.jobs import launch; "
        "from lmbench.session import Run\n"
        "for path in sys.argv[1:]: launch.start(Run(Path(path)))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    paths = [str(run.path) for run in runs]
    done = subprocess.run([sys.executable, "-c", code, *paths], check=False)
    assert done.returncode == -signal.SIGKILL
    until_all(world, runs)
    assert worked_on(runs) == runs


def test_a_detached_run_goes_on_after_its_terminal_is_closed(world: World) -> None:
    run = world.run()
    code = (
        # As a terminal has it, even where these tests are not to be hung up on.
        "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL); "
        "from pathlib import Path; from lmbench.jobs import launch; "
        "from lmbench.session import Run; launch.start(Run(Path(sys.argv[1]))); signal.pause()"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", code, str(run.path)])
    world.until_working(run)
    worker = world.pid(run)
    assert os.getsid(worker) == worker
    counted = len(world.counted(run))
    # What a terminal does when its window is closed: the programs in it are hung up on.
    os.close(terminal)
    _, how = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(how) == -signal.SIGHUP
    world.until(lambda: len(world.counted(run)) > counted + 5)
    assert run.status() == "running"
    launch.request(run, "stop")
    world.until_status(run, "stopped")


def test_a_killed_worker_does_not_hold_up_the_queue(world: World) -> None:
    first, second = world.run(), world.run(total=3)
    launch.start(first)
    launch.start(second)
    world.until_working(first)
    os.kill(world.pid(first), signal.SIGKILL)
    world.until_status(second, "finished")
    assert first.read().status == "lost"
    assert worked_on([first, second]) == [first, second]


def test_runs_launched_by_many_processes_at_once_never_overlap_and_none_is_forgotten(
    world: World,
) -> None:
    runs = [world.run(total=2) for _ in range(4)]
    code = (
        "import sys; from pathlib import Path; from lmbench.jobs import launch; "
        "from lmbench.session import Run; launch.start(Run(Path(sys.argv[1])))"
    )
    launchers = [subprocess.Popen([sys.executable, "-c", code, str(run.path)]) for run in runs]
    assert {launcher.wait() for launcher in launchers} == {0}
    until_all(world, runs)
    worked_on(runs)
    world.until(lambda: not world.processes())


def begins_after(world: World, run: Run) -> None:
    """What is queued behind this run, which is at work, begins when that is stopped."""
    waiting = world.run(total=2)
    launch.start(waiting)
    launch.request(run, "stop")
    world.until_status(waiting, "finished")
    assert worked_on([run, waiting]) == [run, waiting]


def left_by_its_supervisor(world: World) -> Run:
    """A run at work whose supervisor was killed."""
    run = world.run()
    launch.start(run)
    world.until_working(run)
    worker = world.pid(run)
    supervisor = psutil.Process(worker).ppid()
    os.kill(supervisor, signal.SIGKILL)
    world.until(lambda: psutil.Process(worker).ppid() != supervisor)
    return run


def test_the_device_stays_taken_while_a_worker_lives_whose_supervisor_was_killed(
    world: World,
) -> None:
    first = left_by_its_supervisor(world)
    assert take_device(world.home, "cpu") is None
    # Who starts another one waits for that worker.
    begins_after(world, first)


def test_a_dead_worker_of_a_dead_supervisor_gives_the_device_back(world: World) -> None:
    first = left_by_its_supervisor(world)
    os.kill(world.pid(first), signal.SIGKILL)
    world.until(lambda: first.status() == "lost")
    assert first.read().status == "running"
    assert launch.why_lost(first) == "its process is gone, and so is the one that watched it"

    second = world.run(total=2)
    launch.start(second)
    world.until_status(second, "finished")


def test_a_supervisor_that_is_asked_to_leave_lets_its_run_end_and_begins_no_other(
    world: World,
) -> None:
    first, second = world.run(), world.run(total=2)
    launch.start(first)
    world.until_working(first)
    os.kill(psutil.Process(world.pid(first)).ppid(), signal.SIGTERM)
    launch.request(first, "stop")
    world.until_status(first, "stopped")
    world.until(lambda: not world.processes())
    assert second.read().status == "queued"
    # Left in the queue with nobody to work on it, it is started by being resumed.
    launch.resume(second)
    world.until_status(second, "finished")


def test_what_is_queued_behind_a_supervisor_that_is_leaving_begins_after_it(world: World) -> None:
    first = world.run()
    launch.start(first)
    world.until_working(first)
    os.kill(psutil.Process(world.pid(first)).ppid(), signal.SIGTERM)
    world.until(lambda: (lock := take_queue(world.home, "cpu")) is not None and not os.close(lock))
    begins_after(world, first)


def test_a_run_that_could_not_be_begun_is_begun_when_it_is_resumed(world: World) -> None:
    bad, long = world.run(total=2), world.run()
    (bad.path / "log.txt").mkdir()
    launch.start(long)
    world.until_status(bad, "failed")
    world.until_working(long)
    (bad.path / "log.txt").rmdir()
    launch.resume(bad)
    launch.request(long, "stop")
    world.until_status(bad, "finished")


def test_a_foreground_run_begins_whatever_else_is_running(world: World) -> None:
    background = world.run()
    launch.start(background)
    world.until_working(background)
    waiting = world.run(total=2)
    launch.start(waiting)
    foreground = world.run(total=2)
    launch.start(foreground, queue=False)
    world.until_status(foreground, "finished")
    assert background.status() == "running"
    assert waiting.status() == "queued"
    launch.request(background, "stop")
    world.until_status(waiting, "finished")


def test_a_run_behind_a_foreground_run_waits_for_it(world: World) -> None:
    foreground = world.run()
    launch.start(foreground, queue=False)
    world.until_working(foreground)
    begins_after(world, foreground)


def test_a_run_that_is_stopped_in_the_queue_is_never_worked_on(world: World) -> None:
    first, second, third = world.run(), world.run(total=2), world.run(total=2)
    launch.start(first)
    world.until_working(first)
    launch.start(second)
    launch.start(third)
    launch.request(second, "stop")
    assert second.read().status == "stopped"
    launch.request(first, "stop")
    world.until_status(third, "finished")
    assert second.read().started is None
    with pytest.raises(LmbenchError, match="is stopped: there is no process to stop"):
        launch.request(second, "stop")


def test_a_run_with_a_damaged_record_does_not_hold_up_the_queue(world: World) -> None:
    damaged, sound = world.run(), world.run(total=2)
    (damaged.path / "run.json").write_text("{")
    launch.start(damaged)
    launch.start(sound)
    world.until_status(sound, "finished")


def test_a_worker_that_cannot_start_fails_its_run_and_not_the_queue(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A broken installation, as the worker sees it.
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import sys\nif 'lmbench.jobs.worker' in sys.orig_argv: raise SystemExit('no such wheel')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(broken))
    first, second = world.run(), world.run()
    launch.start(first)
    launch.start(second)
    for run in (first, second):
        world.until_status(run, "failed")
        assert "the worker could not start" in run.read().reason
        assert "no such wheel" in run.read().reason


def test_a_supervisor_that_cannot_start_fails_a_run_that_is_followed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text("raise SystemExit('no such wheel')\n")
    monkeypatch.setenv("PYTHONPATH", str(broken))
    run = world.run()
    launch.start(run)
    *_, last = launch.follow(run)
    assert last.status == "failed"
    assert run.read().reason.startswith("its supervisor could not start: ")
    assert run.read().reason.endswith("no such wheel")


def test_a_supervisor_that_cannot_hold_the_device_fails_the_run(world: World) -> None:
    lock = lock_path(world.home, "cpu")
    lock.mkdir(parents=True)
    run = world.run()
    launch.start(run)
    *_, last = launch.follow(run)
    assert last.status == "failed"
    assert run.read().reason == f"Is a directory; name a file, then resume the run ({lock})"
    assert run.log_path.read_text() == f"supervisor: {run.read().reason}\n"


@pytest.mark.parametrize(
    "settings, device",
    [
        ({"device": "cpu"}, "cpu"),
        ({"device": "cuda"}, "cuda:0"),
        ({"device": "cuda:3"}, "cuda:3"),
        ({"device": "mps"}, "mps"),
        ({"device": "cpu", "cuda": True}, "cuda:0"),
        ({"device": "auto"}, "cuda:0"),
    ],
)
def test_a_device_has_one_queue_whatever_it_is_called(
    settings: dict[str, str], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "_best_device", lambda: "cuda")
    assert queue_device(EvaluateConfig.model_validate(settings)) == device


def test_runs_for_different_devices_do_not_wait_for_each_other(world: World) -> None:
    on_cpu = world.run()
    launch.start(on_cpu)
    world.until_working(on_cpu)
    config = EvaluateConfig(runtime="count", tokens=2, device="cuda:7")
    elsewhere = world.home.open_session().new_run(config, "evaluate")
    launch.start(elsewhere)
    world.until_status(elsewhere, "finished")
    assert on_cpu.status() == "running"


@pytest.mark.parametrize(
    "visible, version, count",
    [
        (None, "2.9.0", 3),
        ("1,2", "2.9.0", 2),
        ("-1", "2.9.0", 0),
        ("", "2.9.0", 0),
        (None, "2.9.0+cpu", 0),
    ],
)
def test_gpus_are_counted_as_a_worker_would_see_them(
    visible: str | None, version: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("importlib.metadata.version", lambda _: version)
    monkeypatch.setattr("pynvml.nvmlInit", lambda: None)
    monkeypatch.setattr("pynvml.nvmlDeviceGetCount", lambda: 3)
    assert queue_module.gpu_count() == count
