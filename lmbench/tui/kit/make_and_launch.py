"""From what a screen asks for to a run in the queue."""

from __future__ import annotations

from functools import partial

from lmbench.config import Config, Kind, TrainConfig
from lmbench.jobs import launch
from lmbench.jobs.prepare import check_training, make_run
from lmbench.session.store import Run, Session
from lmbench.tui.kit.background_task import BackgroundTask

__all__ = ["make_and_launch"]


def make_and_launch(
    session: Session,
    kind: Kind,
    config: Config,
    parent: Run | None,
    name: str | None,
    command: str,
    task: BackgroundTask,
) -> Run:
    """In a thread: it may fetch a corpus, and starts a process."""
    if isinstance(config, TrainConfig):
        has_parent, where = parent is not None, session.name
        check_training(
            config, session.home, task.progress, has_parent=has_parent, session=where, parent=parent
        )
    task.check()
    make = partial(make_run, session, kind, config, parent=parent, name=name, command=command)
    return launch.start_new(make)
