"""The run whose float model a screen works on."""

from __future__ import annotations

from collections.abc import Mapping

from lmbench.tui.watch import RunView

__all__ = ["stamp_of", "subject_of"]


def subject_of(views: Mapping[str, RunView], key: str) -> RunView | None:
    """The run whose float model is meant by a run: itself, the one it was made from, or else the
    newest that has one."""
    view = views.get(key)
    while view is not None:
        if _has_model(view):
            return view
        view = views.get(view.parent or "")
    return max(filter(_has_model, views.values()), key=lambda v: v.id, default=None)


def _has_model(view: RunView) -> bool:
    return view.kind in ("train", "prune") and view.run.checkpoint("best") is not None


def stamp_of(view: RunView) -> int:
    """What tells whether a run's model is still the one that it was."""
    folder = view.run.checkpoint("best")
    try:
        return (folder / "model.safetensors").stat().st_mtime_ns if folder else 0
    except OSError:
        return 0
