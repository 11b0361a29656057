"""From what a screen asks for to a run in the queue."""

from __future__ import annotations

from lmbench.config import Config, Kind, TrainConfig
from lmbench.jobs import launch
from lmbench.jobs.prepare import check_training, make_run
from lmbench.session.store import DEFAULT_SESSION, Home, Run, Session
from lmbench.tui.kit.background_task import BackgroundTask

__all__ = ["make_and_launch"]


def make_and_launch(
    home: Home,
    session: Session | None,
    kind: Kind,
    config: Config,
    parent: Run | None,
    name: str | None,
    command: str,
    task: BackgroundTask,
) -> Run:
    """In a thread: it may fetch a corpus, and starts a process."""
    if isinstance(config, TrainConfig):
        where = session.name if session else DEFAULT_SESSION
        has_parent = parent is not None
        check_training(
            config, home, task.progress, has_parent=has_parent, session=where, parent=parent
        )
    task.check()
    session = session or home.open_session()
    with launch.all_or_none() as made:
        made.append(make_run(session, kind, config, parent=parent, name=name, command=command))
        launch.start(made[0])
    return made[0]
