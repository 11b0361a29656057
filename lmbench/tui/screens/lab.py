"""The quantization laboratory: try a setting, see its price in seconds, keep the good one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Protocol

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.message import Message as TextualMessage
from textual.timer import Timer
from textual.widgets import Static

from lmbench.jobs import probing
from lmbench.report.tables import plain
from lmbench.session import Run
from lmbench.tui import draft as drafts
from lmbench.tui import figures
from lmbench.tui.draft import Settings
from lmbench.tui.lab_memory import Kept, Pruned
from lmbench.tui.marks import mark_of
from lmbench.tui.screens.base import BenchScreen
from lmbench.tui.subject import stamp_of, subject_of
from lmbench.tui.tries import Try, best_first, keep
from lmbench.tui.watch import RunView
from lmbench.tui.widgets.lab_panels import ModulesPanel, PrunePanel, TriesPanel
from lmbench.tui.widgets.panel import Panel, put
from lmbench.tui.widgets.status import KeyBar, StatusBar, bar

__all__ = ["Client", "LabScreen"]

_FIRST = "int8-best"
_MOST = 0.99
# exp of more is no float.
_LARGEST_LOSS = 700.0
# A slider that is still moving asks for nothing.
_SETTLE_S = 0.25
_ORDER = ("modules", "tries", "prune")


class Client(Protocol):
    """What prices: `probing.LaboratoryClient`, or another one in tests."""

    async def start(self) -> None: ...
    async def send(self, message: probing.Message) -> None: ...
    async def close(self) -> None: ...


class Heard(TextualMessage):
    """The laboratory said something."""

    def __init__(self, message: probing.Message) -> None:
        super().__init__()
        self.message = message


class LabScreen(BenchScreen[None]):
    """One run's model on the bench."""

    HELP = """
The model of one run, a sample of its validation text, and what settings cost on it. Make a
**draft** in the table of modules, price it with **Enter**; the list of tries has the best on top.
**u** prices the published rows, **p** starts from a preset, **K** keeps a try as a quantize run.
The slider prices pruning without training. **Tab** goes round.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("u", "published", "published", id="lab.published", tooltip="Price the seven rows"),
        Binding("p", "preset", "preset", id="lab.preset", tooltip="Start the draft from a preset"),
        Binding("K", "keep", "keep", id="lab.keep", tooltip="Make a quantize run of the try"),
        Binding("tab", "go(1)", "next panel", id="lab.next", show=False, tooltip="The next panel"),
        Binding(
            "shift+tab",
            "go(-1)",
            "previous panel",
            id="lab.previous",
            show=False,
            tooltip="The panel before",
        ),
        Binding("escape", "back", "back", id="lab.back", tooltip="Back to the runs"),
    ]
    DEFAULT_CSS = """
    LabScreen #head {
        height: auto; min-height: 2; max-height: 5; padding: 0 1; background: $panel;
    }
    LabScreen #lab { height: 1fr; layout: vertical; }
    LabScreen #right { height: 11fr; }
    LabScreen ModulesPanel { height: 9fr; }
    LabScreen TriesPanel { height: 1fr; }
    LabScreen PrunePanel { height: 4; }
    LabScreen.-wide #lab { layout: horizontal; }
    LabScreen.-wide ModulesPanel { width: 5fr; height: 1fr; }
    LabScreen.-wide #right { width: 4fr; height: 1fr; }
    LabScreen.-wide TriesPanel #settings { height: 2; }
    LabScreen.-wide PrunePanel { height: 10; }
    """

    client_class: ClassVar[Any] = probing.LaboratoryClient
    """Made with the path of a log and a function that hears; another one in tests."""

    def __init__(self, key: str | None = None) -> None:
        """`key` is the run's; left out, the selected one's."""
        super().__init__()
        self._key = key
        self._client: Client | None = None
        self._ready: probing.Ready | None = None
        self._working: probing.Working | None = None
        self._problem = ""
        self._asked: probing.Message | None = None
        self._numbers = 0
        self._settling: Timer | None = None
        self._title = ""
        self.tries: list[Try] = []
        self.draft: Settings = {"overrides": {}}
        self._base: Settings = {"overrides": {}}
        self._base_name = ""
        self.everywhere = False
        self.target = "model"
        self.level = 0.0
        self.level_asked = False
        self.pruned: dict[str, dict[float, Pruned]] = {}
        self._stamp = 0

    def compose(self) -> ComposeResult:
        yield Static("", id="head", markup=False)
        with Container(id="lab"):
            yield ModulesPanel(self, id="modules")
            with Vertical(id="right"):
                yield TriesPanel(self, id="tries")
                yield PrunePanel(self, id="prune")
        yield StatusBar()
        yield KeyBar()

    async def on_mount(self) -> None:
        self.query_one(ModulesPanel).take_focus()
        self.watch(self.app, "snapshot", self._begin)

    async def _begin(self) -> None:
        """Put the run's model on the bench, as soon as the session is read and has one."""
        if self._client is not None or self.bench.snapshot.session is None:
            return
        subject = subject_of(self.bench.snapshot.by_key, self._key or self.bench.selected)
        if subject is None:
            self._problem = "A trained run is needed: Esc, then n starts one."
        else:
            self._problem = ""
            self._key = subject.key
            self._recall(subject)
            path = self.bench.home.sessions_path / "laboratory.log"
            self._client = self.client_class(path, lambda m: self.post_message(Heard(m)))
            await self._ask(probing.Probe(run=str(subject.run.path)))
        self._tell()

    async def on_unmount(self) -> None:
        if self._client is not None:
            await self._client.close()

    # -- what is shown -------------------------------------------------------------------------

    @property
    def subject(self) -> RunView | None:
        """The run on the bench."""
        return self.bench.snapshot.run(self._key or "")

    @property
    def modules(self) -> tuple[probing.Module, ...]:
        return self._ready.modules if self._ready else ()

    @property
    def presets(self) -> Mapping[str, probing.Preset]:
        return {p.name: p for p in self._ready.presets} if self._ready else {}

    @property
    def draft_name(self) -> str:
        changes = len(drafts.differences(self.draft, self._base))
        return f"{self._base_name}, {changes} changed" if changes else self._base_name

    def change(self, ppl: float) -> float | None:
        """Percent above the perplexity of the model as it is."""
        if self._ready is None:
            return None
        return 100 * (ppl / _ppl(self._ready.loss) - 1)

    def _tell(self) -> None:
        """Bring the head and the panels up to date."""
        view = self.subject
        # Of what went wrong no word may be missing; the rest has a line each.
        whole = bool(self._problem)
        head = Text(no_wrap=not whole, overflow="fold" if whole else "ellipsis")
        if view is not None:
            mark = mark_of(view.id)
            head.append(f"{mark.marker} ", self.bench.colour_style(mark.variable))
            head.append(f"{view.id} {view.name}", "bold")
        if self._ready is not None:
            ready = self._ready
            head.append(f"  ppl {figures.perplexity(_ppl(ready.loss))} as it is")
            head.append(f", {figures.size(ready.bytes)}, on {ready.tokens:,} tokens of valid")
        head.append("\n")
        head.append_text(self._state())
        put(self.query_one("#head", Static), head)
        for panel in self.query(Panel):
            panel.refresh_view()

    def _state(self) -> Text:
        if self._problem:
            return Text(plain(self._problem), self.bench.colour_style("error"))
        if self._working is None:
            return Text("" if self._ready else "starting …", "dim")
        text = Text(f"{self._working.what} ", "dim")
        if self._working.total:
            share = self._working.done / self._working.total
            done, rest = self.bench.colour_style("accent"), self.bench.colour_style("faint")
            text.append_text(bar(share, 30, done, rest))
            text.append(f" {100 * share:3.0f}%")
        return text

    # -- asking --------------------------------------------------------------------------------

    async def _ask(self, request: probing.Message) -> None:
        self._numbers += 1
        request = replace(request, id=self._numbers)
        self._asked, self._working = request, None
        if self._client is not None:
            await self._client.send(request)

    async def _next(self) -> None:
        """Ask for the slider's level, else for the first try that waits."""
        if self._asked is not None or self._ready is None or self._problem:
            return
        if self.level_asked and self._settling is None:
            await self._ask(probing.Prune(target=self.target, level=self.level))
            return
        waiting = next((t for t in self.tries if t.state == "waiting"), None)
        if waiting is not None:
            self._put(replace(waiting, state="working"))
            await self._ask(probing.Price(settings=waiting.settings))

    async def on_heard(self, event: Heard) -> None:
        message = event.message
        if isinstance(message, probing.Died):
            self._over(f"{message.reason}; Esc, then l begins again")
        elif self._asked is None or message.id not in (self._asked.id, 0):
            return
        elif isinstance(message, probing.Working):
            self._working = message
        else:
            asked, self._asked, self._working = self._asked, None, None
            self._take_answer(asked, message)
        self._tell()
        await self._next()

    def _take_answer(self, asked: probing.Message, message: probing.Message) -> None:
        match asked, message:
            case probing.Probe(), probing.Ready():
                self._ready = message
                if not self._base_name:
                    self._start_from(_FIRST)
                if self.target not in message.targets:
                    self.target = "model"
            case probing.Price(), probing.Priced():
                current = self._current
                if current is not None:
                    price = (message.loss, message.ppl, message.bytes, message.seconds)
                    self._put(current.with_price(*price))
                    self._remember()
            case probing.Prune(target=target, level=level), probing.Priced():
                found = self.pruned.setdefault(target, {})
                found[level] = Pruned(message.ppl, message.nonzero, message.bytes)
                self._remember()
                if (target, level) == (self.target, self.level):
                    self.level_asked = False
            case probing.Probe(), probing.Refused():
                self._over(message.reason)
            case _, probing.Refused():
                self._refused(message.reason)

    def _refused(self, reason: str) -> None:
        current = self._current
        if current is not None:
            self._put(replace(current, state="failed", problem=reason))
        else:
            self.level_asked = False
        self.bench.say(reason)

    def _over(self, problem: str) -> None:
        self._problem, self._asked, self._working = problem, None, None
        self.tries = [t for t in self.tries if t.state in ("priced", "failed")]
        self.level_asked = False

    @property
    def _current(self) -> Try | None:
        """The try that is being priced."""
        return next((t for t in self.tries if t.state == "working"), None)

    # -- tries ---------------------------------------------------------------------------------

    def _put(self, changed: Try) -> None:
        self.tries = [changed if t.number == changed.number else t for t in self.tries]

    async def add(self, name: str, settings: Settings, preset: str = "", words: str = "") -> None:
        """Have these settings priced, unless they were."""
        if any(t.settings == settings and t.state != "failed" for t in self.tries):
            self.bench.say(f"{name} was priced already")
            return
        number = max((t.number for t in self.tries), default=0) + 1
        self.tries.append(Try(number, name, settings, preset, words))
        self._tell()
        await self._next()

    async def price_draft(self) -> None:
        """Price the draft as it stands."""
        words = drafts.differences(self.draft, self._base)
        preset = self.presets.get(self._base_name)
        if not words and preset is not None:
            await self.add(preset.name, preset.settings, preset.name, preset.about)
        else:
            name = f"{self._base_name} +{len(words)}"
            await self.add(name, self.draft, "", ", ".join(words))

    def take(self, chosen: Try) -> None:
        """Make a try the draft."""
        self.draft = self._base = chosen.settings
        self._base_name = chosen.name
        self._drafted()
        self.panel("modules").take_focus()

    def forget(self, chosen: Try) -> None:
        self.tries.remove(chosen)
        self._remember()
        self._tell()

    def _remember(self) -> None:
        """Keep how the bench stands; nothing before the model is on it."""
        view = self.subject
        if view is None or self._ready is None:
            return
        state = Kept(
            tuple(self.tries), self.draft, self._base, self._base_name, self.everywhere,
            self.target, self.level, self.pruned,
        )  # fmt: skip
        self.bench.remember(f"lab/{view.key}", state.to_json(self._stamp))

    def _recall(self, view: RunView) -> None:
        self._stamp = stamp_of(view)
        state = Kept.from_json(self.bench.recall_each("lab").get(view.key), self._stamp)
        self.tries = list(state.tries)
        self.draft, self._base, self._base_name = state.draft, state.base, state.base_name
        self.everywhere, self.target, self.level = state.everywhere, state.target, state.level
        self.pruned = {target: dict(prices) for target, prices in state.pruned.items()}

    # -- the draft -----------------------------------------------------------------------------

    def _start_from(self, name: str) -> None:
        self.draft = self._base = self.presets[name].settings
        self._base_name = name

    def _module(self, name: str) -> probing.Module | None:
        return next((m for m in self.modules if m.name == name), None)

    def turn(self, what: str, name: str) -> None:
        """The next choice of `what` for a module, or for all."""
        module = self._module(name)
        if module is None:
            return
        nothing = drafts.no_choice(self.draft, what, module)
        if nothing and not self.everywhere:
            self.bench.say(f"{name} {nothing}")
            return
        self.draft = drafts.turned(self.draft, what, module, everywhere=self.everywhere)
        self._drafted()

    def has_own(self, name: str) -> bool:
        """Was anything changed for this module alone?"""
        return drafts.without_own(self.draft, name)["overrides"] != self.draft["overrides"]

    def reset(self, name: str) -> None:
        self.draft = drafts.without_own(self.draft, name)
        self._drafted()

    def turn_scope(self) -> None:
        """From changing one module to changing all, or back."""
        self.everywhere = not self.everywhere
        self._drafted()

    def _drafted(self) -> None:
        self._remember()
        self._tell()

    # -- the slider ----------------------------------------------------------------------------

    def slide_to(self, level: float) -> None:
        """Set the level; its price is asked for when the slider rests."""
        self.level = round(min(max(level, 0.0), _MOST), 2)
        self._slid()

    def next_target(self) -> None:
        assert self._ready is not None
        targets = self._ready.targets
        self.target = targets[(targets.index(self.target) + 1) % len(targets)]
        self._slid()

    def _slid(self) -> None:
        self._remember()
        self.level_asked = self.level not in self.pruned.get(self.target, {})
        if self._settling is not None:
            self._settling.stop()
        self._settling = self.set_timer(_SETTLE_S, self._rested)
        self.panel("prune").refresh_view()

    async def _rested(self) -> None:
        self._settling = None
        await self._next()

    # -- keys ----------------------------------------------------------------------------------

    def panel(self, name: str) -> Panel:
        return self.query_one(f"#{name}", Panel)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        match action:
            case "published" | "preset":
                return self._ready is not None
            case "keep":
                return self._to_keep is not None and not self.bench.demo
        return True

    def action_back(self) -> None:
        self.dismiss(None)

    def action_go(self, step: int) -> None:
        here = next((i for i, n in enumerate(_ORDER) if self.panel(n).has_focus_within), 0)
        self.panel(_ORDER[(here + step) % len(_ORDER)]).take_focus()

    async def action_published(self) -> None:
        """Price the rows of the published table: the model as it is and six settings."""
        await self.add("as it is", {}, words="32-bit floats")
        for preset in self.presets.values():
            if preset.published:
                await self.add(preset.name, preset.settings, preset.name, preset.about)

    def action_preset(self) -> None:
        from lmbench.tui.widgets.pick import Pick

        def taken(name: str | None) -> None:
            if name:
                self._start_from(name)
                self._drafted()

        offered = [(preset.name, preset.about) for preset in self.presets.values()]
        self.app.push_screen(Pick("Start the draft from", offered, self._base_name), taken)

    @property
    def _to_keep(self) -> Try | None:
        """The try under the cursor; where the focus is elsewhere, the best."""
        panel = self.query_one(TriesPanel)
        chosen = panel.chosen if panel.has_focus_within else None
        if chosen is None:
            chosen = next((t for t in best_first(self.tries) if t.settings), None)
        return chosen if chosen and chosen.state == "priced" and chosen.settings else None

    async def action_keep(self) -> None:
        """Make a quantize run of the try, and have it worked on."""
        chosen, view = self._to_keep, self.subject
        if chosen is None or view is None:
            return
        run = await self.bench.do(keep, view.run, chosen, doing="while keeping a try")
        if isinstance(run, Run):
            self.bench.say(f"kept as run {run.id} {plain(chosen.name)}: scored on valid and test")
            await self.bench.look()


def _ppl(loss: float) -> float:
    return math.exp(min(loss, _LARGEST_LOSS))
