"""``lmbench pack``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lmbench.cli.flags import configured, free_place, write_new
from lmbench.cli.output import Json, SessionName, print_line
from lmbench.cli.start_run import RunName, new_run, start
from lmbench.config import PackConfig
from lmbench.jobs.prepare import refuse_packed
from lmbench.session import Home

__all__ = ["pack"]


@configured(PackConfig, only=PackConfig.model_fields.keys() - {"device", "cuda"})
def pack(
    config: PackConfig,
    run: Annotated[str, Parameter(help="the run whose model is packed")],
    /,
    *,
    output: Annotated[
        Path | None,
        Parameter(name=("--output", "-o"), help="put a copy of the file here (model.lmpack)"),
    ] = None,
    name: RunName = None,
    session: SessionName = "default",
    json: Json = False,
) -> int:
    """Write one small file with the model, its words and its scores.

    It is scored as it will run. Generating, evaluating and benchmarking take the file wherever
    they take a run, with no session at hand.
    """
    home = Home.find()
    parent = home.find_run(run, session, with_model=True)
    refuse_packed(parent)
    place = free_place("--output", output) if output is not None else None
    make = partial(new_run, parent.session, "pack", config, parent=parent, name=name)
    new, code = start(make, detach=False, json=json)
    packed = new.path / "model.lmpack"
    if code == 0 and place is not None:
        write_new("--output", place, packed.read_bytes(), kept=packed)
    if code == 0 and not json:
        print_line(f"packed into {place or packed}")
    return code
