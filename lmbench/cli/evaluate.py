"""``lmbench evaluate``."""

from __future__ import annotations

from functools import partial

from lmbench.cli.flags import configured
from lmbench.cli.foreground import command_line
from lmbench.cli.output import Json, SessionName, print_json
from lmbench.cli.start_run import Detach, start
from lmbench.config import EvaluateConfig
from lmbench.errors import INTERRUPTED
from lmbench.report.tables import run_document
from lmbench.session import Home, Run

__all__ = ["evaluate"]


@configured(EvaluateConfig)
def evaluate(
    config: EvaluateConfig,
    *models: str,
    session: SessionName = "default",
    detach: Detach = False,
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
        make = partial(
            owner.new_run,
            config, "evaluate", name=config.split, parent=parent, command=command_line(),
        )  # fmt: skip
        run, made = start(make, detach=detach, json=json, document=False)
        code = max(code, made)
        documents.append(run_document(run))
        if made == INTERRUPTED:
            break
    if json:
        print_json(documents)
    return code


def _parent(home: Home, ref: str, session: str) -> Run | str:
    path = home.file_of(ref, session)
    return str(path.resolve()) if path else home.find_run(ref, session, with_model=True)
