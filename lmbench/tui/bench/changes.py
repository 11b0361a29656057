"""What is to be told of the difference between two snapshots of a session."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from lmbench.tui.bench.snapshots import RunView, Snapshot

__all__ = ["bad_news", "ended", "is_past", "newest_note"]

_ENDED = ("finished", "stopped", "failed", "lost")


def bad_news(before: Snapshot, now: Snapshot, deleted: Collection[str]) -> str:
    """Which run has failed, or is gone without being among `deleted` (keys); "" where none."""
    gone = [v for v in before.runs if now.run(v.key) is None and v.key not in deleted]
    news = [_is_gone(view) for view in gone]
    for old, view in _known(before, now):
        if view.problem and old.problem != view.problem:
            news.append(f"{view.title}: {view.problem}")
        if view.status in ("failed", "lost") and old.status != view.status:
            news.append(f"{view.title} {view.status}: {view.reason}")
    return max(news, default="")


def is_past(news: str, before: Snapshot, now: Snapshot) -> bool:
    """Is it of trouble that is mended now, or of a run that was there and is not any more?
    That a run is gone is past when it is back."""
    if before.problem and news == before.problem:
        return now.problem != news
    if any(news == _is_gone(view) for view in now.runs):
        return True
    view = next((view for view in before.runs if news.startswith(f"{view.id} ")), None)
    if view is None:
        return False
    after = now.run(view.key)
    return after is None or (news == f"{view.title}: {view.problem}" and not after.problem)


def newest_note(
    before: Snapshot, now: Snapshot, shown: tuple[float, str]
) -> tuple[float, str] | None:
    """The newest of the runs' new notes, with its time; None where there is none.

    Runs are read in as many turns as that takes, the newest first, and anew where their events
    were removed: what one wrote before `shown`, the note shown last, is no news.
    """
    new = []
    for view in now.runs:
        old = before.run(view.key)
        for note in view.notes[-1:]:
            entry = (note.t, f"{view.title}: {note.text}")
            known = old.notes[-1:] if old and old.generation == view.generation else ()
            if (note,) != known if known else entry > shown:
                new.append(entry)
    return max(new, default=None)


def ended(before: Snapshot, now: Snapshot) -> list[str]:
    """The runs that have ended, and how."""
    return [
        f"{view.title} {view.status}"
        for old, view in _known(before, now)
        if old.live and view.status in _ENDED
    ]


def _known(before: Snapshot, now: Snapshot) -> Iterator[tuple[RunView, RunView]]:
    for view in now.runs:
        if (old := before.run(view.key)) is not None:
            yield old, view


def _is_gone(view: RunView) -> str:
    return f"{view.title} is gone: its folder is not there any more"
