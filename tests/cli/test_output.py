"""What the command line prints is printable, whatever the data, and one module prints it."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

import lmbench.cli
from lmbench.cli import run as lmbench_command
from lmbench.cli.foreground import work_through
from lmbench.cli.output import console, note, write
from lmbench.config import TrainConfig
from lmbench.errors import LmbenchError
from lmbench.session import Home, Run

EVIL = "a\x1b]0;owned\x07\x1b[31m\x9b2J\x7f\u202eb\r"
UNSAFE = {*map(chr, range(32)), *map(chr, range(127, 160)), "\u202e", "\ud800"} - {"\n", "\t"}
Capture = pytest.CaptureFixture[str]

COMMANDS = (
    ("runs", "list"),
    ("runs", "show", "1"),
    ("runs", "log", "1"),
    ("sessions", "list"),
    ("sessions", "show"),
    ("compare", "1"),
    ("compare", "1", "--format", "csv"),
    ("compare", "1", "--format", "latex"),
    ("compare", "1", "--format", "markdown"),
    ("report",),
)


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run every text of which holds what a terminal obeys."""
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    session = Home(tmp_path).open_session()
    session.update(notes=EVIL)
    run = session.new_run(TrainConfig(data=EVIL), "train", name=EVIL, command=f"x\n{EVIL}")
    run.update(status="finished", device=EVIL, reason=EVIL, versions={EVIL: EVIL},
               parent=EVIL, results={EVIL: EVIL, "valid_ppl": 2.0})  # fmt: skip
    run.log_path.write_text(EVIL, encoding="utf-8")
    return run


def unsafe(text: str) -> set[str]:
    return UNSAFE & set(text)


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_no_text_of_a_run_reaches_the_terminal_as_it_is(evil, arguments, capsys: Capture):
    assert lmbench_command(list(arguments)) == 0
    out, err = capsys.readouterr()
    assert not unsafe(out + err)
    assert "owned" in out or arguments[0] == "sessions" or "1" in out


@pytest.mark.parametrize("arguments", COMMANDS[:6], ids=" ".join)
def test_json_holds_every_text_whole_and_none_as_it_is(evil, arguments, capsys: Capture):
    assert lmbench_command([*arguments, "--json"]) == 0
    out = capsys.readouterr().out
    assert not unsafe(out)
    json.loads(out)


def test_json_keeps_what_a_terminal_would_obey(evil, capsys: Capture):
    assert lmbench_command(["runs", "show", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == EVIL


@pytest.mark.parametrize("words", [("runs", "show"), ("train", "--data"), ()])
def test_errors_quote_what_was_given_in_print(evil, words, capsys: Capture):
    arguments = (*words, f"{EVIL}x")
    assert lmbench_command(list(arguments)) == 2
    err = capsys.readouterr().err
    assert not unsafe(err)
    assert len(err.splitlines()) == 1


def test_a_console_prints_neither_markup_nor_control_characters(capsys: Capture):
    table = Table(EVIL, title=EVIL)
    table.add_row(f"[bold]{EVIL}")
    console().print(table, f"[link=file:///x]{EVIL}[/link]")
    note(EVIL)
    write(EVIL)
    out, err = capsys.readouterr()
    assert not unsafe(out + err)
    assert "[bold]" in out
    assert "[link=file:///x]" in out


def test_nothing_else_of_the_command_line_prints():
    folder = Path(lmbench.cli.__file__).parent
    printing = []
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or path.name == "output.py":
                continue
            called = ast.unparse(node.func)
            if called in ("print", "Console", "input") or (".write" in called and "sys." in called):
                printing.append(f"{path.name}:{node.lineno} {called}")
    assert not printing


def test_a_terminal_of_ascii_gets_an_answer(evil):
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    Home.find().session("default").run(1).update(name="modèle")
    for flag in ("--json", None):
        words = [sys.executable, "-m", "lmbench", "runs", "list", *filter(None, [flag])]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        if flag:
            assert json.loads(done.stdout)[0]["name"] == "modèle"
        else:
            assert "mod?le" in done.stdout


def test_where_nobody_reads_on_a_table_ends_as_other_output_does(monkeypatch: pytest.MonkeyPatch):
    class Left(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(sys, "stdout", Left())
    assert lmbench_command(["schedule", "list"]) == 0


def test_a_run_whose_log_nobody_reads_on_is_said_to_go_on(evil: Run, monkeypatch):
    def left(run: Run, *, echo: bool) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("lmbench.cli.foreground._follow", left)
    with pytest.raises(LmbenchError, match=r"default/001-train: .* goes on in the background"):
        work_through(lambda: evil, json=False)
