"""The published commands in the command palette: trainings, schedules, quantizations, chains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from textual.app import SystemCommand

from lmbench.distiller.quantization import settings_files as quantization
from lmbench.distiller.schedules.preset_files import preset_names, preset_summary
from lmbench.report.published_figures import FIRST_STEPS, PUBLISHED
from lmbench.tui.bench.bench import Bench
from lmbench.tui.bench.float_model_run import subject_of
from lmbench.tui.new_run.form_lines import can_start

__all__ = ["published_commands"]


def published_commands(bench: Bench) -> Iterable[SystemCommand]:
    """A command for each preset; those that need a trained run only where there is one."""
    if bench.demo or bench.session is None:
        return
    for training in (FIRST_STEPS, *PUBLISHED):
        form = partial(bench.open, "new_run", preset=training.name)
        yield SystemCommand(f"Train {training.name}", training.about, form)
        yield SystemCommand(
            f"Queue {training.name}: train, prune at four levels, quantize each",
            training.about,
            partial(bench.open, "chains", first=training.name),
        )
    selected = bench.selected_run
    if selected is not None and can_start("pack", selected):
        form = _form(bench, "pack", {}, selected.key)
        yield SystemCommand(f"Pack {selected.title} into one small file", "opens the form", form)
    subject = subject_of(bench.snapshot.by_key, bench.selected)
    if subject is None:
        return
    of = subject.title
    for name in preset_names():
        about = preset_summary(name).partition(". ")[0]
        form = _form(bench, "prune", {"compress": name}, subject.key)
        yield SystemCommand(f"Prune {of} by {name}", about, form)
    for name in quantization.preset_names():
        form = _form(bench, "quantize", {"preset": name}, subject.key)
        about = quantization.preset_description(name)
        yield SystemCommand(f"Quantize {of} to {name}", about, form)


def _form(bench: Bench, kind: str, settings: Mapping[str, Any], parent: str | None) -> partial[Any]:
    return partial(bench.open, "new_run", kind=kind, settings=settings, parent=parent)
