"""A command that dies or fails at any write leaves nothing half-done, and says one clear line."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from readers import make_home
from system_calls import FAULTS, Call, run_with_fault, strace_works, writing_calls

from lmbench.cli import run as lmbench
from lmbench.jobs.places import local
from lmbench.session import Home
from lmbench.session.archive import pack

COMMANDS = {
    "rename": ["sessions", "rename", "default", "other"],
    "copy": ["sessions", "copy", "default", "other"],
    "delete a session": ["sessions", "delete", "default", "--yes"],
    "delete a run": ["runs", "delete", "8", "--yes"],
    "pack": ["sessions", "pack", "default", "-o", "packed.lmbench"],
    "unpack": ["sessions", "unpack", "default.lmbench", "--name", "other"],
    "export": ["export", "1", "--format", "safetensors", "-o", "model.safetensors"],
    "train": ["train", "--data", "tiny", "--batch-size", "2", "--device", "cpu", "--detach"],
}
AT_LENGTH = COMMANDS | {
    "report": ["report", "default", "--output", "report.md"],
    "generate": ["generate", "1", "--words", "5", "--outf", "text.txt"],
    "prune": ["prune", "1", "--schedule", "large-80", "--device", "cpu", "--detach"],
    "quantize": ["quantize", "1", "--device", "cpu", "--detach"],
    "sensitivity": ["sensitivity", "1", "--device", "cpu", "--detach"],
    "evaluate": ["evaluate", "1", "--device", "cpu", "--detach"],
    "resume": ["runs", "resume", "9", "--detach"],
    "train by seeds": [
        *("train", "--data", "tiny", "--batch-size", "2", "--device", "cpu", "--seeds", "2"),
        "--detach",
    ],
    "reproduce": ["reproduce", "training", "--data", "tiny", "--device", "cpu", "--detach"],
    "export as ONNX": ["export", "1", "--format", "onnx", "-o", "model.onnx"],
    "import": ["runs", "import", "model.pt", "--data", "tiny"],
    "export to the Hub": ["export", "1", "--format", "hub", "-o", "1.hub"],
    "export curves": ["export", "1", "2", "--format", "csv", "-o", "curves.csv"],
    "export to TensorBoard": ["export", "1", "2", "--format", "tensorboard", "-o", "1.tensorboard"],
    "stop a queued run": ["runs", "stop", "study/1"],
    "get a corpus": ["data", "get", "pydoc"],
    "make a corpus": ["data", "make", "mine", "raw.txt", "--tokenizer", "none"],
    "replace a corpus": ["data", "make", "made", "raw.txt", "--tokenizer", "none", "--replace"],
    "doctor": ["doctor"],
    "start a sweep": ["sweep", "start", "new.yaml", "--detach"],
    "stop a sweep": ["sweep", "stop", "study"],
    "resume a sweep": ["sweep", "resume", "study", "--detach"],
    "delete a sweep": ["sweep", "delete", "stopped", "--yes"],
}
SWEEP = """\
version: 1
stages:
  - {kind: train, settings: {data: tiny, batch_size: 2, epochs: 1, device: cpu}}
  - kind: quantize
"""
IN_CI = 3
"""Faults of each command that every run of the tests goes through."""

pytestmark = pytest.mark.skipif(not strace_works(), reason="no strace that injects faults here")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    session = make_home(folder).session("default")
    # Fewer runs have the same calls, fewer times.
    for run in session.runs():
        if run.id not in (1, 2, 8, 9):
            shutil.rmtree(run.path)
    pack(session, folder / "default.lmbench")
    raw = folder / "raw.txt"
    raw.write_text("".join(f"the cat sees dog {number % 7} .\n\n" for number in range(60)))
    # What is imported here is imported, by calls that count, in no forked command.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMBENCH_HOME", str(folder))
        assert lmbench(["sessions", "list"]) == lmbench(["sessions", "show", "default"]) == 0
        patch.setattr(local, "python", lambda *_: ["true"])
        for name in ("study", "stopped", "new"):
            (folder / f"{name}.yaml").write_text(SWEEP)
        for name in ("study", "stopped"):
            assert lmbench(["sweep", "start", str(folder / f"{name}.yaml"), "--detach"]) == 0
        assert lmbench(["sweep", "stop", "stopped"]) == 0
    # As after a start that was killed: `sweep resume` makes the run that is missing.
    shutil.rmtree(Home(folder).session("study").runs()[-1].path)
    return folder


@pytest.fixture(autouse=True)
def no_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    """No run begins in the background: the calls of supervisors fail in `failing_calls.py`."""
    monkeypatch.setattr(local, "python", lambda *_: ["true"])


def check(home: Path, capfd: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
    """The next command reads every session and run that is there, and nothing is left about."""
    patch.setenv("LMBENCH_HOME", str(home))
    assert lmbench(["sessions", "list"]) == 0
    for session in Home(home).sessions():
        assert lmbench(["sessions", "show", session.name]) == 0
        for run in session.runs():
            record = run.read()
            if record.parent is not None:
                assert Home(home).find_run(record.parent, session.name).path.parent == (
                    run.path.parent
                ), f"{run.ref}: its parent {record.parent} is in another session"
    assert "Traceback" not in capfd.readouterr().err


def arguments_of(name: str, home: Path) -> list[str]:
    models = (".lmbench", ".safetensors", ".onnx", ".hub", ".pt")
    files = (*models, ".md", ".txt", ".yaml", ".csv", ".tensorboard")
    return [str(home / word) if word.endswith(files) else word for word in AT_LENGTH[name]]


def once(
    template: Path,
    home: Path,
    name: str,
    call: Call,
    fault: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(template, home)
    arguments = arguments_of(name, home)
    end = run_with_fault(arguments, home, call, fault)
    where = f"{fault} at {call.about}: {end.stderr[-800:]}"
    assert "Traceback" not in end.stderr, where
    if fault == "signal=SIGKILL":
        assert end.code in (0, -9, 137), where
    elif end.code != 0:
        assert end.code == 2, where
        *notes, last = end.stderr.splitlines()
        assert last.startswith("lmbench: "), where
        assert not any(line.startswith("lmbench: ") for line in notes), where
    with pytest.MonkeyPatch.context() as patch:
        check(home, capfd, patch)
        if name in ("start a sweep", "resume a sweep"):
            assert lmbench(arguments) == 0, where
            session = Home(home).session("new" if name == "start a sweep" else "study")
            assert [run.read().kind for run in session.runs()] == ["train", "quantize"], where
    shutil.rmtree(home)


def faults_of(name: str, template: Path, home: Path) -> list[tuple[Call, str]]:
    shutil.copytree(template, home)
    arguments = arguments_of(name, home)
    calls = list(writing_calls(arguments, home))
    assert calls, "the command writes nothing: it cannot be the right one"
    shutil.rmtree(home)
    return [(call, fault) for call in calls for fault in FAULTS]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_fault_at_some_writes_leaves_sessions_whole(
    name: str, template: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    faults = faults_of(name, template, tmp_path / "home")
    for call, fault in random.Random(name).sample(faults, min(IN_CI, len(faults))):
        once(template, tmp_path / "home", name, call, fault, capfd)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", AT_LENGTH)
def test_a_fault_at_any_write_leaves_sessions_whole(
    name: str, template: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    faults = faults_of(name, template, tmp_path / "home")
    for call, fault in faults:
        once(template, tmp_path / "home", name, call, fault, capfd)
    print(f"{name}: {len(faults) // len(FAULTS)} calls, {len(faults)} faults injected, 0 found")
