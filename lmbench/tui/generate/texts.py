"""From runs and the sampler's messages to the drafts on the screen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lmbench.jobs.hosts import sampler_messages as messages
from lmbench.jobs.hosts.sampler_messages import Wrote
from lmbench.report import numbers
from lmbench.tui.bench.float_model_run import checkpoint_of
from lmbench.tui.bench.run_marks import mark_of
from lmbench.tui.bench.snapshots import RunView
from lmbench.tui.generate.saved_samples import Sample
from lmbench.tui.generate.text_column import TextColumn
from lmbench.tui.generate.tinted_text import GeneratedText, State

__all__ = [
    "apply_reply",
    "attempt_of",
    "created_of",
    "figures_of",
    "hint",
    "new_text",
    "origin_of",
    "saved_text",
    "why_unable",
]


def origin_of(view: RunView) -> str:
    """What a text of a run that is at work comes from; "" for a run that has ended."""
    if not view.live:
        return ""
    step = view.checkpoint.step if view.checkpoint is not None else None
    at = f", step {step:,}" if step is not None else ""
    return f"{checkpoint_of(view)} checkpoint{at}"


def figures_of(view: RunView) -> str:
    """Perplexity and size."""
    parts = [numbers.perplexity(view.valid_ppl), view.size]
    return " · ".join(part for part in parts if part and part != "–")


def created_of(view: RunView) -> float:
    """When a run was made; 0 for one whose record was not read."""
    return view.record.created if view.record else 0.0


def attempt_of(view: RunView) -> int:
    """Which attempt at its run trained a model as it is now."""
    return view.record.attempt if view.record else 0


def saved_text(view: RunView, sample: Sample) -> GeneratedText:
    """A text of the session's samples, as far as they tell: not how good the model then was."""
    rate = sample.tokens_per_s
    words = [
        Wrote(
            at=at, word=-1, text=text, bits=0.0, probability=0.0,
            seconds=(at + 1) / rate if rate else 0.0,
        )
        for at, text in enumerate(sample.words)
    ]  # fmt: skip
    return GeneratedText(
        id=0,
        run_id=view.id,
        key=view.key,
        name=view.name,
        mark=mark_of(view.id),
        created=created_of(view),
        cache=sample.cache,
        prompt=tuple(sample.prompt.split()),
        words=words,
        state="done",
        recorded=True,
    )


def new_text(id: int, view: RunView, prompt: str, cache: int) -> GeneratedText:
    """An empty text of this run, to be written with a cache of so many words."""
    return GeneratedText(
        id=id,
        run_id=view.id,
        key=view.key,
        name=view.name,
        mark=mark_of(view.id),
        origin=origin_of(view),
        figures=figures_of(view),
        created=created_of(view),
        attempt=attempt_of(view),
        cache=cache,
        prompt=tuple(prompt.split()),
    )


def why_unable(view: RunView, parent: RunView | None) -> str:
    """Why a run cannot write; "" where it can, or where the sampler has to find out."""
    who = view.title
    match view.kind:
        case "train" | "prune":
            # One at work is asked for a checkpoint.
            if view.has_model or view.live:
                return ""
            if view.status == "queued":
                return f"{who} waits in the queue and has no model yet."
            if view.never_began:
                return f"{who} has no model: it was taken out of the queue."
            return f"{who} has no model: it ended before its first checkpoint."
        case "quantize" | "pack":
            if view.status == "finished" or view.run.checkpoint("best") is not None:
                return ""
            if view.live or view.status == "queued":
                return f"{who} has no model until it is finished."
            return f"{who} has no model, since it did not finish."
    instead = f": select {parent.title}" if parent is not None else ""
    return f"{who} measures a model and has none of its own{instead}."


def hint(targets: Sequence[RunView], reasons: Sequence[str]) -> str:
    """Who will write, said where the text will stand; `reasons` of each, as `why_unable`. One run
    has its name in the frame: the same words for the next are not painted again."""
    if not targets:
        return "A run is needed: n starts one."
    able = sum(not words for words in reasons)
    hindered = list(dict.fromkeys(words for words in reasons if words))
    if not able:
        return " ".join(hindered)
    if len(targets) > 1:
        only = next(v for v, words in zip(targets, reasons, strict=True) if not words)
        who = f"{able} marked runs" if able > 1 else f"Of the marked runs {only.title}"
        return " ".join([f"{who} will write.", *hindered])
    view = targets[0]
    origin = origin_of(view)
    source = f" from its {origin}, while it goes on" if origin else ""
    return f"The selected run will write{source}."


def apply_reply(
    texts: Iterable[GeneratedText], columns: Sequence[TextColumn], message: messages.Message
) -> str:
    """Bring the text that a message is about up to date, and the column that it stands in, if it
    is on the screen.

    Returns:
        what else is to be shown to the user, or "".
    """
    if isinstance(message, messages.Died):
        for draft in texts:
            if draft.alive:
                _finish(columns, draft, "failed", f"{message.reason}; w writes again")
        return ""
    draft = next((text for text in texts if text.id == message.id), None)
    if draft is None:
        return f"the sampler: {message.reason}" if isinstance(message, messages.Refused) else ""
    match message:
        case messages.Opening():
            draft.state = "opening"
            _show_head(columns, draft)
        case messages.Began(opening=opening, unknown=unknown):
            draft.state, draft.opening = "writing", opening
            _show_head(columns, draft)
            if unknown:
                return f"not in the vocabulary, read as <unk>: {', '.join(unknown)}"
        case messages.Wrote(at=at) if at == len(draft.words):
            draft.words.append(message)
            for column in _showing(columns, draft):
                column.text.grow()
                column.show_rate()
        case messages.Ended(halted=halted, problem=problem):
            _finish(columns, draft, "halted" if halted else "done", "")
            return problem
        case messages.Refused(reason=reason):
            _finish(columns, draft, "failed", reason)
    return ""


def _showing(columns: Sequence[TextColumn], draft: GeneratedText) -> list[TextColumn]:
    """Where the text is on the screen."""
    return [column for column in columns if column.text.draft is draft]


def _show_head(columns: Sequence[TextColumn], draft: GeneratedText) -> None:
    for column in _showing(columns, draft):
        column.show_head()


def _finish(
    columns: Sequence[TextColumn], draft: GeneratedText, state: State, problem: str
) -> None:
    draft.state, draft.problem = state, problem
    for column in _showing(columns, draft):
        if problem:
            column.text.lay_out()
        column.show_head()
