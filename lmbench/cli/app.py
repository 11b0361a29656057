"""All commands, joined into one application."""

from __future__ import annotations

import difflib
import inspect
import platform
import re
import shlex
from collections.abc import Sequence
from typing import Any

from cyclopts import App, CycloptsError, MissingArgumentError, Parameter, UnusedCliTokensError

from lmbench import __version__
from lmbench.errors import LmbenchError

__all__ = ["GROUPS", "build", "check_command", "help_text", "parse_error_line"]

_HELP = (
    "A workbench in the terminal for training, pruning and quantizing word-level language models."
    "\n\nWithout a command it opens the workbench. The RUN of a command is one of these:"
    "\n\n- 3, or a name: a run of the current session, or of the one that --session NAME says"
    "\n- @: the newest run of that session, or the newest with a model where one is needed"
    "\n- SESSION/3 or SESSION/003-quantize: a run of any session"
    "\n- a path: the folder of a run"
    "\n\nEvery command but tui takes --json."
)

# Each command, where it is defined and its line of help; a module is loaded only when its command
# is called, which keeps `lmbench --help` instant.
_COMMANDS = {
    "tui": ("lmbench.cli.tui:tui", "Open the workbench."),
    "train": ("lmbench.cli.train:train", "Train a language model."),
    "prune": ("lmbench.cli.train:prune", "Train under a pruning schedule."),
    "quantize": ("lmbench.cli.quantize:quantize", "Quantize a trained model."),
    "sensitivity": (
        "lmbench.cli.sensitivity:sensitivity",
        "Perplexity against sparsity for each tensor of a model.",
    ),
    "evaluate": ("lmbench.cli.evaluate:evaluate", "Perplexity and tokens a second of runs."),
    "score": ("lmbench.cli.score:score", "Log probability and perplexity of any text."),
    "rescore": ("lmbench.cli.rescore:rescore", "Rank a recogniser's n-best list anew."),
    "generate": ("lmbench.cli.generate:generate", "Write text with a model."),
    "summary": (
        "lmbench.cli.summary:summary",
        "Tables of a model: sparsity, modules, …",
    ),
    "compare": ("lmbench.cli.compare:compare", "Runs side by side in the published table."),
    "report": ("lmbench.cli.compare:report", "A session as one Markdown or HTML file."),
    "pack": ("lmbench.cli.pack:pack", "Write one small file with all a model needs."),
    "export": ("lmbench.cli.export:export", "Write a model, or curves, for other programs."),
    "benchmark": ("lmbench.cli.benchmark:benchmark", "Size and speed in each runtime."),
    "reproduce": ("lmbench.cli.reproduce:reproduce", "The published tables beside ours."),
    "sweep": ("lmbench.cli.sweep:app", "Many runs by one file: axes, stages, seeds."),
    "runs": ("lmbench.cli.runs:app", "List, show, import, stop, resume and delete runs."),
    "sessions": ("lmbench.cli.sessions:app", "List, copy, rename, pack and unpack sessions."),
    "data": ("lmbench.cli.data:app", "List, fetch, make and describe corpora."),
    "schedule": ("lmbench.cli.schedule:app", "Check and draw pruning schedules."),
    "doctor": ("lmbench.cli.doctor:doctor", "What this machine has and what would help."),
}

GROUPS = frozenset(name for name, (where, _) in _COMMANDS.items() if where.endswith(":app"))
"""Commands whose next word is a command, too."""


def check_command(arguments: list[str]) -> None:
    """Refuse a first word that is no command.

    Raises:
        LmbenchError: proposes the command that is spelled most like it.
    """
    word = arguments[0] if arguments else "-"
    if word.startswith("-") or word in _COMMANDS:
        return
    close = difflib.get_close_matches(word, _COMMANDS, n=1)
    hint = f"did you mean {close[0]}?" if close else "lmbench --help lists the commands"
    raise LmbenchError(f"no command '{word}': {hint}")


def parse_error_line(error: CycloptsError, command: str) -> str:
    """Arguments that fit no command, in one line."""
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        words = " ".join(error.unused_tokens)
        return f"{command}: does not take '{words}': lmbench {command} --help shows what it takes"
    line = " ".join(str(error).split())
    if isinstance(error, MissingArgumentError) and error.keyword:
        given = error.root_input_tokens or []
        after = given[given.index(error.keyword) + 1 :] if error.keyword in given else []
        if after and after[0].startswith("-"):
            value = shlex.quote(after[0])
            line += f" A value that begins with a hyphen is written {error.keyword}={value}"
    return line


def build(called: Sequence[str] = ()) -> App:
    """The application; commands are imported when they are used.

    Args:
        called: the words of the command that is, whose help is its whole text; the others have the
            line that lists show.
    """
    app = App(
        name="lmbench",
        help=_HELP,
        version=f"lmbench {__version__} (Python {platform.python_version()})",
        help_format="plaintext",
        default_parameter=Parameter(negative_iterable=(), show_default=_shown_default),
    )
    for name, (where, help_line) in _COMMANDS.items():
        app.command(where, name=name, help=help_line)
    app.default(_workbench)
    command = app
    for word in called:
        if word not in command:
            return app
        command = command[word]
    if called:
        command.help = help_text(command)
    return app


def help_text(command: App) -> str:
    """What its function's docstring says, a line for each paragraph; terminals wrap it."""
    function = command.default_command
    said = inspect.getdoc(function) if function else command.help
    return re.sub(r"(?<=\S)\n(?=\S)", " ", (said or "").split("\n\nArgs:\n")[0])


def _shown_default(value: object) -> Any:
    """A value that is left out is off, empty or none, without help saying so."""
    if value is False or value is None or value == ():
        return None
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _workbench() -> int | None:
    from lmbench.cli.tui import tui

    return tui()
