"""``lmbench schedule``: check a pruning schedule and see what it will do, before it runs."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter
from rich.table import Table

from lmbench.cli.common import Json, SessionName, console, print_json
from lmbench.cli.flags import configured
from lmbench.config import PruneConfig
from lmbench.distiller.schedules.checking import Schedule
from lmbench.distiller.schedules.plan import SchedulePlan, predict_sparsity
from lmbench.distiller.schedules.preset_files import preset_names, preset_summary
from lmbench.errors import LmbenchError
from lmbench.jobs.run_schedule import check_building, check_schedule, plan_on_run, read_schedule
from lmbench.report.numbers import plural
from lmbench.session import Home

__all__ = ["app"]

app = App(name="schedule", help="Check and draw pruning schedules.")

WIKITEXT2_TYPES = 33_278


@app.command(name="list")
def list_(*, json: Json = False) -> None:
    """The presets."""
    if json:
        print_json([{"name": name, "about": preset_summary(name)} for name in preset_names()])
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("preset")
    table.add_column("what it does")
    for name in preset_names():
        table.add_row(name, preset_summary(name))
    console().print(table)


Parent = Annotated[
    str | None,
    Parameter(
        name="--run",
        help="judge by the weights of this trained run, and take its shape (SESSION/3, 3, @)",
    ),
]
Words = Annotated[int, Parameter(help="types of the corpus, for the totals (33,278: WikiText-2)")]


@app.command
@configured(PruneConfig)
def check(
    config: PruneConfig,
    file: str,
    /,
    *,
    run: Parent = None,
    session: SessionName = "default",
    json: Json = False,
) -> None:
    """Check a schedule against a model: each mistake is one line with the fix.

    Args:
        file: a YAML file or a preset.
    """
    schedule, plan = _plan(config, file, WIKITEXT2_TYPES, run, session)
    if json:
        print_json(_document(schedule, plan))
        return
    out = console()
    for note in plan.notes:
        out.print(f"note: {note}", soft_wrap=True, markup=False)
    out.print(f"{schedule.source}: in order; {_outcome(plan)}", soft_wrap=True, markup=False)


@app.command
@configured(PruneConfig)
def plot(
    config: PruneConfig,
    file: str,
    /,
    *,
    run: Parent = None,
    types: Words = WIKITEXT2_TYPES,
    session: SessionName = "default",
    json: Json = False,
) -> None:
    """Draw the sparsity of each tensor over the epochs, and the total the model will end with.

    Args:
        file: a YAML file or a preset.
    """
    schedule, plan = _plan(config, file, types, run, session)
    if json:
        print_json(_document(schedule, plan))
        return
    from lmbench.report.plots.terminal import schedule_text

    out = console()
    out.print(schedule_text(plan, min(out.width, 100), 18))
    out.print(_outcome(plan), soft_wrap=True)
    for note in plan.notes:
        out.print(f"note: {note}", soft_wrap=True, markup=False)


def _plan(
    config: PruneConfig, file: str, ntoken: int, run: str | None, session: str
) -> tuple[Schedule, SchedulePlan]:
    home = Home.find()
    epochs = config.epochs if "epochs" in config.model_fields_set else None
    if run is not None:
        schedule = read_schedule(file, home)
        return schedule, plan_on_run(schedule, home.find_run(run, session, with_model=True), epochs)
    config = config.model_copy(update={"compress": file})
    schedule = check_schedule(config, home)
    if schedule is None:
        raise LmbenchError(f"{file}: no schedule")
    check_building(config, schedule)
    shapes = config.parameter_shapes(ntoken)
    names = {name: name for name in shapes}
    if config.tied:
        names["decoder.weight"] = "encoder.weight"
    return schedule, predict_sparsity(schedule, shapes, names, epochs)


def _outcome(plan: SchedulePlan) -> str:
    if plan.final_sparsity is None:
        return (
            "thresholds decide what is pruned, so the total depends on the weights: name a trained "
            "run with --run"
        )
    about = "about " if plan.estimated else ""
    return (
        f"after {plural(plan.epochs, 'epoch')} {about}{100 * plan.final_sparsity:.2f}% of "
        f"{plan.total:,} weights are zero, {plan.final_nonzero:,} remain"
    )


def _document(schedule: Schedule, plan: SchedulePlan) -> dict[str, object]:
    return {
        "schedule": schedule.source,
        "epochs": plan.epochs,
        "weights": plan.total,
        "final_sparsity": plan.final_sparsity,
        "final_nonzero": plan.final_nonzero,
        "totals": plan.totals,
        "tensors": [
            {"name": t.name, "shape": t.shape, "sparsity": t.sparsity, "estimated": t.estimated}
            for t in plan.tensors
        ],
        "notes": plan.notes,
    }
