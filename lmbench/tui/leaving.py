"""Leaving the workbench while runs are alive."""

from __future__ import annotations

from lmbench.tui.bench import Bench
from lmbench.tui.watch import RunView
from lmbench.tui.widgets.dialog import Answer, Ask

__all__ = ["ask_to_leave"]


def ask_to_leave(bench: Bench, live: list[RunView]) -> None:
    """Ask what becomes of the live runs: left running, stopped cleanly, or do not quit."""

    async def answered(answer: str | None) -> None:
        if answer == "stop":
            await _stop(bench, live)
        if answer in ("leave", "stop"):
            bench.exit()

    names = ", ".join(f"{view.id} {view.name}" for view in live)
    question = (
        f"Still at work: {names}.\n"
        "Runs do not need the workbench: left running, they go on and are here when you come back."
    )
    answers = (
        Answer("leave", "l", "leave running"),
        Answer("stop", "s", "stop cleanly"),
        Answer("", "escape", "stay"),
    )
    bench.push_screen(Ask("Quit", question, answers), answered)


async def _stop(bench: Bench, live: list[RunView]) -> None:
    from lmbench.jobs import launch

    for view in live:
        await bench.do(launch.request, view.run, "stop", doing="while stopping a run")
