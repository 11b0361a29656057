"""From what somebody asks for to a run that can be started; the command line and the workbench
share it. No torch here.

`check_training` finds whatever is wrong with a request (no such corpus, a schedule that names no
tensor of this model) before a folder is made, so that a mistake costs nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lmbench.config import Config, Kind, PruneConfig, TrainConfig
from lmbench.config.command_line import command_for, run_name
from lmbench.config.training import check_start, passed_on
from lmbench.corpus import Corpus, check_enough, default_corpus, open_corpus
from lmbench.corpus.files import Progress
from lmbench.corpus.sources import known_names
from lmbench.errors import LmbenchError
from lmbench.jobs.distillation_teacher import PARENT, check_words, find_teacher, lasting_name
from lmbench.jobs.input_files import attach, own_files
from lmbench.jobs.queue import gpu_count
from lmbench.jobs.run_schedule import check_schedule, read_schedule
from lmbench.session.store import DEFAULT_SESSION, Home, Run, Session

__all__ = [
    "check_gpus",
    "check_training",
    "command_for",
    "inherited_settings",
    "long_enough",
    "make_run",
    "pruning_defaults",
    "refuse_packed",
    "run_name",
]


def check_training(
    config: TrainConfig,
    home: Home,
    progress: Progress | None = None,
    *,
    has_parent: bool,
    session: str = DEFAULT_SESSION,
    parent: Run | None = None,
) -> Corpus:
    """Open the corpus of a training (fetching it where it is known by name), see that it is long
    enough for the batches that are asked for, and check the schedule and the teacher.

    Args:
        has_parent: does it start from another run?
        session: where a teacher's bare number is looked for.
        parent: that run, where it is there already.

    Raises:
        LmbenchError: what is wrong, where, and what to do.
    """
    check_gpus(config)
    if config.teacher == PARENT and not has_parent:
        raise LmbenchError("--teacher parent: this run starts from no other one, which could teach")
    corpus = open_corpus(config.data, home.path, vocab=config.vocab, progress=progress)
    check_enough(corpus, config.batch_size, config.bptt, config.eval_batch_size)
    if not config.bptt_spread:  # How many windows of drawn lengths there are the worker finds.
        rows = corpus.counts["train"] // config.batch_size
        config.check_warm_up(-(-(rows - 1) // config.bptt))
    check_schedule(config, home)
    if parent is not None:
        check_words("--data", parent, corpus)
    find_teacher(config, home, session, corpus)
    return corpus


def refuse_packed(parent: Run) -> None:
    """Raises LmbenchError where a run is a packed file, of which no run is made."""
    record = parent.read()
    if record.kind == "pack":
        of = f", {record.parent}" if record.parent else ""
        raise LmbenchError(f"run {parent.ref} is packed already: name the run it is of{of}")


def check_gpus(config: TrainConfig) -> None:
    """Raises LmbenchError where this machine does not have the GPUs that are asked for."""
    if config.processes > 1 and config.device != "cpu" and config.gpus > (count := gpu_count()):
        raise LmbenchError(
            f"--gpus {config.gpus}: this machine has {count} that torch can use; ask for no more, "
            "or see lmbench doctor"
        )


def inherited_settings(parent: Run) -> dict[str, Any]:
    """The settings that a pruning takes over from the run it starts from, where it is given none
    of its own: all that differ from the defaults, but for the parent's schedule and teacher.

    Raises:
        LmbenchError: the parent is no training.
    """
    settings = parent.config()
    if not isinstance(settings, TrainConfig):
        raise LmbenchError(f"run {parent.ref} is no training: prune starts from a trained run")
    values = passed_on(settings)
    record = parent.read()
    cwd = record.cwd
    if settings.data is None and record.corpus is not None:
        # Of an earlier lmbench, which left the default's name out.
        values["data"] = record.corpus.name
    # A folder that was named from where the parent's command was given.
    named = settings.data if settings.data not in known_names() else None
    if named and cwd and (Path(cwd) / named).is_dir():
        values["data"] = str((Path(cwd) / named).resolve())
    return values


def pruning_defaults(parent: Run | None, schedule: str | None, home: Home) -> dict[str, Any]:
    """What a pruning uses where it is given no value: `inherited_settings`, and no fewer epochs
    than its schedule, where there is one yet, needs to reach its targets.

    Raises:
        LmbenchError: the parent is no training; a line for each mistake of the schedule.
    """
    values = inherited_settings(parent) if parent is not None else {}
    return long_enough(values, schedule, home)


def long_enough(values: dict[str, Any], schedule: str | None, home: Home) -> dict[str, Any]:
    """The settings of a training with no fewer epochs than the schedule needs.

    Raises:
        LmbenchError: a line for each mistake of the schedule.
    """
    needed = read_schedule(schedule, home).last_epoch + 1 if schedule else 0
    if needed > values.get("epochs", PruneConfig.model_fields["epochs"].default):
        return {**values, "epochs": needed}
    return values


def make_run(
    session: Session,
    kind: Kind,
    config: Config,
    *,
    parent: Run | None = None,
    name: str | None = None,
    command: str = "",
    point: str = "",
    place: str = "local",
) -> Run:
    """A ``queued`` run for `lmbench.jobs.launch.start`, with copies of the files it names.

    Args:
        point: which of its sweep's runs it is, "" for a run of no sweep.
        place: where it is to be worked on (`lmbench.jobs.places`).
    """
    if isinstance(config, TrainConfig) and parent is not None:
        before = parent.config()
        if isinstance(before, TrainConfig):
            check_start(config, before)
    if isinstance(config, TrainConfig) and config.data is None:
        # Another may be the default by the time that the run begins, or goes on.
        config = config.model_copy(update={"data": default_corpus(session.home.path)})
    if isinstance(config, TrainConfig):
        config = config.model_copy(update={"teacher": lasting_name(config.teacher, session)})
    files = own_files(config, session.home)
    return session.new_run(
        config,
        kind,
        name=name or run_name(kind, config),
        parent=parent,
        command=command,
        point=point,
        place=place,
        # Before a queue can see it.
        fill=lambda run: attach(run, files),
    )
