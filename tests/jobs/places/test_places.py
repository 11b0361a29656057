"""Sending runs to a place: what is asked of Slurm, and what is refused before anything is made."""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
from pathlib import Path

import pytest
from jobs_world import World
from sweep_world import write_sweep

from lmbench.cli import run as lmbench
from lmbench.config import TrainConfig
from lmbench.errors import LmbenchError
from lmbench.jobs import launch
from lmbench.jobs.next_run import FolderQueue
from lmbench.jobs.places import PLACES, slurm_task
from lmbench.jobs.places.settings import PlaceSettings, load_place_settings, parse_place_settings
from lmbench.jobs.places.slurm import Slurm
from lmbench.report.tables import run_document
from lmbench.session import Home, Run

FAKE = """#!/bin/bash
echo "$(basename "$0") $*" >> "$FAKE_SLURM/calls"
[ "$(basename "$0")" = sbatch ] && cat >> "$FAKE_SLURM/scripts"
cat "$FAKE_SLURM/$(basename "$0")" 2>/dev/null
exit 0
"""


class FakeSlurm:
    """Commands that write down how they were called, and answer what they are told to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("sbatch", "squeue", "scancel", "scontrol", "sinfo"):
            (folder / "bin").mkdir(parents=True, exist_ok=True)
            (folder / "bin" / name).write_text(FAKE)
            (folder / "bin" / name).chmod(0o755)
        self.answer("sbatch", "17\n")
        self.answer("sinfo", f"{platform.node()}\n")

    def answer(self, command: str, text: str) -> None:
        (self.folder / command).write_text(text)

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    folder = tmp_path / "slurm"
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("LMBENCH_CONFIG", str(tmp_path))
    monkeypatch.setitem(PLACES, "slurm", Slurm())
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    return FakeSlurm(folder)


def sent(world: World, total: int = 3) -> Run:
    return world.run(total=total, place="slurm")


def test_without_slurm_a_command_says_so_and_makes_nothing(
    sweep_home: Home, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert lmbench(["train", "--data", "tiny", "--place", "slurm"]) == 2
    assert "sbatch is not on the path, so there is no Slurm here" in capfd.readouterr().err
    file = write_sweep(sweep_home.path)
    assert lmbench(["sweep", "start", str(file), "--place", "slurm"]) == 2
    assert not sweep_home.sessions()


def test_doctor_says_which_places_work_from_here_and_why_others_do_not(
    fake: FakeSlurm,
    sweep_home: Home,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert lmbench(["doctor", "--json"]) == 0
    findings = {each["what"]: each for each in json.loads(capfd.readouterr().out)["findings"]}
    places = [findings[f"place {name}"] for name in ("local", "slurm", "ray")]
    assert [each["good"] for each in places] == [True, True, None]
    assert "default partition, 1 node;" in places[1]["value"]
    assert places[2]["value"] == "Ray is not installed: pip install 'lmbench[ray]'"


def test_a_folder_that_the_nodes_cannot_see_is_refused(fake: FakeSlurm, tmp_path: Path) -> None:
    fake.answer("sinfo", f"{platform.node()}\nnode7\n")
    refusal = PLACES["slurm"].refusal(Home(tmp_path))
    assert refusal is not None
    assert "which node7 and the other nodes cannot see: name a shared folder" in refusal
    fake.answer("sinfo", "")
    assert "Slurm has no machine" in str(PLACES["slurm"].refusal(Home(tmp_path)))


def test_a_stage_is_an_array_that_waits_for_the_one_before(fake: FakeSlurm, world: World) -> None:
    (Path(os.environ["LMBENCH_CONFIG"]) / "places.toml").write_text(
        '[slurm]\npartition = "p"\naccount = "a"\ntime = "1-12"\ngpus = 2\nsetup = ["module x"]\n'
    )
    first, second = sent(world), sent(world)
    child = world.run(parent=first, place="slurm", point="prune 1")
    launch.start_all([first, second, child])
    one, released, two, _ = [call for call in fake.calls() if not call.startswith("sinfo")]
    asked = {"--array=0-1", "--hold", "--requeue", "--partition=p", "--account=a", "--gres=gpu:2"}
    assert asked | {"--time=1-12"} <= set(one.split())
    assert released == "scontrol release 17"
    assert "--dependency=afterany:17 " in f"{two} "
    assert "--array=0-0" in two
    assert [run.read().job for run in (first, second, child)] == ["17_0", "17_1", "17_0"]
    script = (fake.folder / "scripts").read_text()
    assert f"{first.path}\n{second.path}\n" in script
    assert "\nmodule x\n" in script
    # What was submitted is not submitted again.
    count = len(fake.calls())
    launch.start_all([first, second, child])
    assert len(fake.calls()) == count


def test_the_queue_of_this_machine_leaves_them_alone(fake: FakeSlurm, world: World) -> None:
    sent(world)
    own = world.run()
    queue = FolderQueue(world.home)
    queue.look()
    assert queue.next("cpu", {}) == own
    own.transition("stopped")
    queue.look()
    assert queue.next("cpu", {}) is None


def test_one_call_of_squeue_tells_of_all_and_not_again_at_once(
    fake: FakeSlurm, world: World
) -> None:
    gone, waits = sent(world), sent(world)
    launch.start_all([gone, waits])
    fake.answer("squeue", "17_1\n18\n")
    PLACES["slurm"].poll([gone, waits])
    PLACES["slurm"].poll([gone, waits])
    assert sum(call.startswith("squeue") for call in fake.calls()) == 1
    assert gone.status() == "failed"
    assert "its Slurm job 17_0 ended before the run began" in gone.read().reason
    assert waits.status() == "queued"


def test_a_squeue_that_fails_is_asked_again_later(fake: FakeSlurm, world: World) -> None:
    run = sent(world)
    launch.start(run)
    (fake.folder / "bin" / "squeue").write_text("#!/bin/bash\necho timed out >&2\nexit 1\n")
    PLACES["slurm"].poll([run])
    assert run.status() == "queued"


def test_a_child_waits_for_a_parent_that_was_submitted_earlier(
    fake: FakeSlurm, world: World
) -> None:
    parent, ended = sent(world), sent(world)
    launch.start_all([parent, ended])
    ended.update(status="finished")
    children = [world.run(parent=one, place="slurm", point="p") for one in (parent, ended)]
    launch.start_all(children)
    [call] = [call for call in fake.calls()[2:] if call.startswith("sbatch")]
    assert "--dependency=afterany:17_0 " in f"{call} "


def test_a_refused_submission_leaves_no_run_and_a_stopped_one_as_it_was(
    fake: FakeSlurm,
    sweep_home: Home,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refuses = "#!/bin/bash\necho invalid account >&2\nexit 1\n"
    (fake.folder / "bin" / "sbatch").write_text(refuses)
    small = ["--data", "tiny", "--place", "slurm", "--session", "refused", "--detach"]
    for more in ([], ["--seeds", "2"]):
        assert lmbench(["train", *small, *more]) == 2
        assert "sbatch: invalid account" in capfd.readouterr().err
    session = sweep_home.session("refused")
    assert session.runs() == []
    run = session.new_run(TrainConfig(data="tiny"), "train", place="slurm")
    run.update(status="stopped", reason="by hand")
    monkeypatch.setenv("PATH", "/nowhere")
    for command in (["runs", "resume", run.ref], ["train", "--resume", run.ref]):
        assert lmbench(command) == 2
        assert "there is no Slurm here" in capfd.readouterr().err
    assert (run.status(), run.read().reason) == ("stopped", "by hand")


def test_a_queued_run_is_taken_back_and_can_be_submitted_again(
    fake: FakeSlurm, world: World
) -> None:
    run = sent(world)
    launch.start(run)
    launch.request(run, "stop")
    assert run.status() == "stopped"
    assert "scancel 17_0" in fake.calls()
    fake.answer("sbatch", "18\n")
    launch.resume(run)
    shown = run_document(run)
    assert (shown["status"], shown["place"], shown["job"]) == ("queued", "slurm", "18_0")


def test_an_array_whose_numbers_cannot_be_written_down_is_taken_back(
    fake: FakeSlurm, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    run = sent(world)
    monkeypatch.setattr(Run, "update", full)
    with pytest.raises(OSError, match="No space"):
        launch.start(run)
    assert fake.calls()[-1] == "scancel 17"


def test_an_array_that_cannot_be_released_is_taken_back_and_its_runs_are_submitted_again(
    fake: FakeSlurm, world: World
) -> None:
    run = sent(world)
    released = (fake.folder / "bin" / "scontrol").read_text()
    (fake.folder / "bin" / "scontrol").write_text("#!/bin/bash\necho busy >&2\nexit 1\n")
    with pytest.raises(LmbenchError, match="scontrol: busy"):
        launch.start(run)
    assert fake.calls()[-1] == "scancel 17"
    (fake.folder / "bin" / "scontrol").write_text(released)
    fake.answer("sbatch", "18\n")
    launch.start(run)
    assert (run.status(), run.read().job) == ("queued", "18_0")


def test_a_restarted_job_takes_its_run_over(
    fake: FakeSlurm, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run = sent(world, total=5)
    run.update(status="running", job="17_0", host="a node that died", attempt=1, started=1.0)
    (run.path / ".attempt-1").mkdir()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert slurm_task.main([str(run.path)]) == 0
    signal.signal(signal.SIGTERM, before)
    record = run.read()
    assert (record.status, record.attempt, record.host) == ("finished", 2, platform.node())
    assert world.counted(run) == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_job_whose_worker_dies_goes_back_into_the_queue(
    fake: FakeSlurm, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run = world.run("fault", place="slurm")
    run.update(job="17_0")
    # As of the last task of an array, which has the array's own number.
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert slurm_task.main([str(run.path)]) == 0
    assert (run.status(), fake.calls()[-1]) == ("queued", "scontrol requeue 17_0")
    # Not for ever.
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    assert slurm_task.main([str(run.path)]) == 0
    assert run.status() == "lost"
    signal.signal(signal.SIGTERM, before)


def test_a_job_whose_parent_did_not_finish_ends_with_the_reason(
    fake: FakeSlurm, world: World
) -> None:
    parent = sent(world)
    parent.update(status="stopped")
    child = world.run(parent=parent, place="slurm", point="prune 1")
    child.update(job="17_0")
    assert slurm_task.main([str(child.path)]) == 0
    assert child.read().reason == f"run {parent.ref}, which it starts from, is stopped"


def test_a_job_leaves_a_run_alone_that_was_sent_elsewhere_since(
    fake: FakeSlurm, world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    run = sent(world)
    run.update(status="stopped", job="17_0")
    launch.requeue(run, "local")
    assert run.read().place == "local"
    assert slurm_task.main([str(run.path)]) == 0
    assert "job 17_0 leaves run default/001-evaluate to where it was sent" in capfd.readouterr().out
    assert run.read().attempt == 0


@pytest.mark.parametrize(
    "text, problem",
    [
        ("[slurm", "cannot be read as TOML"),
        ("[pbs]", "'pbs' is unknown: the sections are [slurm] and [ray]"),
        (
            "[ray]\npartition = 'x'",
            "field 'ray.partition': is unknown: use gpus",
        ),
        ("[ray]\naddress = 'ray://head:10001'", "field 'ray.address': string should match"),
        ("[slurm]\nqueue = 'x'", "field 'slurm.queue': is unknown: use gpus, cpus, setup, part"),
        ("[slurm]\ntime = 60", "field 'slurm.time': input should be a valid string"),
        ("[slurm]\npartition = 'a b'", "field 'slurm.partition': string should match"),
        ("slurm = 3", "field 'slurm'"),
    ],
)
def test_a_mistake_in_the_settings_is_a_line_with_its_field(text: str, problem: str) -> None:
    with pytest.raises(LmbenchError) as caught:
        parse_place_settings(text.encode(), Path("places.toml"))
    assert problem in caught.value.message
    assert caught.value.message.startswith("places.toml: ")


def test_without_a_file_the_cluster_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMBENCH_CONFIG", str(tmp_path))
    assert load_place_settings() == PlaceSettings()
