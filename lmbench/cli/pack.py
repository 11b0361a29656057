"""``lmbench pack``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lmbench.cli.common import Json, SessionName, console
from lmbench.cli.flags import configured
from lmbench.cli.foreground import command_line, work_through
from lmbench.config import PackConfig
from lmbench.errors import LmbenchError
from lmbench.jobs import launch
from lmbench.jobs.prepare import make_run
from lmbench.session import Home

__all__ = ["pack"]


@configured(PackConfig)
def pack(
    config: PackConfig,
    run: Annotated[str, Parameter(help="the run whose model is packed")],
    /,
    *,
    output: Annotated[
        Path | None,
        Parameter(name=("--output", "-o"), help="put a copy of the file here (model.lmpack)"),
    ] = None,
    name: Annotated[str | None, Parameter(help="what the run is called")] = None,
    session: SessionName = "default",
    json: Json = False,
) -> int:
    """Write one small file with the model, its words and its scores.

    It is scored as it will run. Generating, evaluating and benchmarking take the file wherever
    they take a run, with no session at hand.
    """
    home = Home.find()
    parent = home.find_run(run, session, with_model=True)
    if output is not None and (output.exists() or not output.absolute().parent.is_dir()):
        reason = "is there already" if output.exists() else "is in no folder that exists"
        raise LmbenchError(f"--output {output} {reason}; choose another place")
    new = make_run(parent.session, "pack", config, parent=parent, name=name, command=command_line())
    launch.start(new, queue=False)
    code = work_through(new, json=json)
    packed = new.path / "model.lmpack"
    if code == 0 and output is not None:
        shutil.copyfile(packed, output)
    if code == 0 and not json:
        console().print(f"packed into {output or packed}", soft_wrap=True, markup=False)
    return code
