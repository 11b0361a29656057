"""The command line that makes a run again."""

from __future__ import annotations

import shlex
from typing import Any

from lmbench.config import Config, TrainConfig, changed_settings, parse_config
from lmbench.config.command_line import command_for, flag_words, run_name
from lmbench.config.training import idle_settings, passed_on
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
        kind = {"model": config.model} if config.model.startswith("RNN") else {}
        flags = {"data": config.data or "", "vocab": config.vocab, **kind, "name": record.name}
        words = ["lmbench", "runs", "import", record.imported, *flag_words(flags)]
        return shlex.join(map(one_line, [*words, "--session", run.session.name]))
    idle = idle_settings(config) if isinstance(config, TrainConfig) else frozenset[str]()
    given = {**changed_settings(config), **_kept_from_parent(run, record, config)}
    # A training has no parent, and what a benchmark measured is among its settings.
    parent = None if record.kind in ("train", "benchmark") else record.parent
    return command_for(
        record.kind,
        {name: value for name, value in given.items() if name not in idle},
        parent=parent,
        name=record.name if record.name != run_name(record.kind, config) else None,
        session=run.session.name,
    )


def _kept_from_parent(run: Run, record: RunRecord, config: Config) -> dict[str, Any]:
    """A pruning's own values of what its parent would hand on, which may be the defaults; without
    those that no flag gives: no more of what is off by default."""
    parent = run.home.run_of(record.parent) if record.kind == "prune" and record.parent else None
    try:
        before = parent.config() if parent is not None else None
    except LmbenchError:
        return {}
    if not isinstance(before, TrainConfig) or not isinstance(config, TrainConfig):
        return {}
    values = {name: getattr(config, name) for name in passed_on(before)}
    if config.cuda:
        values.pop("device", None)
    elif before.cuda:
        # It has no flag to take it back by but the one that says otherwise.
        values["device"] = config.device
    return {k: "none" if v is None else v for k, v in values.items() if v is not False}
