"""``lmbench evaluate``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from lmbench.cli.common import Json, SessionName, print_json
from lmbench.cli.derived import print_detached
from lmbench.cli.flags import configured
from lmbench.cli.foreground import command_line, work_through
from lmbench.config import EvaluateConfig
from lmbench.jobs import launch
from lmbench.report.tables import run_document
from lmbench.session import Home

__all__ = ["evaluate"]


@configured(EvaluateConfig)
def evaluate(
    config: EvaluateConfig,
    *runs: str,
    session: SessionName = "default",
    detach: Annotated[bool, Parameter(negative="", help="leave it in the background")] = False,
    json: Json = False,
) -> int:
    """Score runs on a split: perplexity and tokens a second, as they will run.

    Args:
        runs: the runs (SESSION/3, 3, @, paths); left out: the newest.
    """
    home = Home.find()
    parents = [home.find_run(ref, session) for ref in runs or ("@",)]
    documents, code = [], 0
    for parent in parents:
        run = parent.session.new_run(
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
