"""``lmbench runs``, as a user in another shell has it."""

from __future__ import annotations

import json
import re
import shutil
import sys
import threading
import time
from io import StringIO
from pathlib import Path

import pytest
from cli_world import answer, complaint
from jobs_world import World

from lmbench.cli import run as lmbench
from lmbench.config import BenchmarkConfig, PruneConfig
from lmbench.jobs import launch
from lmbench.jobs.control_file import asked

REPORTED = ("valid_ppl", "test_ppl", "parameters", "nonzero", "bytes", "tokens_per_s", "seconds")

Capture = pytest.CaptureFixture[str]


def test_another_shell_sees_a_run_pauses_continues_and_stops_it(
    world: World, capsys: Capture
) -> None:
    run = world.run()
    launch.start(run)
    world.until_working(run)
    assert [d["status"] for d in answer(capsys, "runs", "list")] == ["running"]
    answer(capsys, "runs", "pause", "1")
    world.until_status(run, "paused")
    assert answer(capsys, "runs", "show", "@")["status"] == "paused"
    answer(capsys, "runs", "continue", "default/1")
    world.until_status(run, "running")
    answer(capsys, "runs", "stop", str(run.path))
    world.until_status(run, "stopped")
    shown = answer(capsys, "runs", "show", "1")
    assert shown["run"] == str(run.path)
    run.update(results={**run.read().results, "dynamic": {"lr": 0.00025, "decay": 0.5}})
    assert lmbench(["runs", "show", "1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"lr = 0.00025\b", out)
    assert "decay = 0.5000" in out
    assert shown["valid_ppl"] == 12.5
    assert shown["test_ppl"] is None


def test_a_run_gets_another_name_while_it_is_worked_on(world: World, capsys: Capture) -> None:
    run = world.run()
    launch.start(run)
    world.until_working(run)
    assert answer(capsys, "runs", "rename", "1", "the wide one")["name"] == "the wide one"
    answer(capsys, "runs", "stop", "the wide one")
    world.until_status(run, "stopped")
    assert run.read().name == "the wide one"
    refused = [("", "1 to 64"), ("x" * 65, "1 to 64"), ("a\nb", "control characters")]
    refused += [("  ", "more than blanks")]
    refused += [(name, "another run") for name in ("7", "@", "s/1", "002-train")]
    refused += [(name, "a file or a folder") for name in (".5-lr", "~half", "base.safetensors")]
    for name, problem in refused:
        assert problem in complaint(capsys, "runs", "rename", "1", name)
    assert run.read().name == "the wide one"


def test_a_stopped_run_is_resumed_in_the_foreground(world: World, capsys: Capture) -> None:
    run = world.run(total=30)
    launch.start(run)
    world.until_working(run)
    launch.request(run, "stop")
    world.until_status(run, "stopped")
    assert answer(capsys, "runs", "resume", "1")["status"] == "finished"
    assert world.counted(run) == [float(n) for n in range(1, 31)]


def test_a_detached_resume_comes_back_at_once(world: World, capsys: Capture) -> None:
    run = world.run()
    run.update(status="lost", started=1.0)
    assert answer(capsys, "runs", "resume", "1", "--detach")["status"] in ("queued", "running")
    world.until_working(run)
    answer(capsys, "runs", "stop", "1", "--now")
    assert run.read().status == "stopped"


def test_a_runs_document_holds_what_every_command_promises(world: World, capsys: Capture) -> None:
    run = world.run()
    (listed,) = answer(capsys, "runs", "list", "--session", "default")
    shown = answer(capsys, "runs", "show", "1")
    assert listed == shown
    assert shown["run"] == str(run.path)
    assert (shown["kind"], shown["status"]) == ("evaluate", "queued")
    assert [shown[key] for key in REPORTED] == [None] * len(REPORTED)


def test_runs_are_listed_by_session_and_status(world: World, capsys: Capture) -> None:
    world.run(session="a")
    world.run(session="b").update(status="finished")
    world.run(session="b").update(status="failed")
    refs = [d["ref"] for d in answer(capsys, "runs", "list")]
    assert refs == ["a/001-evaluate", "b/001-evaluate", "b/002-evaluate"]
    assert len(answer(capsys, "runs", "list", "--session", "b")) == 2
    chosen = answer(capsys, "runs", "list", "--status", "queued", "--status", "failed")
    assert [d["ref"] for d in chosen] == ["a/001-evaluate", "b/002-evaluate"]


def test_a_damaged_run_is_listed_as_such_and_hides_no_other(world: World, capsys: Capture) -> None:
    world.run()
    (world.run().path / "run.json").write_text("{")
    for flags in ([], ["--json"]):
        assert lmbench(["runs", "list", *flags]) == 0
        captured = capsys.readouterr()
        assert "default/001-evaluate" in captured.out
        assert "cannot be read as JSON" in captured.err
        if flags:
            assert [d["id"] for d in json.loads(captured.out)] == [1]
        else:
            assert captured.out.splitlines()[2].split() == ["default/002-evaluate", "damaged"]


def test_tables_show_numbers_as_people_read_them(world: World, capsys: Capture) -> None:
    world.run(name="small").update(
        status="finished",
        results={
            "test_ppl": 109.256,
            "parameters": 13_295_600,
            "sparsity": 0.8,
            "seconds": 3723.0,
            "bytes": 53_182_464,
            "tokens_per_s": 4410.4,
        },
    )
    lmbench(["runs", "list"])
    line = capsys.readouterr().out.splitlines()[1].split()
    assert line == [
        "default/001-evaluate",
        "small",
        "finished",
        "109.26",
        "13.3",
        "M",
        "80.0%",
        "53.2",
        "MB",
        "4,410",
        "1:02:03",
    ]


def test_the_time_of_a_lost_run_ends_with_its_last_sign_of_life(
    world: World, capsys: Capture
) -> None:
    began = time.time() - 10 * 86_400
    world.run().update(status="running", started=began, pid=None)
    lmbench(["runs", "list"])
    line = capsys.readouterr().out.splitlines()[1]
    assert "lost" in line
    assert "10 d" not in line


def test_why_a_run_was_lost_is_shown(world: World, capsys: Capture) -> None:
    run = world.run()
    run.update(status="lost", reason="killed, probably out of memory")
    run.log_path.write_text("epoch 3\n")
    reason = answer(capsys, "runs", "show", "1")["reason"]
    assert reason == "killed, probably out of memory; last lines of its log: epoch 3"


def test_deleting_asks_where_there_is_a_terminal_and_needs_yes_elsewhere(
    world: World, capsys: Capture
) -> None:
    run = world.run()
    assert "add --yes" in complaint(capsys, "runs", "delete", "1")
    assert run.path.is_dir()
    assert answer(capsys, "runs", "delete", "1", "--yes") == [
        {"run": str(run.path), "deleted": True}
    ]
    assert not run.path.exists()


def test_a_folder_that_is_no_run_is_not_deleted(
    world: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = world.run(name="mine")
    monkeypatch.chdir(world.home.path)
    for name in ("mine", "other", "1"):
        folder = world.home.path / name
        folder.mkdir()
        (folder / "run.json").write_text('{"of": "another program"}')
    said = complaint(capsys, "runs", "delete", "other", "--yes")
    assert f"{world.home.path / 'other'} is no run of a session" in said
    assert complaint(capsys, "runs", "delete", "./mine", "--yes") == said.replace("other", "mine")
    copy = world.home.path / "kept" / "001-train"
    shutil.copytree(run.path, copy)
    assert "is no run of a session" in complaint(capsys, "runs", "delete", str(copy), "--yes")
    # Nor is anything made beside it.
    assert "is no session of a working folder" in complaint(capsys, "evaluate", str(copy))
    assert list(copy.parent.iterdir()) == [copy]
    # A run's name or number means the run.
    for name in ("mine", "1"):
        assert answer(capsys, "runs", "show", name)["run"] == str(run.path)
    answer(capsys, "runs", "delete", "mine", "--yes")
    assert not run.path.exists()
    assert all((world.home.path / name / "run.json").is_file() for name in ("mine", "other", "1"))


@pytest.mark.parametrize("typed", ["y\n", "n\n", "", None])
def test_the_question_is_no_part_of_the_answer(
    typed: str | None, world: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "" is Ctrl-D, None a process without a standard input."""
    run = world.run()
    stdin = None if typed is None else StringIO(typed)
    if stdin is not None:
        monkeypatch.setattr(stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", stdin)
    code = lmbench(["runs", "delete", "1", "--json"])
    out, err = capsys.readouterr()
    if typed == "y\n":
        assert (code, json.loads(out)[0]["deleted"]) == (0, True)
    else:
        assert (code, out) == (2, "")
        assert ("add --yes" if typed is None else "nothing was changed") in err
    assert f"Delete {run.ref} for good?" in err
    assert run.path.exists() == (typed != "y\n")


@pytest.mark.parametrize("teacher", ["1", "parent"])
def test_what_a_queued_run_needs_is_deleted_with_it_or_not_at_all(
    teacher: str, world: World, capsys: Capture
) -> None:
    first, second = world.run(), world.run()
    for run in (first, second):
        run.update(status="finished")
    session = first.session
    child = session.new_run(PruneConfig(teacher=teacher), "prune", parent=second)
    for needed in (first, second) if teacher == "1" else (second,):
        said = complaint(capsys, "runs", "delete", str(needed.id), "--yes")
        assert f"{child.ref}: queued, and would fail" in said
        assert needed.path.is_dir()
    answer(capsys, "runs", "delete", "1", "2", "3", "--yes")
    assert not child.path.exists()


def test_what_a_queued_run_of_another_session_needs_is_not_deleted(
    world: World, capsys: Capture
) -> None:
    first, second = world.run(), world.run()
    for run in (first, second):
        run.update(status="finished")
    models = (first.ref, second.ref)
    config = BenchmarkConfig(models=models)
    queued = world.home.open_session("other").new_run(config, "benchmark", parent=first)
    for words in (["runs", "delete", "2"], ["sessions", "delete", "default"]):
        assert f"{queued.ref}: queued" in complaint(capsys, *words, "--yes")
    queued.update(status="stopped")
    answer(capsys, "sessions", "delete", "default", "--yes")


def test_what_a_queued_run_needs_is_not_deleted_from_another_working_folder(
    world: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    needed = world.run()
    needed.update(status="finished")
    needed.session.new_run(PruneConfig(), "prune", parent=needed)
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path / "another"))
    assert "queued, and would" in complaint(capsys, "runs", "delete", str(needed.path), "--yes")
    assert needed.path.is_dir()


def test_nothing_is_done_where_one_of_the_runs_is_not_there(world: World, capsys: Capture) -> None:
    run = world.run()
    assert "no run 9" in complaint(capsys, "runs", "stop", "1", "9")
    assert run.read().status == "queued"
    assert asked(run) == []


@pytest.mark.parametrize("now", [[], ["--now"]])
def test_where_one_refuses_the_others_are_asked_all_the_same(
    now: list[str], world: World, capsys: Capture
) -> None:
    ended, working, waiting = world.run(), world.run(), world.run()
    ended.update(status="finished")
    launch.start(working)
    world.until_working(working)
    assert lmbench(["runs", "stop", "1", "2", "3", *now]) == 2
    out, err = capsys.readouterr()
    done = "was killed" if now else "stops after its step"
    # What waits leaves the queue before the end of another lets it begin.
    assert out.splitlines() == [
        f"{waiting.ref} has left the queue",
        f"{working.ref} {done}",
    ]
    assert f"run {ended.ref} is finished" in err
    world.until_status(working, "stopped")
    assert waiting.status() == "stopped"
    assert lmbench(["runs", "stop", "1", "--json"]) == 2
    assert [run["status"] for run in json.loads(capsys.readouterr().out)] == ["finished"]


def test_a_command_whose_run_is_stopped_by_another_fails(world: World, capsys: Capture) -> None:
    run = world.run()

    def stop_it() -> None:
        world.until_working(run)
        launch.request(run, "stop")

    other = threading.Thread(target=stop_it)
    other.start()
    assert lmbench(["runs", "resume", "1"]) == 1
    other.join()
    assert f"{run.ref} was stopped before its end" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["show", "1"], "no session 'default'"),
        (["stop"], "name at least one run"),
        (["list", "--session", "nowhere"], "no session 'nowhere'"),
        (["list", "--session", "../x"], "session name"),
        (["log", "1", "--lines", "-1"], "--lines -1"),
        (["log", "1", "--follow", "--json"], "leave out --json"),
        (["list", "--status", "asleep"], "asleep"),
    ],
)
def test_bad_input_is_one_line(
    world: World, capsys: Capture, arguments: list[str], words: str
) -> None:
    assert words in complaint(capsys, "runs", *arguments)


def test_a_log_is_shown_without_what_a_terminal_would_obey(world: World, capsys: Capture) -> None:
    run = world.run()
    run.update(status="finished")
    run.log_path.write_bytes(b"one\n\x1b]0;evil\x07two\x9b31m\nthree [bold]\n\xff\n")
    lmbench(["runs", "log", "1"])
    assert capsys.readouterr().out == "one\n]0;eviltwo�31m\nthree [bold]\n�\n"
    lmbench(["runs", "log", "1", "--lines", "2"])
    assert capsys.readouterr().out == "three [bold]\n�\n"
    assert answer(capsys, "runs", "log", "1")["log"].startswith("one\n")


def test_a_followed_log_ends_with_its_run(world: World, capsys: Capture) -> None:
    run = world.run("look")
    launch.start(run)
    assert lmbench(["runs", "log", "1", "--follow"]) == 0
    assert "to stdout\n" in capsys.readouterr().out
    assert run.read().status == "finished"
