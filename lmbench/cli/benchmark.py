"""``lmbench benchmark``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lmbench.cli.flags import configured
from lmbench.cli.output import Json, SessionName
from lmbench.cli.start_run import RunName, new_run, start
from lmbench.config import BenchmarkConfig
from lmbench.errors import LmbenchError
from lmbench.session import Home, Run

__all__ = ["benchmark"]


@configured(BenchmarkConfig)
def benchmark(
    config: BenchmarkConfig,
    *models: Annotated[str, Parameter(help="runs, or packed files")],
    name: RunName = None,
    session: SessionName = "default",
    json: Json = False,
) -> int:
    """Size, memory, speed and perplexity of models in each runtime, side by side.

    Every runtime that can run a model takes its turn in interleaved rounds; ratios are to torch's
    own layers and to the fastest dense fp32 runtime.
    """
    home = Home.find()
    if not models:
        raise LmbenchError("benchmark needs at least one run or packed file (@ is the newest run)")
    paths = [home.file_of(model, session) for model in models]
    found = [
        path or home.find_run(model, session, with_model=True)
        for model, path in zip(models, paths, strict=True)
    ]
    runs = [one for one in found if isinstance(one, Run)]
    owner = runs[0].session if runs else home.open_session(session)
    # What the working folder of the benchmark does not have is named by its path.
    resolved = (
        one.resolve() if isinstance(one, Path) else one.ref if one.home == owner.home else one.path
        for one in found
    )
    config = config.model_copy(update={"models": tuple(map(str, resolved))})
    parent = runs[0] if runs else None
    make = partial(new_run, owner, "benchmark", config, parent=parent, name=name)
    return start(make, detach=False, json=json)[1]
