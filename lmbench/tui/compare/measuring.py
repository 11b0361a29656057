"""What Compare has queued to measure runs: benchmarks, and evaluations that adapt to the text."""

from __future__ import annotations

from typing import Any

from lmbench.config import Kind, parse_config
from lmbench.report.compare import MEASURABLE
from lmbench.report.numbers import plural
from lmbench.session.store import TRAINED_FILE
from lmbench.tui.bench.snapshots import RunView

__all__ = [
    "WAYS",
    "LeftOut",
    "divide",
    "numbers_of",
    "queue_benchmarks",
    "queue_evaluations",
    "queued_words",
    "reasons",
]

# So many runs are named in one line.
_NAMED = 2
_TUNE_TOKENS = 20_000
WAYS: dict[str, tuple[dict[str, Any], str]] = {
    "cache": ({"cache": 2000}, "a neural cache over the last 2,000 words"),
    "dynamic": ({"dynamic": "sgd"}, "weights that follow the text, by plain steps"),
    "dynamic rms": ({"dynamic": "rms"}, "the same, steps divided by gradients of train"),
    "both": ({"cache": 2000, "dynamic": "sgd"}, "cache and plain steps together"),
}
LeftOut = dict[str, list[RunView]]
"""By the reason, the runs that are not evaluated."""


def queue_benchmarks(views: list[RunView]) -> list[RunView]:
    """In a thread: make and start a benchmark of each run."""
    _queue("benchmark", {}, "speed of", views)
    return views


def _queue(kind: Kind, settings: dict[str, Any], what: str, views: list[RunView]) -> None:
    from lmbench.jobs import launch
    from lmbench.jobs.prepare import command_for

    config = parse_config(kind, settings)
    with launch.all_or_none() as runs:
        for view in views:
            command = command_for(kind, settings, parent=view.run.ref)
            runs.append(view.run.session.new_run(
                config, kind, name=f"{what} {view.id}", parent=view.run, command=command,
            ))  # fmt: skip
        launch.start_all(runs)


def _why_not(view: RunView, way: str) -> str:
    """Why a run is not evaluated in this way; "" where it is. For steps it looks at its files."""
    if view.kind == "quantize":
        return "pack it first"
    if view.kind not in MEASURABLE:
        return "no model of its own"
    if view.status != "finished":
        return f"it is {view.status}"
    if not view.has_best:
        return "no best checkpoint"
    if "dynamic" not in WAYS[way][0]:
        return ""
    if view.kind == "pack":
        return "steps need floats"
    best = view.run.checkpoint("best")
    on_grid = best is not None and (best / TRAINED_FILE).is_file()
    return "on a grid that steps leave" if on_grid else ""


def divide(views: list[RunView], way: str) -> tuple[list[RunView], LeftOut]:
    """The runs that can be evaluated so, and those that cannot."""
    by_reason: LeftOut = {}
    for view in views:
        by_reason.setdefault(_why_not(view, way), []).append(view)
    return by_reason.pop("", []), by_reason


def reasons(left_out: LeftOut, room: int) -> str:
    """Which runs are left out and why: as many of the reasons as there is room for, the one of
    most runs first."""
    groups = sorted(left_out.items(), key=lambda group: -len(group[1]))
    parts = [f"{numbers_of(views)} ({why})" for why, views in groups]
    parts[1:] = [part.removeprefix("run ").removeprefix("runs ") for part in parts[1:]]
    words = ""
    for said in range(len(parts), 0, -1):
        more = sum(len(views) for _, views in groups[said:])
        words = "; ".join([*parts[:said], *([f"{more} more"] if more else [])])
        if len(words) <= room:
            break
    return words


def numbers_of(views: list[RunView]) -> str:
    """One run or two by number, more by how many they are."""
    if len(views) > _NAMED:
        return f"{len(views)} runs"
    numbers = ", ".join(str(number) for number in sorted(view.id for view in views))
    return f"run{'s' * (len(views) > 1)} {numbers}" if views else ""


def queued_words(number: int, kind: str) -> str:
    return f"{plural(number, kind)} {'is' if number == 1 else 'are'} queued"


def queue_evaluations(views: list[RunView], way: str) -> tuple[list[RunView], LeftOut]:
    """In a thread: make and start an evaluation of each run that can be; see `divide`."""
    views, left_out = divide(views, way)
    settings = {**WAYS[way][0], "tune": True, "tune_tokens": _TUNE_TOKENS}
    _queue("evaluate", settings, f"{way} on", views)
    return views, left_out
