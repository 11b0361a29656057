"""The run whose float model a screen works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lmbench.tui.bench.snapshots import RunView

__all__ = [
    "checkpoint_of",
    "is_training",
    "subject_of",
    "with_float_model",
    "with_trainings",
]


def subject_of(views: Mapping[str, RunView], key: str) -> RunView | None:
    """The run whose float model is meant by a run: itself, the one it was made from, or else the
    newest that has one."""
    newest = max(filter(_has_model, views.values()), key=lambda v: v.id, default=None)
    return with_float_model(views, key) or newest


def with_float_model(views: Mapping[str, RunView], key: str) -> RunView | None:
    """A run that has a float model, or the one that it was made from; None where neither has."""
    view = views.get(key)
    while view is not None and not _has_model(view):
        view = views.get(view.parent or "")
    return view


def checkpoint_of(view: RunView) -> str:
    """The best one; of a run that is at work, the last, which shows how far it has come."""
    if view.live and view.run.checkpoint("last") is not None:
        return "last"
    return "last" if view.run.checkpoint("best") is None else "best"


def is_training(view: RunView) -> bool:
    """Does it have curves of its own?"""
    return view.kind in ("train", "prune")


def with_trainings(views: Mapping[str, RunView], shown: Sequence[RunView]) -> tuple[RunView, ...]:
    """The runs that are shown, and behind them the trainings that those without curves came from,
    each once."""
    found = {view.key: view for view in shown}
    for view in shown:
        ancestor: RunView | None = view
        while ancestor is not None and not is_training(ancestor):
            ancestor = views.get(ancestor.parent or "")
        if ancestor is not None:
            found.setdefault(ancestor.key, ancestor)
    return tuple(found.values())


def _has_model(view: RunView) -> bool:
    return is_training(view) and view.run.checkpoint("best") is not None
