"""``lmbench sensitivity``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lmbench.cli.flags import configured, free_place, refuse_flags, write_new
from lmbench.cli.output import Json, SessionName, console
from lmbench.cli.start_run import Detach, RunName, derive
from lmbench.config import SensitivityConfig
from lmbench.report.plots.command_plots import curves_text
from lmbench.session import Home, Run, read_events
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
    name: RunName = None,
    session: SessionName = "default",
    detach: Detach = False,
    json: Json = False,
) -> int:
    """Measure what pruning each tensor alone would cost, and suggest a schedule.

    Args:
        run: a trained run (SESSION/3, 3, @, a path).
    """
    if output is not None:
        if config.suggest is None:
            refuse_flags("--suggest makes the schedule: add it", output=output)
        if detach:
            refuse_flags("nothing waits for a run that is detached", output=output)
    place = free_place("--output", output) if output is not None else None
    parent = Home.find().find_run(run, session, with_model=True)
    found, code = derive(parent, "sensitivity", config, name=name, detach=detach, json=json)
    if code or detach:
        return code
    if not json:
        _plot(found)
    if place is not None:
        suggested = found.path / "suggested.yaml"
        write_new("--output", place, suggested.read_bytes(), kept=suggested)
    return 0


def _plot(run: Run) -> None:
    points = [e for e in read_events(run.events_path) if isinstance(e, SensitivityPoint)]
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
