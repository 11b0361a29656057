"""Every command with its settings, from the definitions that the command line is made from.

    python docs/make_reference.py

writes ``docs/reference.md``; a test holds that it is up to date.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from cyclopts import App
from cyclopts.argument import Argument

from lmbench.cli.app import build, help_text

TARGET = Path(__file__).resolve().parent / "reference.md"

HEAD = """\
# Commands and settings

Made by `docs/make_reference.py` from the definitions that flags and forms are made from.
`lmbench COMMAND --help` says the same.
"""


def reference() -> str:
    app = build()
    return "\n".join([HEAD, *commands(app, "lmbench", rows_of(app["train"]))])


def commands(app: App, called: str, training: dict[str, str]) -> Iterator[str]:
    for name in app:
        if name.startswith("-"):
            continue
        command, title = app[name], f"{called} {name}"
        yield f"## `{title}`\n\n{markdown(help_text(command))}\n"
        if any(not part.startswith("-") for part in command):
            yield from commands(command, title, training)
        else:
            yield table(rows_of(command), training if name != "train" else {})


def table(rows: dict[str, str], training: dict[str, str]) -> str:
    """A row for each setting; those that `lmbench train` has too are only named."""
    shared = [name for name, row in rows.items() if training.get(name) == row]
    own = [row for name, row in rows.items() if name not in shared]
    lines = ["| | default | |", "| --- | --- | --- |", *own] if own else []
    if shared:
        names = ", ".join(f"`{name}`" for name in shared)
        lines += ["", f"As of `lmbench train`: {names}."]
    return "\n".join(lines).strip() + "\n"


def rows_of(command: App) -> dict[str, str]:
    arguments = command.assemble_argument_collection(parse_docstring=True)
    return {argument.names[0]: row(argument) for argument in arguments}


def row(argument: Argument) -> str:
    names = [name for name in argument.names if name not in argument.negatives]
    if argument.index is not None:
        names = [names[0].lstrip("-").upper()]
    default = argument.field_info.default
    given = default is not argument.field_info.empty and default not in ((), None)
    text = text_of(default) if given and default is not False else ""
    return (
        f"| {' '.join(f'`{name}`' for name in names)} | {f'`{text}`' if text else ''} "
        f"| {cell(argument.parameter.help or '')}{choices(argument.hint)} |"
    )


def text_of(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def choices(hint: Any) -> str:
    """The words that a setting can be, where it is one of some words."""
    words = [f"`{word}`" for word in get_args(hint) if isinstance(word, str)]
    return f" ({', '.join(words)})" if words else ""


def cell(text: str) -> str:
    return markdown(" ".join(text.split())).replace("|", "\\|")


def markdown(text: str) -> str:
    return text.replace("<", "\\<")


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
