"""``lmbench sensitivity``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lmbench.cli.common import Json, SessionName, console, stderr
from lmbench.cli.derived import derive
from lmbench.cli.flags import configured
from lmbench.config import SensitivityConfig
from lmbench.report.plots.terminal import curves_text
from lmbench.session import EventLog, Home, Run
from lmbench.session.events import SensitivityPoint

__all__ = ["sensitivity"]


@configured(SensitivityConfig)
def sensitivity(
    config: SensitivityConfig,
    run: str = "@",
    /,
    *,
    output: Annotated[
        Path | None, Parameter(name=("--output", "-o"), help="copy the suggested schedule here")
    ] = None,
    name: Annotated[str | None, Parameter(help="what the run is called")] = None,
    session: SessionName = "default",
    detach: Annotated[bool, Parameter(negative="", help="leave it in the background")] = False,
    json: Json = False,
) -> int:
    """Measure what pruning each tensor alone would cost, and suggest a schedule.

    Args:
        run: a trained run (SESSION/3, 3, @, a path).
    """
    parent = Home.find().find_run(run, session, with_model=True)
    found, code = derive(
        parent, "sensitivity", config, name=name or config.granularity, detach=detach, json=json
    )
    if code or detach:
        return code
    if not json:
        _plot(found)
    if output is not None:
        _copy_schedule(found, output)
    return 0


def _plot(run: Run) -> None:
    points = [e for e in EventLog(run.events_path).poll() if isinstance(e, SensitivityPoint)]
    dense = [point.ppl for point in points if point.level == 0]
    pictures: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for point in points:
        if point.level > 0:
            curves = pictures.setdefault(point.part, {})
            curves.setdefault(point.tensor, [(0.0, dense[0])]).append((point.level, point.ppl))
    out = console()
    for curves in pictures.values():
        out.print(
            curves_text(curves, min(out.width, 100), 18, unit="number", x_axis="sparsity", log=True)
        )


def _copy_schedule(run: Run, output: Path) -> None:
    source = run.path / "suggested.yaml"
    if output.exists():
        stderr().print(f"{output} is there already and was left alone", soft_wrap=True)
    elif source.exists():
        shutil.copyfile(source, output)
