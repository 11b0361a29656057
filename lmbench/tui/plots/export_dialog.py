"""Writing a plot to a file: asks where, and before it replaces anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lmbench.report.plots.layout import Plot
from lmbench.tui.kit.dialog import TextDialog, ask_to_replace, typed_path

if TYPE_CHECKING:
    from lmbench.tui.bench.bench import Bench

__all__ = ["ask_and_export"]

_TITLE = "Export"


def ask_and_export(bench: Bench, plot: Plot, title: str, suggested: str) -> None:
    """Ask for a file's name and write `plot` to it, in the format that its ending says."""

    async def write(path: Path) -> None:
        from lmbench.report.plots.export import export

        written = await bench.run_in_thread(
            export, plot, path, title, doing="while writing the plot"
        )
        if written is not None:
            bench.show_message(f"wrote {written}")

    def go(path: Path) -> None:
        bench.run_worker(write(path), exit_on_error=False)

    def named(text: str | None) -> None:
        if not text:
            return
        path = typed_path(text).absolute()
        if path.exists():
            ask_to_replace(bench, _TITLE, path, lambda: go(path))
        else:
            go(path)

    question = "Write the plot to a file (.svg, .txt) or its data (.csv):"
    bench.push_screen(TextDialog(_TITLE, question, suggested, _complaint), named)


def _complaint(text: str) -> str:
    from lmbench.report.plots.export import FORMATS

    path = typed_path(text).absolute()
    if path.suffix.lower().lstrip(".") not in FORMATS:
        return "The ending says which format: .svg, .txt or .csv"
    if path.is_dir():
        return f"{path.name} is a folder"
    return "" if path.parent.is_dir() else f"There is no folder {path.parent}"
