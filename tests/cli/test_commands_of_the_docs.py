"""The commands that the documents show: each is one that lmbench takes, and those of code run."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cyclopts import CycloptsError, MissingArgumentError
from nbest_world import made_list, write_lines, write_references
from places import REPOSITORY
from sweep_world import SMALL

from lmbench.cli import run as lmbench
from lmbench.cli.app import build, check_command
from lmbench.errors import LmbenchError

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`lmbench ([^`]+)`")
ELSEWHERE = {
    "tui": "stays in the terminal",
    "data get": "needs the network",
    "--gpus": "needs several GPUs",
    "--place": "needs a cluster",
    "reproduce": "trains at full length",
}
"""Commands that no test can run here, by a word of theirs."""


def shown(page: Path) -> list[str]:
    """The commands of a page's blocks of code, as they are typed after `lmbench`."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = [block for language, block in BLOCK.findall(text) if language in ("", "sh")]
    lines = [line for block in blocks for line in block.splitlines()]
    found = [re.match(r"(?:\$ |.*\| |.*&& \S*/)?lmbench (.+)", line) for line in lines]
    return [match[1] for match in found if match]


def words_of(command: str) -> list[str]:
    """The words of a command, without what stands for more of them; of several the first."""
    words = shlex.split(command.split(" && ")[0], comments=True)
    return [word.split("|")[0] for word in words if not re.search(r"^\[|…$|\]$", word)]


def refusal(words: list[str]) -> str | None:
    """Why lmbench does not take these words; a word in capitals stands for whatever is right."""
    try:
        check_command(words)
        build().parse_args(words, exit_on_error=False, print_error=False)
    except MissingArgumentError:
        return None
    except (CycloptsError, LmbenchError) as error:
        given = [word for word in re.findall(r"[A-Z]+", str(error)) if word in words]
        return None if given else str(error)
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lmbench_takes_the_commands_of_the_docs(page: Path) -> None:
    inline = INLINE.findall(page.read_text(encoding="utf-8"))
    commands = [words_of(command) for command in (*shown(page), *inline)]
    assert not {" ".join(words): why for words in commands if (why := refusal(words))}


def test_a_command_that_lmbench_does_not_take_is_found() -> None:
    assert refusal(["train", "--emsiz", "3"])
    assert refusal(["train", "--emsize", "three"])
    assert refusal(["train", "--emsize", "SIZE"]) is None


@pytest.fixture
def folder(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with a small corpus in place of a real one, and the files that the commands
    name."""
    (tmp_path / "data" / "wikitext-2").mkdir(parents=True)
    for split in (template / "data" / "tiny").glob("*.txt"):
        words = split.read_text(encoding="utf-8")
        for made, real in (("w0", "the"), ("w1", "game"), ("w2", "was"), ("w3", "<unk>")):
            words = re.sub(rf"\b{made}\b", real, words)
        (tmp_path / "data" / "wikitext-2" / split.name).write_text(words, encoding="utf-8")
    (tmp_path / "cache").symlink_to(template / "cache")
    for name in ("test", "dev"):
        nbest, references = made_list(5, len(name))
        write_lines(tmp_path / f"{name}.txt", nbest)
        write_references(tmp_path / f"{name}.ref", references)
    shutil.copy(tmp_path / "test.txt", tmp_path / "nbest.txt")
    (tmp_path / "notes.txt").write_text("w1 w2 w3\nw4 w5\n", encoding="utf-8")
    stage = SMALL.replace("tiny", "wikitext-2")
    for name in ("study", "sweep"):
        text = f"version: 1\nstages:\n  - kind: train\n    settings: {{{stage}}}\n"
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path))
    monkeypatch.setenv("LMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"the cat sat on the mat\n")))
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_tutorial_runs_from_its_first_line_to_its_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = BLOCK.findall((REPOSITORY / "docs" / "tutorial.md").read_text(encoding="utf-8"))
    _set_up, *commands = [block for language, block in blocks if language == "sh"]
    [script] = [block for language, block in blocks if language == "python"]
    (tmp_path / "propose.py").write_text(script, encoding="utf-8")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    end = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "".join(commands)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert end.returncode == 0, end.stdout[-1000:] + end.stderr[-1000:]
    assert (tmp_path / "manual.lmpack").stat().st_size < 2_000_000


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", ["README.md", "docs/scoring.md", "docs/sweeps.md"])
def test_the_commands_of_a_page_run_one_after_another(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if name != "README.md":
        for arguments in (
            ["train", "--emsize", "16", "--nhid", "16", "--tied", "--epochs", "1", "--lr", "1"],
            ["quantize", "1"],
            ["pack", "1", "-o", "model.lmpack"],
        ):
            assert lmbench(arguments) == 0, capfd.readouterr().err
    commands = [
        command
        for command in shown(REPOSITORY / name)
        if not any(word in command for word in ELSEWHERE)
    ]
    assert commands
    for command in commands:
        assert lmbench(words_of(command)) == 0, f"{command}: {capfd.readouterr().err[-600:]}"
