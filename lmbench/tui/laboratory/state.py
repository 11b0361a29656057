"""What stands in the laboratory, whoever shows it: the draft, the tries, the slider, and the talk
with the process that prices them. No widget here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from lmbench.jobs.hosts import laboratory_messages as messages
from lmbench.tui.laboratory import quantization_settings as drafts
from lmbench.tui.laboratory.candidates import Try, best_first
from lmbench.tui.laboratory.quantization_settings import Settings
from lmbench.tui.laboratory.saved_state import Kept, Pruned

__all__ = ["Desk"]

_FIRST = "int8-best"
_MOST = 0.99
# exp of more is no float.
_LARGEST_LOSS = 700.0


class Desk:
    """One model on the desk, asked about one thing at a time.

    Args:
        changed: called after each change, to show it and to ask what is asked next; with True
            where it is one that `kept` has.
        say: takes what the user should read, a line.
    """

    def __init__(self, changed: Callable[[bool], None], say: Callable[[str], None]) -> None:
        self._changed = changed
        self._say = say
        self._numbers = 0
        self._asked: messages.Message | None = None
        self.ready: messages.Ready | None = None
        self.working: messages.Progress | None = None
        self.problem = ""
        self.tries: list[Try] = []
        self.draft: Settings = {"overrides": {}}
        self._base: Settings = {"overrides": {}}
        self._base_name = ""
        self.everywhere = False
        self.target = "model"
        self.level = 0.0
        self.level_asked = False
        self.pruned: dict[str, dict[float, Pruned]] = {}

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

    # -- the talk ------------------------------------------------------------------------------

    def ask(self, question: messages.Message) -> messages.Message:
        """The question with the number by which its answer is known."""
        self._numbers += 1
        self._asked, self.working = replace(question, id=self._numbers), None
        return self._asked

    def next_question(self, *, at_rest: bool) -> messages.Message | None:
        """The slider's level where it is `at_rest`, else the first try that waits; None where
        nothing is to be asked now."""
        if self._asked is not None or self.ready is None or self.problem:
            return None
        if self.level_asked and at_rest:
            return self.ask(messages.Prune(target=self.target, level=self.level))
        waiting = next((t for t in self.tries if t.state == "waiting"), None)
        if waiting is None:
            return None
        self._put(replace(waiting, state="working"))
        return self.ask(messages.Evaluate(settings=waiting.settings))

    def hear(self, message: messages.Message) -> None:
        """Take what the laboratory said; an answer to an older question is left out."""
        if isinstance(message, messages.Died):
            self._over(f"{message.reason}; Esc, then l begins again")
        elif self._asked is None or message.id not in (self._asked.id, 0):
            return
        elif isinstance(message, messages.Progress):
            self.working = message
        else:
            asked, self._asked, self.working = self._asked, None, None
            self._take_answer(asked, message)
        self._changed(isinstance(message, messages.Evaluated))

    def _take_answer(self, asked: messages.Message, message: messages.Message) -> None:
        match asked, message:
            case messages.OpenModel(), messages.Ready():
                self.ready = message
                if not self._base_name:
                    self._start_from(_FIRST)
                if self.target not in message.targets:
                    self.target = "model"
            case messages.Evaluate(), messages.Evaluated():
                current = self._current
                if current is not None:
                    price = (message.loss, message.ppl, message.bytes, message.seconds)
                    self._put(current.with_price(*price))
            case messages.Prune(target=target, level=level), messages.Evaluated():
                found = self.pruned.setdefault(target, {})
                found[level] = Pruned(message.ppl, message.nonzero, message.bytes)
                if (target, level) == (self.target, self.level):
                    self.level_asked = False
            case messages.OpenModel(), messages.Refused():
                self._over(message.reason)
            case _, messages.Refused():
                self._refused(message.reason)

    def _refused(self, reason: str) -> None:
        current = self._current
        if current is not None:
            self._put(replace(current, state="failed", problem=reason))
        else:
            self.level_asked = False
        self._say(reason)

    def _over(self, problem: str) -> None:
        self.problem, self._asked, self.working = problem, None, None
        self.tries = [t for t in self.tries if t.state in ("priced", "failed")]
        self.level_asked = False

    @property
    def _current(self) -> Try | None:
        """The try that is being priced."""
        return next((t for t in self.tries if t.state == "working"), None)

    # -- tries ---------------------------------------------------------------------------------

    def _put(self, changed: Try) -> None:
        self.tries = [changed if t.number == changed.number else t for t in self.tries]

    @property
    def best(self) -> Try | None:
        """Of the tries that change something."""
        return next((t for t in best_first(self.tries) if t.settings), None)

    def add(self, name: str, settings: Settings, preset: str = "", words: str = "") -> None:
        """Have these settings priced, unless they were."""
        if any(t.settings == settings and t.state != "failed" for t in self.tries):
            self._say(f"{name} was priced already")
            return
        number = max((t.number for t in self.tries), default=0) + 1
        self.tries.append(Try(number, name, settings, preset, words))
        self._changed(True)

    def price_draft(self) -> None:
        """Price the draft as it stands."""
        words = drafts.differences(self.draft, self._base)
        preset = self.presets.get(self._base_name)
        if not words and preset is not None:
            self.add(preset.name, preset.settings, preset.name, preset.about)
        else:
            name = f"{self._base_name} +{len(words)}"
            self.add(name, self.draft, "", ", ".join(words))

    def price_published(self) -> None:
        """Price the rows of the published table: the model as it is and six settings."""
        self.add("as it is", {}, words="32-bit floats")
        for preset in self.presets.values():
            if preset.published:
                self.add(preset.name, preset.settings, preset.name, preset.about)

    def take(self, chosen: Try) -> None:
        """Make a try the draft."""
        self.draft = self._base = chosen.settings
        self._base_name = chosen.name
        self._changed(True)

    def forget(self, chosen: Try) -> None:
        self.tries.remove(chosen)
        self._changed(True)

    # -- the draft -----------------------------------------------------------------------------

    @property
    def base_name(self) -> str:
        """Of what the draft was made from; "" for none yet."""
        return self._base_name

    @property
    def draft_name(self) -> str:
        changes = len(drafts.differences(self.draft, self._base))
        return f"{self._base_name}, {changes} changed" if changes else self._base_name

    def start_from(self, preset: str) -> None:
        """Make a preset the draft."""
        self._start_from(preset)
        self._changed(True)

    def _start_from(self, preset: str) -> None:
        self.draft = self._base = self.presets[preset].settings
        self._base_name = preset

    def turn(self, what: str, name: str) -> None:
        """The next choice of `what` for a module, or for all."""
        module = next((m for m in self.modules if m.name == name), None)
        if module is None:
            return
        every = self.modules if self.everywhere else ()
        if all(drafts.no_choice(self.draft, what, one) for one in every or (module,)):
            self._say(f"{name} {drafts.no_choice(self.draft, what, module)}")
            return
        self.draft = drafts.with_next(self.draft, what, module, every)
        self._changed(True)

    def turn_scope(self) -> None:
        """From changing one module to changing all, or back."""
        self.everywhere = not self.everywhere
        self._changed(True)

    def has_own(self, name: str) -> bool:
        """Was anything changed for this module alone?"""
        return drafts.without_own(self.draft, name)["overrides"] != self.draft["overrides"]

    def reset(self, name: str) -> None:
        """Take back what was changed for this module alone."""
        self.draft = drafts.without_own(self.draft, name)
        self._changed(True)

    # -- the slider ----------------------------------------------------------------------------

    def slide_to(self, level: float) -> None:
        """Set the level; its price is asked for when the slider rests."""
        self.level = round(min(max(level, 0.0), _MOST), 2)
        self._slid()

    def next_target(self) -> None:
        """What is pruned: the next tensor, or all."""
        assert self.ready is not None
        targets = self.ready.targets
        self.target = targets[(targets.index(self.target) + 1) % len(targets)]
        self._slid()

    def _slid(self) -> None:
        self.level_asked = self.level not in self.pruned.get(self.target, {})
        self._changed(True)

    # -- what is kept --------------------------------------------------------------------------

    def kept(self) -> Kept:
        """How the desk stands, to be remembered."""
        return Kept(
            tuple(self.tries), self.draft, self._base, self._base_name, self.everywhere,
            self.target, self.level, self.pruned,
        )  # fmt: skip

    def recall(self, state: Kept) -> None:
        """Stand as it was remembered."""
        self.tries = list(state.tries)
        self.draft, self._base, self._base_name = state.draft, state.base, state.base_name
        self.everywhere, self.target, self.level = state.everywhere, state.target, state.level
        self.pruned = {target: dict(prices) for target, prices in state.pruned.items()}
