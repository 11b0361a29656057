"""A run's history from its events: curves, newest values, progress, and a line of text for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmbench.printable import one_line, printable
from lmbench.report.numbers import plural
from lmbench.report.plots.curve_data import CurvesBuilder
from lmbench.session import events as ev

__all__ = [
    "EVENT_LISTS",
    "NEWEST_EVENTS",
    "Note",
    "RunHistory",
    "RunProgress",
    "adapted_tests",
    "describe_event",
]

_NOTES_KEPT = 400
_SPEED_POINTS = 30
# Sparsities that differ by less, in percent, read the same.
_SAME_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Note:
    """One line of a run's log: when, what kind of event, and its text."""

    t: float
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run is. `fraction` in [0, 1]; `left_s` seconds to go, None where unknown; `aside`
    is the part of a training that has no steps, as ``validating 40%``."""

    what: str
    fraction: float
    left_s: float | None
    aside: str = ""


class RunHistory:
    """Everything that is shown of a run's events."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.curves = CurvesBuilder()
        self._latest: dict[type[ev.Event], ev.Event] = {}
        self._lists: dict[type[ev.Event], list[ev.Event]] = {}
        self._notes: list[Note] = []
        self._pruned: list[ev.PruneStep] = []
        self._progress: list[tuple[float, str, float, float]] = []
        self._aside = ""
        # The next point of progress is the first of a new progress.
        self._restart_speed = False

    def add(self, event: ev.Event) -> None:
        self.curves.add((event,))
        self._latest[type(event)] = event
        if isinstance(event, _LISTED):
            self._lists.setdefault(type(event), []).append(event)
        self._advance(event)
        if isinstance(event, ev.PruneStep):
            self._note_prune(event)
        elif text := describe_event(event):
            self._note(event, text)

    def _note(self, event: ev.Event, text: str) -> None:
        self._notes.append(Note(event.t, event.kind, printable(text)))
        del self._notes[:-_NOTES_KEPT]

    def _note_prune(self, event: ev.PruneStep) -> None:
        """One line for all tensors that one step has pruned."""
        if self._pruned and self._pruned[-1].step == event.step and self._notes:
            self._notes.pop()
        else:
            self._pruned.clear()
        self._pruned.append(event)
        reached = [100 * step.reached for step in self._pruned]
        span = f"to {min(reached):.1f}%"
        if max(reached) - min(reached) >= _SAME_SHARE:
            span = f"to between {min(reached):.1f}% and {max(reached):.1f}%"
        what = event.param if len(reached) == 1 else f"{len(reached)} tensors"
        self._note(event, f"pruned {what} {span} at step {event.step:,}")

    def _advance(self, event: ev.Event) -> None:
        match event:
            case ev.Step(step=step, epoch=epoch):
                started = self._latest.get(ev.RunStarted)
                if not isinstance(started, ev.RunStarted):
                    return
                what = f"epoch {epoch}/{started.epochs}" if started.epochs else f"epoch {epoch}"
                self._aside = ""
                self._moved(event.t, what, step, started.total_steps)
            case ev.Progress(what=what, done=done, total=total) if self._has_steps:
                self._aside = one_line(f"{what} {100 * done / total:.0f}%" if total else what)
            case ev.Progress(what=what, done=done, total=total):
                self._moved(event.t, one_line(what), done, total)
            case ev.StatusChanged() | ev.RunResumed() | ev.Epoch():
                # A pause must not count as slowness.
                self._restart_speed, self._aside = True, ""
            case ev.Score() | ev.Finished():
                self._aside = ""

    @property
    def _has_steps(self) -> bool:
        started = self._latest.get(ev.RunStarted)
        return isinstance(started, ev.RunStarted) and bool(started.total_steps)

    def _moved(self, t: float, what: str, done: float, total: float) -> None:
        if self._restart_speed:
            self._restart_speed = False
            self._progress.clear()
        if self._progress and (total != self._progress[-1][3] or done < self._progress[-1][2]):
            self._progress.clear()
        self._progress.append((t, what, done, total))
        del self._progress[:-_SPEED_POINTS]

    def progress(self, status: str | None) -> RunProgress | None:
        if not self._progress:
            return None
        t1, what, done, total = self._progress[-1]
        if total <= 0:
            return RunProgress(what, 0.0, None, self._aside)
        t0, _, before, _ = self._progress[0]
        rate = (done - before) / (t1 - t0) if t1 > t0 else 0.0
        running = rate > 0 and status == "running" and not self._restart_speed
        left = (total - done) / rate if running else None
        return RunProgress(what, min(1.0, done / total), left, self._aside)

    def facts(self) -> dict[str, Any]:
        newest = {name: self._latest.get(kind) for name, kind in NEWEST_EVENTS.items()}
        lists = {name: tuple(self._lists.get(kind, ())) for name, kind in EVENT_LISTS.items()}
        return {**newest, **lists, "notes": tuple(self._notes)}


NEWEST_EVENTS: dict[str, type[ev.Event]] = {
    "started": ev.RunStarted,
    "step": ev.Step,
    "epoch": ev.Epoch,
    "sparsity": ev.Sparsity,
    "checkpoint": ev.Checkpoint,
    "failed": ev.Failed,
}
"""Kinds of events of which the newest is kept, by the field of `RunView`."""
EVENT_LISTS: dict[str, type[ev.Event]] = {
    "quantized": ev.QuantResult,
    "points": ev.SensitivityPoint,
    "scores": ev.Score,
}
"""Kinds of events of which all are kept, by the field of `RunView`."""
_LISTED = tuple(EVENT_LISTS.values())


_ADAPTED = {
    "test_cache_ppl": "cache",
    "test_dynamic_ppl": "dynamic evaluation",
    "test_cache_dynamic_ppl": "cache and dynamic evaluation",
}


def adapted_tests(results: Mapping[str, Any]) -> list[str]:
    """What test came to with a cache or by dynamic evaluation: beside that a run's figure without
    is no result."""
    found = {words: results.get(name) for name, words in _ADAPTED.items()}
    return [f"test with {w} {p:,.2f}" for w, p in found.items() if isinstance(p, int | float)]


def describe_event(event: ev.Event) -> str:
    """The event in a few words for the log; empty for what the plots show."""
    match event:
        case ev.RunStarted(device=device, precision=precision, threads=threads):
            cores = f", {plural(threads, 'thread')}" if threads and device == "cpu" else ""
            return f"began on {device}{cores}, {precision}"
        case ev.RunResumed(step=step):
            return f"went on from step {step:,}" if step else "started again"
        case ev.Epoch(epoch=epoch, valid_ppl=ppl, seconds=seconds, best_epoch=best):
            note = " (best so far)" if best == epoch else ""
            return f"epoch {epoch}: valid {ppl:,.2f}{note}, {seconds:,.0f} s"
        case ev.QuantResult(module=module, sqnr=sqnr):
            return f"quantized {module}" + (f", SQNR {sqnr:.1f} dB" if sqnr is not None else "")
        case ev.Candidate(number=number, ppl=ppl, accepted=accepted):
            note = ", within the budget" if accepted else ""
            return f"candidate {number}: perplexity {ppl:,.2f}{note}"
        case ev.SensitivityPoint(tensor=tensor, level=level, ppl=ppl):
            return f"{tensor} at {100 * level:.0f}%: perplexity {ppl:,.2f}"
        case ev.Score(split=split, ppl=ppl, what=what):
            return f"{split} perplexity {ppl:,.2f}" + (f" ({what})" if what else "")
        case ev.Checkpoint(which=which, step=step):
            return f"step {step:,} saved" + (" as best" if which == "best" else "")
        case ev.StatusChanged(status=status):
            return status
        case ev.Warned(message=message):
            return message
        case ev.Failed(reason=reason):
            return reason
        case ev.Finished(status=status, test_ppl=test, results=results):
            tests = adapted_tests(results) or ([f"test {test:,.2f}"] if test is not None else [])
            return ", ".join([status, *tests])
    return ""
