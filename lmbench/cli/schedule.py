"""``lmbench schedule``: check a pruning schedule and see what it will do, before it runs."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from lmbench.cli.flags import configured, refuse_flags, whole
from lmbench.cli.output import Json, SessionName, console, presets_table, print_json
from lmbench.config import PruneConfig, TrainConfig
from lmbench.corpus import open_corpus
from lmbench.distiller.schedules.checking import Schedule
from lmbench.distiller.schedules.plan import SchedulePlan
from lmbench.distiller.schedules.preset_files import preset_names, preset_summary
from lmbench.errors import LmbenchError
from lmbench.jobs.run_schedule import (
    check_building,
    check_schedule,
    plan_on_run,
    plan_on_shape,
    read_schedule,
)
from lmbench.report.numbers import plural
from lmbench.session import Home

__all__ = ["app"]

app = App(name="schedule")

WIKITEXT2_TYPES = 33_278


@app.command(name="list")
def list_(*, json: Json = False) -> None:
    """The presets."""
    if json:
        print_json([{"name": name, "about": preset_summary(name)} for name in preset_names()])
        return
    console().print(presets_table((name, preset_summary(name)) for name in preset_names()))


Parent = Annotated[
    str | None,
    Parameter(
        name="--run",
        help="judge by the weights of this trained run, and take its shape (SESSION/3, 3, @)",
    ),
]
Types = Annotated[
    int | None,
    Parameter(
        converter=whole,
        help="types of the corpus, for the totals; left out: those of --data, else 33,278, which "
        "WikiText-2 has",
    ),
]
# Of a training's settings those that a schedule is judged by: the model's weights, the optimizer,
# and how long it trains.
_SHAPE = (
    *("model", "emsize", "nhid", "nlayers", "tied", "projection", "data", "vocab", "epochs"),
    *("lr", "momentum"),
)


@app.command
@configured(PruneConfig, only=_SHAPE)
def check(
    config: PruneConfig,
    file: str,
    /,
    *,
    run: Parent = None,
    types: Types = None,
    session: SessionName = "default",
    json: Json = False,
) -> None:
    """Check a schedule against a model: each mistake is one line with the fix.

    Args:
        file: a YAML file or a preset.
    """
    schedule, plan = _plan(config, file, types, run, session)
    if json:
        print_json(_document(schedule, plan))
        return
    out = console()
    for note in plan.notes:
        out.print(f"note: {note}", soft_wrap=True)
    out.print(f"{schedule.source}: in order; {_outcome(plan, run)}", soft_wrap=True)


@app.command
@configured(PruneConfig, only=_SHAPE)
def plot(
    config: PruneConfig,
    file: str,
    /,
    *,
    run: Parent = None,
    types: Types = None,
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
    from lmbench.report.plots.command_plots import schedule_text

    out = console()
    out.print(schedule_text(plan, min(out.width, 100), 18))
    out.print(_outcome(plan, run), soft_wrap=True)
    for note in plan.notes:
        out.print(f"note: {note}", soft_wrap=True)


def _plan(
    config: PruneConfig, file: str, types: int | None, run: str | None, session: str
) -> tuple[Schedule, SchedulePlan]:
    home = Home.find()
    epochs = config.epochs if "epochs" in config.model_fields_set else None
    if run is not None:
        shape = dict.fromkeys(sorted(config.model_fields_set - {"epochs", "projection"}), True)
        refuse_flags("the model is that of --run", **shape, types=types)
        schedule = read_schedule(file, home)
        parent = home.find_run(run, session, with_model=True)
        settings = parent.config()
        if isinstance(settings, TrainConfig):
            projected = settings.projection or config.projection
            check_building(settings.model_copy(update={"projection": projected}), schedule)
        return schedule, plan_on_run(schedule, parent, epochs, projection=config.projection)
    refuse_flags("is that of --run: name the run, too", session=session != "default")
    config = config.model_copy(update={"compress": file})
    schedule = check_schedule(config, home)
    if schedule is None:
        raise LmbenchError(f"{file}: no schedule")
    check_building(config, schedule)
    plan = plan_on_shape(schedule, config, _types(config, types, home), epochs)
    pruned = {tensor.name for tensor in plan.tensors}
    if not config.tied and "encoder.weight" in pruned and "decoder.weight" not in pruned:
        untied = "decoder.weight stays dense in an untied model: add --tied for a tied one"
        plan.notes = (*plan.notes, untied)
    return schedule, plan


def _types(config: PruneConfig, types: int | None, home: Home) -> int:
    if config.data is None:
        refuse_flags("is about --data: add that", vocab="vocab" in config.model_fields_set)
        if types is not None and types < 1:
            raise LmbenchError(f"--types {types}: give how many there are, at least 1")
        return WIKITEXT2_TYPES if types is None else types
    refuse_flags("--data says how many there are", types=types)
    return open_corpus(config.data, home.path, vocab=config.vocab, may_fetch=False).ntokens


def _outcome(plan: SchedulePlan, run: str | None) -> str:
    if plan.final_sparsity is None:
        return "thresholds decide what is pruned, so the total depends on the weights" + (
            ": name a trained run with --run" if run is None else " as they train on"
        )
    about = "about " if plan.estimated else ""
    return (
        f"after {plural(plan.epochs, 'epoch')} {about}{100 * plan.final_sparsity:.2f}% of "
        f"{plan.total:,} weights are zero, {plan.final_nonzero:,} remain"
    )


def _document(schedule: Schedule, plan: SchedulePlan) -> dict[str, object]:
    """The plan as JSON; ``at`` are the epochs of its curves: all, or 500 of a longer schedule."""
    epochs, curves, totals = plan.drawn()
    return {
        "schedule": schedule.source,
        "epochs": plan.epochs,
        "weights": plan.total,
        "final_sparsity": plan.final_sparsity,
        "final_nonzero": plan.final_nonzero,
        "at": list(epochs),
        "totals": totals,
        "tensors": [
            {"name": t.name, "shape": t.shape, "sparsity": curves[t.name], "estimated": t.estimated}
            for t in plan.tensors
        ],
        "notes": plan.notes,
    }
