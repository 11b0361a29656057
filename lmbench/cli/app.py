"""All commands, joined into one application."""

from __future__ import annotations

import platform

from cyclopts import App

from lmbench import __version__

__all__ = ["build"]

_HELP = (
    "A workbench in the terminal for training, pruning and quantizing word-level language models."
    "\n\nWithout a command it opens the workbench. RUN is SESSION/3, SESSION/003-quantize, 3 or a "
    "run's name in the current session, @ for its newest, or a path. Every command but tui takes "
    "--json, and each that reads runs --session NAME."
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
    "generate": ("lmbench.cli.generate:generate", "Write text with a model."),
    "summary": (
        "lmbench.cli.summary:summary",
        "Tables of a model: sparsity, modules, …",
    ),
    "compare": ("lmbench.cli.compare:compare", "Runs side by side in the published table."),
    "report": ("lmbench.cli.compare:report", "A session as one Markdown or HTML file."),
    "pack": ("lmbench.cli.pack:pack", "Write one small file with all a model needs."),
    "export": ("lmbench.cli.export:export", "Write a model as ONNX or safetensors."),
    "benchmark": ("lmbench.cli.benchmark:benchmark", "Size and speed in each runtime."),
    "reproduce": ("lmbench.cli.reproduce:reproduce", "The published tables beside ours."),
    "runs": ("lmbench.cli.runs:app", "List, show, pause, stop, resume and delete runs."),
    "sessions": ("lmbench.cli.sessions:app", "List, copy, rename, pack and unpack sessions."),
    "data": ("lmbench.cli.data:app", "List, fetch and describe corpora."),
    "schedule": ("lmbench.cli.schedule:app", "Check and draw pruning schedules."),
    "doctor": ("lmbench.cli.doctor:doctor", "What this machine has and what would help."),
}


def build() -> App:
    """The application; commands are imported when they are used."""
    app = App(
        name="lmbench",
        help=_HELP,
        version=f"lmbench {__version__} (Python {platform.python_version()})",
        help_format="plaintext",
    )
    for name, (where, help_line) in _COMMANDS.items():
        app.command(where, name=name, help=help_line)
    app.default(_workbench)
    return app


def _workbench() -> int | None:
    from lmbench.cli.tui import tui

    return tui()
