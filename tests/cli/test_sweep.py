"""Every command, with values of the wrong type, in terminals of any width, and interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_world import commands

from lmbench.cli import run as lmbench
from lmbench.session import Home
from lmbench.session.records import LIVE

Capture = pytest.CaptureFixture[str]

WRONG = ("", "x", "nan", "-1", "1e999", "9" * 400, "a\x1b[31mb")
COMMANDS = commands()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return Home(tmp_path)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    "width",
    [60, 80, 200, *(pytest.param(width, marks=pytest.mark.slow) for width in (100, 120, 160))],
)
def test_help_fits_the_terminal(
    command: tuple[str, ...], width: int, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert lmbench([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.strip()
    assert "--empty-" not in shown
    assert "[default: ()]" not in shown
    assert max(map(len, shown.splitlines())) <= width


def test_help_follows_a_terminal_that_changes_its_width(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    for width in (120, 60):
        monkeypatch.setenv("COLUMNS", str(width))
        assert lmbench(["runs", "list", "--help"]) == 0
        assert max(map(len, capsys.readouterr().out.splitlines())) == width


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_value_of_the_wrong_type_is_refused_in_one_line(
    command: tuple[str, ...], every: bool, capsys: Capture
) -> None:
    """Of every flag that takes a number: nothing is started, and nothing is half-made."""
    flags = [
        argument.names[0]
        for argument in COMMANDS[command]
        if argument.names[0].startswith("--") and argument.hint in (int, float)
    ]
    for place, flag in enumerate(flags):
        # All values of the first flag, and one of every other in turn: they are parsed alike.
        for value in WRONG[place % len(WRONG) :][:1] if place and not every else WRONG:
            code = lmbench([*command, flag, value])
            streams = capsys.readouterr()
            assert code == 2, (flag, value, streams)
            assert streams.err.startswith("lmbench: "), (flag, value, streams.err)
            assert "\x1b" not in streams.err, (flag, value)


@pytest.mark.parametrize(
    "tenths",
    [at if at % 4 == 0 else pytest.param(at, marks=pytest.mark.slow) for at in range(1, 21)],
)
def test_an_interrupt_at_any_time_of_a_start_leaves_no_worker(tenths: int, home: Home) -> None:
    """Ctrl-C a tenth of a second or more after the command has begun: what comes while Python
    itself starts, no program can catch."""
    folder = home.data / "tiny"
    folder.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_text("a b c d e f g h\n" * 300, encoding="utf-8")
    small = ["--emsize", "8", "--nhid", "8", "--tied", "--threads", "1", "--epochs", "100000"]
    begin = "from lmbench.cli import main; print('begun', flush=True); main()"
    command = [sys.executable, "-c", begin, "train", "--data", "tiny", *small]
    environment = os.environ | {"LMBENCH_HOME": str(home.path)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(tenths / 10)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert "Traceback" not in err, err
    assert process.returncode in (0, 130, -signal.SIGINT), err
    for run in home.all_runs():
        deadline = time.monotonic() + 120
        while run.status() in LIVE | {"queued"} and time.monotonic() < deadline:
            time.sleep(0.1)
        assert run.status() not in LIVE | {"queued"}, run.read()


def test_ctrl_c_interrupts_where_a_script_began_the_command_without_it() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert lmbench(["--version"]) == 0
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
