"""The state of the laboratory, without widgets: the draft, the candidates, the slider, and which
request to its process is pending."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from lmbench.jobs.hosts import laboratory_messages as messages
from lmbench.tui.laboratory.candidates import Candidate
from lmbench.tui.laboratory.quantization_settings import (
    Settings,
    differences,
    no_choice,
    with_next,
    without_own,
)
from lmbench.tui.laboratory.saved_state import PrunedScore, SavedState

__all__ = ["LaboratoryState"]

_FIRST = "int8-best"
_HIGHEST_LEVEL = 0.99
# exp of more is no float.
_LARGEST_LOSS = 700.0


class LaboratoryState:
    """Of one run's model; one request is pending at a time.

    Args:
        changed: called after each change, with True where `saved` has it.
        notify: takes a line for the user.
    """

    def __init__(self, changed: Callable[[bool], None], notify: Callable[[str], None]) -> None:
        self._changed = changed
        self._notify = notify
        self._requests = 0
        self._pending: messages.Message | None = None
        self.ready: messages.Ready | None = None
        self.progress: messages.Progress | None = None
        self.problem = ""
        self.candidates: list[Candidate] = []
        self.draft: Settings = {"overrides": {}}
        self._base: Settings = {"overrides": {}}
        self.base_name = ""
        """Of what the draft was made from; "" for none yet."""
        self.everywhere = False
        self.target = "model"
        self.level = 0.0
        self.level_pending = False
        self.pruned: dict[str, dict[float, PrunedScore]] = {}

    @property
    def not_ready(self) -> str:
        """Why nothing can be evaluated yet; "" where it can."""
        return "" if self.ready else self.problem or "the model is still being opened"

    @property
    def modules(self) -> tuple[messages.Module, ...]:
        return self.ready.modules if self.ready else ()

    @property
    def presets(self) -> Mapping[str, messages.Preset]:
        return {p.name: p for p in self.ready.presets} if self.ready else {}

    @property
    def ppl(self) -> float:
        """The perplexity of the model as it is; only where it is loaded."""
        assert self.ready is not None
        return math.exp(min(self.ready.loss, _LARGEST_LOSS))

    def change(self, ppl: float) -> float | None:
        """Percent above the perplexity of the model as it is."""
        return None if self.ready is None else 100 * (ppl / self.ppl - 1)

    # -- requests ------------------------------------------------------------------------------

    def request(self, message: messages.Message) -> messages.Message:
        """The message with the number by which its answer is known; it is pending from now on."""
        self._requests += 1
        self._pending, self.progress = replace(message, id=self._requests), None
        return self._pending

    def next_request(self, *, slider_at_rest: bool) -> messages.Message | None:
        """The slider's level where it is at rest, else the first candidate that waits; None while
        one is pending, or where nothing is to be evaluated."""
        if self._pending is not None or self.ready is None or self.problem:
            return None
        if self.level_pending and slider_at_rest:
            return self.request(messages.Prune(target=self.target, level=self.level))
        waiting = next((c for c in self.candidates if c.state == "waiting"), None)
        if waiting is None:
            return None
        self._replace(replace(waiting, state="running"))
        return self.request(messages.Evaluate(settings=waiting.settings))

    def receive(self, message: messages.Message) -> None:
        """Take an answer; one to an older request is left out."""
        if isinstance(message, messages.Died):
            self._fail(f"{message.reason}; Esc, then l begins again")
        elif self._pending is None or message.id not in (self._pending.id, 0):
            return
        elif isinstance(message, messages.Progress):
            self.progress = message
        else:
            pending, self._pending, self.progress = self._pending, None, None
            self._apply(pending, message)
        self._changed(not isinstance(message, messages.Progress))

    def _apply(self, pending: messages.Message, answer: messages.Message) -> None:
        match pending, answer:
            case messages.OpenModel(), messages.Ready():
                self.ready = answer
                if not self.base_name:
                    self._start_from(_FIRST)
                if self.target not in answer.targets:
                    self.target = "model"
            case messages.Evaluate(), messages.Evaluated():
                running = self._running
                if running is not None:
                    scores = (answer.loss, answer.ppl, answer.bytes, answer.seconds)
                    self._replace(running.evaluated(*scores))
            case messages.Prune(target=target, level=level), messages.Evaluated():
                found = self.pruned.setdefault(target, {})
                found[level] = PrunedScore(answer.ppl, answer.nonzero, answer.bytes)
                self._no_longer_pending(target, level)
            case messages.OpenModel(), messages.Refused():
                self._fail(answer.reason)
            case messages.Evaluate(), messages.Refused():
                running = self._running
                if running is not None:
                    self._replace(replace(running, state="failed", problem=answer.reason))
                self._notify(answer.reason)
            case messages.Prune(target=target, level=level), messages.Refused():
                self._no_longer_pending(target, level)
                self._notify(answer.reason)

    def _no_longer_pending(self, target: str, level: float) -> None:
        """Of the slider, which may have been moved on since."""
        if (target, level) == (self.target, self.level):
            self.level_pending = False

    def _fail(self, problem: str) -> None:
        self.problem, self._pending, self.progress = problem, None, None
        if (running := self._running) is not None:
            # Those behind it wait for the next opening; it would end that, too.
            self._replace(replace(running, state="failed", problem=problem))
        self.level_pending = False

    @property
    def _running(self) -> Candidate | None:
        """The candidate that is being evaluated."""
        return next((c for c in self.candidates if c.state == "running"), None)

    # -- candidates ----------------------------------------------------------------------------

    def _replace(self, changed: Candidate) -> None:
        self.candidates = [changed if c.number == changed.number else c for c in self.candidates]

    @property
    def of_draft(self) -> Candidate | None:
        """The draft as a candidate, where it is one."""
        same = (c for c in self.candidates if c.settings == self.draft and c.state != "failed")
        return next(same, None)

    def add(self, name: str, settings: Settings, preset: str = "", words: str = "") -> None:
        """Have these settings evaluated, unless they are a candidate already."""
        if self.problem:
            self._notify(self.problem)
            return
        same = (c for c in self.candidates if c.settings == settings and c.state != "failed")
        known = next(same, None)
        if known is not None:
            self._notify(f"{known.name} {_STATES[known.state]}")
            return
        number = max((c.number for c in self.candidates), default=0) + 1
        self.candidates.append(Candidate(number, name, settings, preset, words))
        self._changed(True)

    def evaluate_draft(self) -> None:
        """Evaluate the draft as it stands."""
        words = differences(self.draft, self._base)
        preset = self.presets.get(self.base_name)
        if not words and preset is not None:
            self.add(preset.name, preset.settings, preset.name, preset.about)
        else:
            name = self._free_name(f"{self.base_name} +{len(words)}")
            self.add(name, self.draft, "", ", ".join(words))

    def _free_name(self, name: str) -> str:
        """The name, with a number behind it where other settings have it already."""
        taken = {c.name for c in self.candidates if c.settings != self.draft}
        numbered = (f"{name} ({number})" for number in itertools.count(2))
        return next(n for n in itertools.chain([name], numbered) if n not in taken)

    def evaluate_published(self) -> None:
        """Evaluate the rows of the published table: the model as it is and six settings."""
        self.add("as it is", {}, words="unchanged")
        for preset in self.presets.values():
            if preset.published:
                self.add(preset.name, preset.settings, preset.name, preset.about)

    def load_draft(self, chosen: Candidate) -> None:
        """Make a candidate the draft."""
        self.draft = self._base = chosen.settings
        self.base_name = chosen.name
        self._changed(True)

    def remove(self, chosen: Candidate) -> None:
        self.candidates.remove(chosen)
        self._changed(True)

    # -- the draft -----------------------------------------------------------------------------

    @property
    def draft_name(self) -> str:
        changes = len(differences(self.draft, self._base))
        return f"{self.base_name}, {changes} changed" if changes else self.base_name

    def start_from(self, preset: str) -> None:
        """Make a preset the draft."""
        self._start_from(preset)
        self._changed(True)

    def _start_from(self, preset: str) -> None:
        self.draft = self._base = self.presets[preset].settings
        self.base_name = preset

    def change_setting(self, what: str, name: str) -> None:
        """The next choice of `what` for a module, or for all."""
        module = next((m for m in self.modules if m.name == name), None)
        if module is None:
            return
        every = self.modules if self.everywhere else ()
        if all(no_choice(self.draft, what, one) for one in every or (module,)):
            self._notify(f"{name} {no_choice(self.draft, what, module)}")
            return
        self.draft = with_next(self.draft, what, module, every)
        self._changed(True)

    def toggle_scope(self) -> None:
        """From changing one module to changing all, or back."""
        self.everywhere = not self.everywhere
        self._changed(True)

    def has_own(self, name: str) -> bool:
        """Was anything changed for this module alone?"""
        return without_own(self.draft, name, self._base) != self.draft

    def reset(self, name: str) -> None:
        """Take back what was changed for this module alone."""
        self.draft = without_own(self.draft, name, self._base)
        self._changed(True)

    # -- the slider ----------------------------------------------------------------------------

    def slide_to(self, level: float) -> None:
        """Set the level; it is evaluated when the slider rests."""
        self.level = round(min(max(level, 0.0), _HIGHEST_LEVEL), 2)
        self._slid()

    def next_target(self) -> None:
        """What is pruned: the next tensor, or all."""
        assert self.ready is not None
        targets = self.ready.targets
        self.target = targets[(targets.index(self.target) + 1) % len(targets)]
        self._slid()

    def _slid(self) -> None:
        self.level_pending = not self.problem and self.level not in self.pruned.get(self.target, {})
        self._changed(True)

    # -- saving --------------------------------------------------------------------------------

    def saved(self) -> SavedState:
        return SavedState(
            tuple(self.candidates), self.draft, self._base, self.base_name, self.everywhere,
            self.target, self.level, self.pruned,
        )  # fmt: skip

    def restore(self, saved: SavedState) -> None:
        self.candidates = list(saved.candidates)
        self.draft, self._base, self.base_name = saved.draft, saved.base, saved.base_name
        self.everywhere, self.target, self.level = saved.everywhere, saved.target, saved.level
        self.pruned = {target: dict(scores) for target, scores in saved.pruned.items()}
        self.level_pending = self.level > 0 and self.level not in self.pruned.get(self.target, {})


_STATES = {
    "waiting": "waits for its evaluation",
    "running": "is being evaluated",
    "evaluated": "was evaluated already",
}
