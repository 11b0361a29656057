"""From what somebody asks for to a run that can be started; the command line and the workbench
share it. No torch here.

`check_training` finds whatever is wrong with a wish (no such corpus, a schedule that names no
tensor of this model) before a folder is made, so that a mistake costs nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmbench.config import Config, Kind, PruneConfig, TrainConfig, changed_settings, flag_of
from lmbench.config.setting import value_text
from lmbench.corpus import Corpus, check_enough, open_corpus
from lmbench.corpus.files import Progress
from lmbench.errors import LmbenchError
from lmbench.jobs.distillation_teacher import find_teacher
from lmbench.jobs.input_files import attach, own_files
from lmbench.jobs.run_schedule import check_schedule
from lmbench.session.store import DEFAULT_SESSION, Home, Run, Session

__all__ = [
    "check_training",
    "command_for",
    "flag_words",
    "inherited_settings",
    "make_run",
    "run_name",
]

_OWN = ("compress", "teacher")


def check_training(
    config: TrainConfig,
    home: Home,
    progress: Progress | None = None,
    *,
    session: str = DEFAULT_SESSION,
) -> Corpus:
    """Open the corpus of a training (fetching it where it is known by name), see that it is long
    enough for the batches that are asked for, and check the schedule and the teacher.

    Args:
        session: where a teacher's bare number is looked for.

    Raises:
        LmbenchError: what is wrong, where, and what to do.
    """
    corpus = open_corpus(config.data, home.path, vocab=config.vocab, progress=progress)
    check_enough(corpus, config.batch_size, config.bptt, config.eval_batch_size)
    check_schedule(config, home)
    find_teacher(config, home, session, corpus)
    return corpus


def inherited_settings(parent: Run) -> dict[str, Any]:
    """The settings that a pruning takes over from the run it starts from, where it is given none
    of its own: all that differ from the defaults, but for the parent's schedule and teacher.

    Raises:
        LmbenchError: the parent is no training.
    """
    settings = parent.config()
    if not isinstance(settings, TrainConfig):
        raise LmbenchError(f"run {parent.ref} is no training: prune starts from a trained run")
    values = {k: v for k, v in changed_settings(settings).items() if k not in _OWN}
    cwd = parent.read().cwd
    # A folder that was named from where the parent's command was given.
    if settings.data and cwd and (Path(cwd) / settings.data).is_dir():
        values["data"] = str((Path(cwd) / settings.data).resolve())
    return values


def run_name(kind: Kind, config: Config) -> str:
    """What a run is called where nobody says: ``lstm-2x200-tied``, or its schedule or preset."""
    if isinstance(config, PruneConfig) and config.compress:
        return config.compress.rpartition("/")[2].removesuffix(".yaml")
    if isinstance(config, TrainConfig):
        tied = "-tied" if config.tied else ""
        return f"{config.model.lower().replace('_', '-')}-{config.nlayers}x{config.nhid}{tied}"
    for setting in ("preset", "granularity"):
        chosen = getattr(config, setting, None)
        if chosen:
            return str(chosen)
    return "packed" if kind == "pack" else kind


def make_run(
    session: Session,
    kind: Kind,
    config: Config,
    *,
    parent: Run | None = None,
    name: str | None = None,
    command: str = "",
) -> Run:
    """A ``queued`` run for `lmbench.jobs.launch.start`, with copies of the files it names."""
    files = own_files(config, session.home)
    run = session.new_run(
        config, kind, name=name or run_name(kind, config), parent=parent, command=command
    )
    attach(run, files)
    return run


def command_for(
    kind: Kind,
    given: Mapping[str, Any],
    *,
    parent: str | None = None,
    name: str | None = None,
    session: str = DEFAULT_SESSION,
) -> str:
    """The command line that asks for a run of `kind` with the settings `given`.

    Args:
        given: what differs from the defaults, or, for a pruning, from its parent's settings.
        parent: the run it starts from, as ``SESSION/NNN-kind``; it says the session, too.
    """
    words = ["lmbench", kind]
    if parent is not None:
        words.append(parent)
    settings = dict(given)
    if kind == "prune" and settings.get("compress") is not None:
        words += ["--schedule", str(settings.pop("compress"))]
    words += flag_words(settings)
    if name:
        words += ["--name", name]
    if parent is None and session != DEFAULT_SESSION:
        words += ["--session", session]
    return shlex.join(words)


def flag_words(settings: Mapping[str, Any]) -> list[str]:
    """The settings as the flags of a command line; a setting that is None needs no flag."""
    words: list[str] = []
    for name, value in settings.items():
        flag = flag_of(name)
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, list | tuple):
            words += [flag, *map(value_text, value)]
        elif value is not None:
            words += [flag, value_text(value)]
    return words
