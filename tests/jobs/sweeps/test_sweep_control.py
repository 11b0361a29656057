"""Making a sweep's runs, however often that is killed; stopping, resuming and deleting it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sweep_world import SWEEP, start_sweep, write_sweep

from lmbench.errors import LmbenchError
from lmbench.jobs import launch
from lmbench.jobs.chains import make_step
from lmbench.jobs.sweeps import control, making
from lmbench.jobs.sweeps.kept_file import kept_files, kept_path
from lmbench.jobs.sweeps.making import alone
from lmbench.jobs.sweeps.status import sweep_status
from lmbench.report.seeds import Spread, spread_of
from lmbench.session import Home, Run, Session
from lmbench.session.archive import pack, unpack
from lmbench.session.manage import delete_run
from lmbench.session.store import Corpus

KILLED_AT_A_RENAME = """
import os, signal, sys
from pathlib import Path

from lmbench.jobs.sweeps import control
from lmbench.session import Home

left = int(sys.argv[1])

def dying(rename):
    def renamed(self, target):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)
    return renamed

home = Home.find()
prepared = control.prepare(Path(sys.argv[2]), home)
Path.rename, Path.replace = dying(Path.rename), dying(Path.replace)
control.start(prepared, home)
"""


def what_there_is(session: Session) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for run in session.runs():
        record = run.read()
        found[record.point] = (run.path.name, record.kind, record.config, record.parent)
    assert len(found) == len(session.runs()), "a run was made twice"
    return found


# The renames of a start: two schedules, the sweep's file, and for each run its record, its folder
# and the copy of its schedule. The session's record is the first of all.
@pytest.mark.parametrize("renames", [0, 1, 3, 4, 6, 12])
def test_a_start_that_was_killed_goes_on_with_exactly_what_is_missing(
    renames: int, sweep_home: Home, tmp_path: Path
) -> None:
    file = write_sweep(tmp_path / "study")
    undisturbed, _ = control.start(control.prepare(file, sweep_home, "undisturbed"), sweep_home)
    wanted = what_there_is(undisturbed)
    command = [sys.executable, "-c", KILLED_AT_A_RENAME, str(renames), str(file)]
    done = subprocess.run(command, env=os.environ | {"LMBENCH_HOME": str(sweep_home.path)})
    assert done.returncode == -signal.SIGKILL
    session, runs = control.start(control.prepare(file, sweep_home), sweep_home)
    made = what_there_is(session)
    assert _in(made, "study") == _in(wanted, "undisturbed")
    assert [run.ref for run in runs] == [f"study/{name}" for name, *_ in made.values()]


def _in(made: dict[str, tuple[object, ...]], session: str) -> str:
    return repr(made).replace(f"'{session}/", "'S/").replace(f"/{session}/", "/S/")


def test_resume_makes_what_is_missing_when_the_original_is_gone(
    sweep_home: Home, tmp_path: Path
) -> None:
    session, runs = start_sweep(sweep_home)
    for run in (runs[5], runs[2]):
        control.delete_run(run)
    for path in (tmp_path / "study" / "levels").iterdir():
        path.unlink()
    again = control.make_missing(session)
    assert [run.read().point for run in again] == [
        *("train 1", "train 2", "prune 1", "prune 2", "prune 3", "prune 4")
    ]
    assert [run.read().parent for run in again[2:]] == [
        *("study/001-train", "study/001-train", "study/002-train", "study/002-train")
    ]
    assert (again[2].path / "schedule.yaml").read_text().count("0.5") == 1


def test_a_changed_file_is_refused_with_what_differs(sweep_home: Home, tmp_path: Path) -> None:
    session, _ = start_sweep(sweep_home)
    before = kept_path(session).read_bytes()
    with pytest.raises(LmbenchError) as refused:
        start_sweep(sweep_home, SWEEP.replace("seeds: 2", "seeds: 3").replace("lr: 1.0", "lr: 2.0"))
    lines = refused.value.message.split("\n")
    assert "line 3: seeds: was 2, is 3" in lines[0]
    assert "line 6: stages: 1: settings: lr: was 1.0, is 2.0" in lines[1]
    assert "lmbench sweep resume study" in lines[2]
    assert kept_path(session).read_bytes() == before
    assert len(session.runs()) == 6
    # Another comment is no other sweep.
    assert len(start_sweep(sweep_home, "# the same\n" + SWEEP)[1]) == 6
    (tmp_path / "study" / "levels" / "agp-50.yaml").write_text(
        (tmp_path / "study" / "levels" / "agp-80.yaml").read_text() + "# almost\n"
    )
    file = tmp_path / "study" / "sweep.yaml"
    with pytest.raises(LmbenchError, match=r"compress: 1: was schedules/agp-50\.yaml, is"):
        control.start(control.prepare(file, sweep_home), sweep_home)


def test_a_sweep_stays_at_the_place_that_it_was_made_for(sweep_home: Home) -> None:
    start_sweep(sweep_home)
    prepared = control.prepare(sweep_home.path.parent / "study" / "sweep.yaml", sweep_home)
    with pytest.raises(LmbenchError, match=r"--place slurm: session 'study': .* place local"):
        control.start(prepared, sweep_home, "slurm")


def test_a_sweep_overwrites_no_schedule_of_its_session(sweep_home: Home) -> None:
    session = sweep_home.open_session("study")
    own = session.path / "schedules" / "agp-50.yaml"
    own.parent.mkdir()
    own.write_text("mine\n")
    _, runs = start_sweep(sweep_home)
    assert own.read_text() == "mine\n"
    assert runs[2].read().config["compress"] == "sessions/study/schedules/agp-50-2.yaml"


def test_the_parent_teaches_where_there_is_one(sweep_home: Home) -> None:
    stages = "  - {kind: train, settings: {data: tiny, batch_size: 2%s}}\n"
    stages += "  - {kind: prune, settings: {compress: none, teacher: parent}}\n"
    with pytest.raises(LmbenchError, match=r"stages: 1: --teacher parent: this run starts from no"):
        start_sweep(sweep_home, "version: 1\nstages:\n" + stages % ", teacher: parent")
    assert not sweep_home.sessions()
    _, runs = start_sweep(sweep_home, "version: 1\nstages:\n" + stages % "")
    assert [run.read().config.get("teacher") for run in runs] == [None, "parent"]


@pytest.mark.parametrize("shared", ["anchor", "merge key"])
def test_the_kept_copy_of_a_sweep_with_anchors_is_the_same_sweep(
    sweep_home: Home, shared: str
) -> None:
    stages = {
        "anchor": """  - kind: prune
    settings: {compress: &level levels/agp-50.yaml}
  - kind: prune
    name: again
    from: train
    settings: {compress: *level, lr: 3.0}
""",
        "merge key": """  - kind: prune
    settings: &base {compress: levels/agp-50.yaml, lr: 2.0}
  - kind: prune
    name: again
    from: train
    settings: {<<: *base, lr: 3.0}
""",
    }
    text = SWEEP[: SWEEP.index("  - kind: prune")] + stages[shared]
    _, runs = start_sweep(sweep_home, text)
    settings = [run.read().config for run in runs[-2:]]
    assert {one["compress"] for one in settings} == {"sessions/study/schedules/agp-50.yaml"}
    assert {one["lr"] for one in settings} == {3.0}
    assert [run.ref for run in start_sweep(sweep_home, text)[1]] == [run.ref for run in runs]


def test_a_start_where_the_kept_copy_is_damaged_says_how_to_go_on(sweep_home: Home) -> None:
    session, _ = start_sweep(sweep_home)
    kept_path(session).write_text("version: *nobody\n")
    with pytest.raises(LmbenchError, match=r"undefined alias.*\n.*--session NAME"):
        start_sweep(sweep_home)


def test_stop_empties_the_queue_and_resume_fills_it(sweep_home: Home) -> None:
    session, runs = start_sweep(sweep_home)
    runs[0].update(status="finished")
    runs[1].update(status="failed")
    assert control.stop(session) == 4
    assert [run.status() for run in runs] == ["finished", "failed", *["stopped"] * 4]
    assert control.requeue(runs, failed=False) == 4
    assert [run.status() for run in runs] == ["finished", "failed", *["queued"] * 4]
    assert control.requeue(runs, failed=True) == 1
    assert runs[1].status() == "queued"


def test_runs_start_from_what_is_made_in_the_place_of_a_deleted_one(sweep_home: Home) -> None:
    session, _ = start_sweep(sweep_home)
    control.stop(session)
    made = control.made_runs(session)
    children = {run.read().parent: key for key, run in made.items() if run.read().parent}
    [gone] = [key for key, run in made.items() if run.ref in children][:1]
    lost = made[gone].ref
    delete_run(made[gone])
    control.resume(session, failed=False)
    again = control.made_runs(session)
    assert again[gone].ref != lost
    parents = {run.read().parent for run in again.values()}
    assert lost not in parents
    assert again[gone].ref in parents


def test_what_failed_behind_a_deleted_training_is_retried_behind_the_new_one(
    sweep_home: Home,
) -> None:
    session, runs = start_sweep(sweep_home)
    training, point = runs[0], runs[0].read().point
    children = [run for run in runs if run.read().parent == training.ref]
    for run in (training, *children):
        run.update(status="failed", started=1.0, reason="its parent failed")
    delete_run(training)
    control.resume(session, failed=True)
    again = control.made_runs(session)[point]
    assert {run.read().parent for run in children} == {again.ref}
    assert {run.status() for run in children} == {"queued"}


BREAKS_OFF = [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")]


@pytest.mark.parametrize("error", BREAKS_OFF, ids=repr)
def test_runs_that_are_made_when_it_breaks_off_are_not_left_queued(
    sweep_home: Home, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    made: list[str] = []

    def interrupted(*arguments: Any, **named: Any) -> Run:
        if len(made) == 3:
            raise error
        made.append(named["point"])
        return make_step(*arguments, **named)

    monkeypatch.setattr(making, "make_step", interrupted)
    with pytest.raises(type(error)):
        start_sweep(sweep_home)
    [session] = sweep_home.sessions()
    assert session.runs() == []
    # And what was broken off can be begun again.
    monkeypatch.setattr(making, "make_step", make_step)
    _, runs = start_sweep(sweep_home)
    assert {run.status() for run in runs} == {"queued"}


@pytest.mark.parametrize("error", BREAKS_OFF, ids=repr)
def test_runs_that_go_on_when_it_breaks_off_are_not_left_queued(
    sweep_home: Home, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    session, runs = start_sweep(sweep_home)
    control.stop(session)
    again: list[Run] = []

    def interrupted(run: Run) -> None:
        if len(again) == 2:
            raise error
        again.append(run)
        requeue(run)

    requeue = launch.requeue
    monkeypatch.setattr(launch, "requeue", interrupted)
    with pytest.raises(type(error)):
        control.resume(session, failed=False)
    assert len(again) == 2
    assert {run.status() for run in runs} == {"stopped"}


def test_a_sweep_whose_rungs_cannot_be_judged_is_stopped_all_the_same(
    sweep_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, runs = start_sweep(sweep_home)

    def damaged(_: Session) -> None:
        raise LmbenchError("schedule.yaml: is damaged")

    monkeypatch.setattr(control, "advance", damaged)
    assert control.stop(session) == len(runs)


def test_delete_removes_the_session_only_where_it_holds_nothing_else(sweep_home: Home) -> None:
    session, runs = start_sweep(sweep_home)
    with pytest.raises(LmbenchError, match="6 runs of it wait or are worked on"):
        control.refuse_busy(session)
    control.stop(session)
    control.refuse_busy(session)
    own = session.new_run(runs[0].config(), "train", name="mine")
    launch.request(own, "stop")
    control.delete(session)
    assert session.runs() == [own]
    with pytest.raises(LmbenchError, match="is no sweep"):
        control.find_sweep(sweep_home, "study")
    session, _ = start_sweep(sweep_home, SWEEP.replace("name: study", "name: other"))
    control.stop(session)
    assert [path.name for path in kept_files(session)] == ["agp-50.yaml", "agp-80.yaml"]
    assert control.ends_session(session)
    control.delete(session)
    assert not session.exists()


def test_delete_keeps_a_session_whose_notes_cannot_be_read(sweep_home: Home) -> None:
    session, _ = start_sweep(sweep_home)
    control.stop(session)
    (session.path / "session.json").write_text("{damaged")
    assert not control.ends_session(session)
    control.delete(session)
    assert (session.path / "session.json").read_text() == "{damaged"


@pytest.mark.parametrize(
    "more",
    [
        "notes",
        "samples.jsonl",
        "schedules/mine.yaml",
        "runs/003-train-backup/model.safetensors",
        "vocabulary/notes.txt",
        "schedules/proposals.json",
        ".mine/notes.txt",
    ],
)
def test_delete_keeps_the_session_of_what_the_user_made_there(sweep_home: Home, more: str) -> None:
    session, _ = start_sweep(sweep_home)
    control.stop(session)
    if more == "notes":
        session.update(notes="for the thesis")
    else:
        (session.path / more).parent.mkdir(exist_ok=True)
        (session.path / more).write_text("mine")
    control.delete(session)
    assert session.exists()
    assert session.runs() == []
    assert session.read().notes == ("for the thesis" if more == "notes" else "")
    assert more == "notes" or (session.path / more).read_text() == "mine"


def test_a_copied_renamed_or_unpacked_sweep_is_the_same_sweep(
    sweep_home: Home, tmp_path: Path
) -> None:
    session, _ = start_sweep(sweep_home)
    control.stop(session)
    pack(session, tmp_path / "study.lmbench")
    unpacked = unpack(tmp_path / "study.lmbench", sweep_home, "prune")
    runs = control.make_missing(unpacked)
    assert len(runs) == len(unpacked.runs()) == 6
    assert sweep_status(unpacked).missing == 0
    control.delete_run(runs[3])
    assert control.make_missing(unpacked)[3].read().parent == "prune/001-train"


def test_only_one_process_at_a_time_makes_the_runs(sweep_home: Home) -> None:
    session, _ = start_sweep(sweep_home)
    with alone(session), pytest.raises(LmbenchError, match="another process makes its runs"):
        control.make_missing(session)


def test_the_table_has_a_row_for_each_setting_over_its_seeds(sweep_home: Home) -> None:
    session, runs = start_sweep(sweep_home)
    figures = [40.0, 42.0, 50.0, 60.0, 50.5, 60.2]
    for run, figure in zip(runs, figures, strict=True):
        run.update(status="finished", results={"valid_ppl": figure, "test_ppl": figure - 1})
    runs[5].update(status="failed")
    status = sweep_status(session)
    assert status.columns == ("compress",)
    dense, half, most = status.rows
    assert (dense.valid, dense.behind) == (spread_of([40.0, 42.0]), None)
    assert half.values == {"compress": "schedules/agp-50.yaml"}
    assert half.runs == ("study/003-prune", "study/005-prune")
    assert half.valid == spread_of([50.0, 50.5])
    # What failed is no figure of the setting, and one figure has no spread.
    assert most.valid == Spread(60.0, None, 1)
    assert most.statuses == {"finished": 1, "failed": 1}
    assert (round(most.behind or 0, 3), most.inside) == (0.194, None)
    # Perplexities of another text are not set beside these.
    for run in most.runs:
        corpus = Corpus(name="other", fingerprint="ab" * 32, ntokens=9)
        sweep_home.find_run(run).update(corpus=corpus)
    half, most = sweep_status(session).rows[1:]
    assert (half.behind, most.behind) == (None, None)
