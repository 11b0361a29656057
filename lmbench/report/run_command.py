"""The command line that makes a run again."""

from __future__ import annotations

import shlex

from lmbench.config import TrainConfig, changed_settings, parse_config
from lmbench.config.command_line import command_for, run_name
from lmbench.errors import LmbenchError
from lmbench.printable import one_line
from lmbench.session.store import Run, RunRecord

__all__ = ["run_command"]


def run_command(run: Run, record: RunRecord) -> str:
    """The command line that makes the same run, from its checked settings; "" where they are not
    in order.

    What `record.command` holds is not for a shell: whoever made the session wrote it.
    """
    try:
        config = parse_config(record.kind, record.config)
    except LmbenchError:
        return ""
    if record.imported and isinstance(config, TrainConfig):
        # Only the kind of Elman cells may not show from the file.
        kind = ["--model", config.model] if config.model.startswith("RNN") else []
        data = ["--data", config.data or "", "--vocab", config.vocab, *kind]
        words = ["lmbench", "runs", "import", record.imported, *data, "--name", record.name]
        return shlex.join(map(one_line, [*words, "--session", run.session.name]))
    # A training has no parent, and what a benchmark measured is among its settings.
    parent = None if record.kind in ("train", "benchmark") else record.parent
    return command_for(
        record.kind,
        changed_settings(config),
        parent=parent,
        name=record.name if record.name != run_name(record.kind, config) else None,
        session=run.session.name,
    )
