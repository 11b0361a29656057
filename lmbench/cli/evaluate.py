"""``lmbench evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lmbench.cli.common import Json, SessionName, print_json
from lmbench.cli.derived import print_detached
from lmbench.cli.flags import configured
from lmbench.cli.foreground import command_line, work_through
from lmbench.config import EvaluateConfig
from lmbench.jobs import launch
from lmbench.report.tables import run_document
from lmbench.session import Home, Run

__all__ = ["evaluate"]


@configured(EvaluateConfig)
def evaluate(
    config: EvaluateConfig,
    *models: str,
    session: SessionName = "default",
    detach: Annotated[bool, Parameter(negative="", help="leave it in the background")] = False,
    json: Json = False,
) -> int:
    """Score models on a split: perplexity and tokens a second, as they will run.

    Args:
        models: runs (SESSION/3, 3, @, paths) or packed files; left out: the newest run's.
    """
    home = Home.find()
    parents = [_parent(home, ref, session) for ref in models or ("@",)]
    documents, code = [], 0
    for parent in parents:
        owner = parent.session if isinstance(parent, Run) else home.open_session(session)
        run = owner.new_run(
            config, "evaluate", name=config.split, parent=parent, command=command_line()
        )
        launch.start(run, queue=detach)
        if detach and not json:
            print_detached(run, json=False)
        elif not detach:
            code = max(code, work_through(run, json=json, document=False))
        documents.append(run_document(run))
    if json:
        print_json(documents[0] if len(documents) == 1 else documents)
    return code


def _parent(home: Home, ref: str, session: str) -> Run | str:
    path = Path(ref).expanduser()
    return str(path.resolve()) if path.is_file() else home.find_run(ref, session, with_model=True)
