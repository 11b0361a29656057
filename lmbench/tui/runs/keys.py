"""The keys of the panel of runs: filter, mark, sort, delete, what comes next."""

from __future__ import annotations

from textual.binding import Binding, BindingType

__all__ = ["KEYS"]

KEYS: list[BindingType] = [
    Binding("slash", "filter", "filter", id="runs.filter", tooltip="Filter the runs",
            key_display="/"),
    Binding("escape", "unfilter", "no filter", id="runs.unfilter", show=False,
            tooltip="Take the filter away"),
    Binding("space", "mark", "mark", id="runs.mark",
            tooltip="Mark the run, to overlay and compare it"),
    Binding("u", "unmark", "unmark all", id="runs.unmark", show=False, tooltip="Unmark all runs"),
    Binding("t", "sort", "sort", id="runs.sort", tooltip="Sort the runs another way"),
    Binding("enter", "open", "open", id="runs.open", show=False,
            tooltip="Say why it ended, or read its plot"),
    Binding("r", "rename", "rename", id="runs.rename", show=False, tooltip="Rename the run"),
    Binding("d,delete", "delete", "delete", id="runs.delete", show=False,
            tooltip="Delete the run (asks; U brings it back)"),
    Binding("U", "undo_delete", "undo delete", id="runs.undo_delete", show=False,
            tooltip="Bring back what was deleted last, until the workbench is left"),
    Binding("P", "next('prune')", "prune", id="runs.next_prune", show=False,
            tooltip="Prune the run: the form, filled so that it can be started"),
    Binding("Q", "next('quantize')", "quantize", id="runs.next_quantize", show=False,
            tooltip="Quantize the run: the form, filled so that it can be started"),
    Binding("K", "next('pack')", "pack", id="runs.next_pack", show=False,
            tooltip="Pack the run into one small file: the form, filled so that it can be started"),
    Binding("C", "next('compare')", "compare", id="runs.next_compare", show=False,
            tooltip="Compare the run with the one that it was made from"),
    Binding("w", "copy_command", "copy command", id="runs.copy_command", show=False,
            tooltip="Copy the command line that does the same"),
    Binding("f", "copy_path", "copy path", id="runs.copy_path", show=False,
            tooltip="Copy the path of the run's folder"),
]  # fmt: skip
