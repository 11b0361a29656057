"""``lmbench sweep`` and ``--seeds``, as a user calls them; killed with SIGKILL and gone on with."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import waiting
from cli_world import answer
from sweep_world import SMALL, SWEEP, write_sweep
from sweep_world import sweep_home as sweep_home

from lmbench.cli import run as lmbench
from lmbench.session import Home, Run
from lmbench.session.store import LIVE

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def forked_workers() -> None:
    """Processes are found by their command."""


def test_check_makes_nothing_and_says_how_much_it_would_be(
    sweep_home: Home, tmp_path: Path, capsys: Capture
) -> None:
    file = write_sweep(tmp_path)
    document = answer(capsys, "sweep", "check", str(file))
    assert (document["session"], document["runs"]) == ("study", 6)
    assert [stage["runs"] for stage in document["stages"]] == [2, 4]
    # Of a model of 30 words, eight units and one layer: the best checkpoint, the last, the masks.
    train, prune = document["stages"]
    assert prune["bytes"] / 4 == pytest.approx(1.5 * train["bytes"] / 2)
    assert lmbench(["sweep", "check", str(file)]) == 0
    assert "in order" in capsys.readouterr().out
    assert not sweep_home.sessions_path.exists()


def test_each_mistake_is_a_line_on_stderr_and_nothing_is_made(
    sweep_home: Home, tmp_path: Path, capsys: Capture
) -> None:
    file = write_sweep(
        tmp_path, SWEEP.replace("seeds: 2", "seeds: 2\nseed: 1").replace("lr:", "l:")
    )
    for command in ("check", "start"):
        assert lmbench(["sweep", command, str(file)]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert [" line 4:" in line or " line 7:" in line for line in lines] == [True, True]
    assert not sweep_home.sessions_path.exists()


def test_a_sweep_is_found_by_its_name_or_by_being_the_only_one(
    sweep_home: Home, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lmbench(["sweep", "status"]) == 2
    assert "there is no sweep" in capsys.readouterr().err
    monkeypatch.setattr("lmbench.jobs.launch.start_all", lambda runs: None)
    file = str(write_sweep(tmp_path))
    assert lmbench(["sweep", "start", file, "--detach"]) == 0
    assert "study: 6 runs" in capsys.readouterr().out
    document = answer(capsys, "sweep", "status")
    assert document["statuses"] == {"queued": 6}
    assert [row["values"] for row in document["rows"]] == [
        {},
        {"compress": "schedules/agp-50.yaml"},
        {"compress": "schedules/agp-80.yaml"},
    ]
    assert answer(capsys, "sweep", "stop") == {"session": "study", "stopped": 6}
    assert lmbench(["sweep", "start", file, "--session", "b", "--detach"]) == 0
    capsys.readouterr()
    assert lmbench(["sweep", "status"]) == 2
    assert "There are b, study: name one" in capsys.readouterr().err
    assert lmbench(["sweep", "delete", "b", "--yes"]) == 2
    assert "6 runs of it wait" in capsys.readouterr().err
    assert lmbench(["sweep", "delete", "study"]) == 2
    assert "add --yes" in capsys.readouterr().err
    needs = sweep_home.session("b").run(1)
    needs.update(config={"teacher": "study/1"})
    assert lmbench(["sweep", "delete", "study", "--yes"]) == 2
    assert f"{needs.ref}: queued" in capsys.readouterr().err
    needs.update(config={})
    assert answer(capsys, "sweep", "delete", "study", "--yes")["deleted"]
    assert [session.name for session in sweep_home.sessions()] == ["b"]


def test_seeds_of_a_derived_run_are_those_of_the_runs_it_starts_from(
    sweep_home: Home, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmbench.jobs.launch.start_all", lambda runs: None)
    write_sweep(tmp_path)
    small = [word for pair in SMALL.split(", ") for word in _flag(*pair.split(": "))]
    made = answer(capsys, "train", *small, "--seed", "5", "--seeds", "3", "--detach")
    assert [run["config"]["seed"] for run in made] == [5, 6, 7]
    schedule = str(tmp_path / "levels" / "agp-50.yaml")
    prune = ["prune", "1", "--schedule", schedule, "--detach", "--seeds"]
    session = sweep_home.session("default")
    for number in (1, 2):
        session.run(number).update(status="finished")
        (session.run(number).path / "best").mkdir()
    assert lmbench([*prune, "3"]) == 2
    assert "there are 2 finished seeds (1, 2): train the others first" in capsys.readouterr().err
    away = tmp_path / "away"
    shutil.copytree(session.run(1).path, away)
    assert lmbench(["quantize", str(away), "--seeds", "2"]) == 2
    assert "is no session of a working folder" in capsys.readouterr().err
    assert lmbench([*prune, "2", "--seed", "9"]) == 2
    assert "--seed: --seeds takes the seed of each run" in capsys.readouterr().err
    pruned = answer(capsys, *prune, "2")
    assert [run["parent"] for run in pruned] == ["default/001-train", "default/002-train"]
    assert [run["config"]["seed"] for run in pruned] == [5, 6]
    assert [run["name"] for run in pruned] == ["agp-50 s5", "agp-50 s6"]
    assert lmbench(["train", *small, "--seeds", "2", "--save", "x.safetensors"]) == 2
    assert "--save: is of one run" in capsys.readouterr().err


def _flag(name: str, value: str) -> list[str]:
    return [f"--{name}"] if value == "true" else [f"--{name}", value]


# -- real runs ----------------------------------------------------------------------------------

REAL = f"""version: 1
name: study
seeds: 2
stages:
  - kind: train
    settings: {{{SMALL.replace("epochs: 2", "epochs: 30")}}}
  - kind: prune
    settings: {{compress: levels/agp-50.yaml, epochs: 2}}
"""


def command(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "lmbench", "sweep", *words],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def table(home: Home, name: str, capsys: Capture) -> str:
    document = answer(capsys, "sweep", "status", name)
    assert document["statuses"] == {"finished": 4}
    return json.dumps(document).replace(f'"{name}/', '"S/').replace(f'"{name}"', '"S"')


def processes_of(home: Home, module: str = "lmbench.jobs") -> list[int]:
    """Supervisors and workers of this folder that live."""
    found = []
    for process in psutil.process_iter():
        # One may end in this moment, or be dead and not reaped yet.
        with suppress(psutil.Error):
            words = " ".join(process.cmdline())
            if module in words and str(home.path / "sessions") in words:
                found.append(process.pid)
    return found


def kill(home: Home, module: str) -> None:
    for pid in processes_of(home, module):
        os.kill(pid, signal.SIGKILL)


def begun(run: Run) -> bool:
    """Is it at work, with something written to go on from?"""
    return run.status() in LIVE and run.checkpoint("best") is not None


@pytest.mark.slow
def test_a_sweep_that_is_killed_again_and_again_ends_in_the_same_table(
    sweep_home: Home, tmp_path: Path, capsys: Capture
) -> None:
    file = str(write_sweep(tmp_path, REAL))
    assert lmbench(["sweep", "start", file, "--session", "undisturbed", "--json"]) == 0
    wanted = table(sweep_home, "undisturbed", capsys)
    # The command that follows the sweep, and then the supervisor with its worker.
    controller = command("start", file)
    waiting.until(lambda: (sweep_home.sessions_path / "study" / "runs" / "004-prune").exists())
    runs = sweep_home.session("study").runs()
    waiting.until(lambda: begun(runs[0]))
    os.kill(controller.pid, signal.SIGKILL)
    controller.wait()
    kill(sweep_home, "lmbench.jobs.supervisor")
    kill(sweep_home, "lmbench.jobs.worker")
    waiting.until(lambda: runs[0].status() == "lost")
    # Then a worker alone: the queue goes on, but not with what starts from the lost run.
    assert lmbench(["sweep", "resume", "study", "--detach"]) == 0
    waiting.until(lambda: runs[1].status() in LIVE)
    kill(sweep_home, "lmbench.jobs.worker")
    waiting.until(lambda: not processes_of(sweep_home))
    assert [run.status() for run in runs] == ["finished", "lost", "finished", "queued"]
    capsys.readouterr()
    assert lmbench(["sweep", "status", "study"]) == 0
    assert "1 run queued behind those" in capsys.readouterr().out
    assert lmbench(["sweep", "resume", "study", "--json"]) == 0
    assert table(sweep_home, "study", capsys) == wanted


RACE = f"""version: 1
name: study
early_stopping: true
stages:
  - kind: train
    settings: {{{SMALL.replace("epochs: 2", "epochs: 7").replace(", lr: 1.0", "")}}}
    axes: {{lr: [0.001, 1.0, 0.002]}}
"""


@pytest.mark.slow
def test_early_stopping_that_is_killed_again_and_again_ends_in_the_same_table(
    sweep_home: Home, tmp_path: Path, capsys: Capture
) -> None:
    file = str(write_sweep(tmp_path, RACE))

    def table_of(name: str) -> str:
        document = answer(capsys, "sweep", "status", name)
        assert document["statuses"] == {"stopped early": 2, "finished": 1}
        text = json.dumps(document)
        return text.replace(f'"{name}/', '"S/').replace(f" {name}/", " S/").replace(name, "S")

    assert lmbench(["sweep", "start", file, "--session", "undisturbed", "--json"]) == 0
    capsys.readouterr()
    wanted = table_of("undisturbed")
    assert lmbench(["sweep", "start", file, "--detach"]) == 0
    _, promoted, last = sweep_home.session("study").runs()
    # While runs come to the rung, and while one that was promoted goes on from there.
    for moment in (
        lambda: begun(last),
        lambda: promoted.status() in LIVE and "2" in promoted.read().results.get("rungs", {}),
    ):
        waiting.until(moment)
        kill(sweep_home, "lmbench.jobs.supervisor")
        kill(sweep_home, "lmbench.jobs.worker")
        waiting.until(lambda: not processes_of(sweep_home))
        assert lmbench(["sweep", "resume", "study", "--detach"]) == 0
    capsys.readouterr()
    assert lmbench(["sweep", "resume", "study", "--json"]) == 0
    capsys.readouterr()
    assert table_of("study") == wanted
