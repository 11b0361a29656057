"""The one place from which the command line writes to the terminal, and what commands share.

Everything that is written is made printable here (`lmbench.printable`); nothing else in
`lmbench.cli` prints, which `tests/cli/test_output.py` checks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from lmbench.errors import LmbenchError
from lmbench.printable import finite, json_text, one_line, printable

__all__ = [
    "WIDE",
    "Json",
    "SessionName",
    "Yes",
    "answer",
    "complain",
    "complain_of_damaged",
    "confirm",
    "console",
    "note",
    "pairs_table",
    "presets_table",
    "print_json",
    "print_line",
    "stderr",
    "write",
]

Json = Annotated[
    bool,
    Parameter(name="--json", negative="", help="one JSON document on stdout and nothing else"),
]
SessionName = Annotated[
    str, Parameter(name="--session", help="the session that a bare run number means")
]
Yes = Annotated[bool, Parameter(name=("--yes", "-y"), negative="", help="do not ask")]


WIDE = 1000
"""A pipe's width for tables of names and figures: another program reads them, or a pager."""


class _Console(Console):
    """A console whose texts are printable, and no markup: they may quote anyone's data."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **settings)

    def on_broken_pipe(self) -> None:
        """Where nobody reads on, as with other output: rich would end the process itself."""
        raise BrokenPipeError

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(printable(text), style)


def console(pipe_width: int = 160) -> Console:
    """Rich output on stdout, as wide as its terminal; at least `pipe_width` where it is none."""
    out = _Console()
    return out if out.is_terminal else _Console(width=max(out.width, pipe_width))


def stderr() -> Console:
    return _Console(stderr=True)


def write(text: str) -> None:
    """Text on stdout as it is, at once."""
    sys.stdout.write(printable(text))
    sys.stdout.flush()


def print_line(text: str) -> None:
    """A sentence on stdout, in one line however long it is."""
    console().print(text, soft_wrap=True)


def note(text: str) -> None:
    """A sentence on stderr, beside what the command answers on stdout."""
    stderr().print(text, soft_wrap=True)


def complain(message: str) -> None:
    """What is wrong, on stderr, each line with the program's name before it."""
    for line in message.split("\n"):
        sys.stderr.write(f"lmbench: {one_line(line)}\n")
    sys.stderr.flush()


def print_json(document: Any) -> None:
    """One strict JSON document on stdout; a number that JSON has no word for becomes null."""
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    text = json_text(finite(document), ascii_only=not encoding.startswith("utf"))
    sys.stdout.write(text + "\n")


def answer(document: Any, line: str, *, json: bool) -> None:
    """What a command has done: its document, or a sentence."""
    if json:
        print_json(document)
    else:
        print_line(line)


def pairs_table(rows: Iterable[tuple[str, str]]) -> Table:
    """Names and values, a line each."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in rows:
        table.add_row(Text(name, "bold"), value)
    return table


def presets_table(rows: Iterable[tuple[str, str]]) -> Table:
    """Presets and what each does."""
    table = Table("preset", "what it does", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table


def confirm(question: str, *, yes: bool) -> None:
    """Ask on a terminal before something is lost; elsewhere ``--yes`` has to be given.

    Raises:
        LmbenchError: the answer is no, or there is nobody to ask.
    """
    if yes:
        return
    # A process that was started without a standard input has None.
    if sys.stdin is None or not sys.stdin.isatty():
        raise LmbenchError(f"{question} There is no terminal to ask on: add --yes")
    # Not on stdout, which may be a file that wants a document.
    sys.stderr.write(f"{one_line(question)} [y/N] ")
    sys.stderr.flush()
    try:
        answered = input()
    except EOFError:
        answered = ""
    if answered.strip().lower() not in ("y", "yes"):
        raise LmbenchError("nothing was changed")


def complain_of_damaged(documents: list[dict[str, Any]]) -> None:
    """What is wrong with each run whose record cannot be read."""
    for document in documents:
        if "problem" in document:
            complain(document["problem"])
