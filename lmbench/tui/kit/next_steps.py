"""What one would do next with a finished run: a key each, which fills the form for a new run."""

from __future__ import annotations

from functools import partial

from lmbench.config import TrainConfig
from lmbench.report.numbers import plural
from lmbench.session import Run
from lmbench.tui.bench.bench import Bench
from lmbench.tui.bench.snapshots import RunView, Snapshot
from lmbench.tui.kit.choices import open_prune_form, save_schedule

__all__ = [
    "GRADUAL",
    "RECORDING",
    "next_steps",
    "schedule_for",
    "take_step",
    "why_not_next",
]

RECORDING = "this is a recording: its runs take no requests"
_AFTER = {
    "train": ("prune", "quantize", "pack"),
    "prune": ("quantize", "pack"),
    "quantize": ("pack",),
    "pack": (),
}
_MADE = {"prune": "pruned", "quantize": "quantized", "pack": "packed"}
# The sparsity that most published schedules come to.
_LEVEL = 0.8
GRADUAL = f"gradual-{100 * _LEVEL:.0f}"
"""What a schedule that comes to it step by step is called."""
_PRESET = "int8-best"


def next_steps(view: RunView | None, snapshot: Snapshot) -> tuple[str, ...]:
    """The steps that a run proposes, in the order of a model's way to its packed file."""
    if view is None or view.status != "finished" or view.kind not in _AFTER:
        return ()
    with_parent = ("compare",) if snapshot.run(view.parent or "") is not None else ()
    return (*(_AFTER[view.kind] if view.has_best else ()), *with_parent)


def why_not_next(step: str, view: RunView | None) -> str:
    """Why a step is not among those."""
    if view is None:
        return "no run is selected"
    who = view.title
    if view.kind not in _AFTER:
        return f"{who} has no model of its own"
    if view.status != "finished":
        return f"{who} has not finished"
    if step != "compare" and not view.has_best:
        return f"{who} has no {'best checkpoint' if view.has_model else 'model'}"
    if step == "compare":
        return f"{who} was made from no run of this session"
    if step == view.kind:
        return f"{who} is {_MADE[step]} already"
    return f"{who} is a {_MADE[view.kind]} model: it cannot be {_MADE[step]}"


async def take_step(bench: Bench, step: str, view: RunView) -> None:
    """Open the form for the step, filled so that it can be started as it is; or compare."""
    if step == "compare":
        both = (view.parent or "", view.key)
        lost = len(set(bench.marked).difference(both))
        bench.mark(both)
        bench.open("compare")
        if lost:
            bench.show_message(f"these two are marked now, and no more {plural(lost, 'other run')}")
    elif step == "prune":
        await open_prune_form(bench, view, partial(_save_schedule, view.run))
    else:
        settings = {"preset": _PRESET} if step == "quantize" else {}
        bench.open("new_run", kind=step, settings=settings, parent=view.key)


def _save_schedule(parent: Run) -> tuple[str, str]:
    """In a thread: a schedule for the model of `parent`, as a file of the session; its path and
    text."""
    from lmbench.config import PruneConfig, validate
    from lmbench.jobs.prepare import inherited_settings

    text = schedule_for(validate(PruneConfig, inherited_settings(parent)))
    return save_schedule(parent.session, GRADUAL, text), text


def schedule_for(config: TrainConfig) -> str:
    """The text of a schedule that prunes each matrix of a model, whatever its shape."""
    from lmbench.distiller.schedules.suggest import gradual_schedule, pruning_epochs

    matrices = [name for name, shape in config.parameter_shapes(1).items() if len(shape) > 1]
    head = f"# Each matrix pruned to {100 * _LEVEL:.0f}%, step by step.\n"
    targets = dict.fromkeys(matrices, _LEVEL)
    return head + gradual_schedule(targets, *pruning_epochs(config.epochs))
