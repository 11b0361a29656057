"""The quantization laboratory: try a setting, see its price in seconds, keep the good one."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.message import Message as TextualMessage
from textual.timer import Timer
from textual.widgets import Static

from lmbench.jobs.hosts import laboratory_messages as messages
from lmbench.printable import printable
from lmbench.report import numbers
from lmbench.session import Run
from lmbench.tui.bench.float_model_run import stamp_of, subject_of
from lmbench.tui.bench.run_marks import mark_of
from lmbench.tui.bench.snapshots import RunView
from lmbench.tui.kit.panel import Panel, update_static
from lmbench.tui.kit.screen import BenchScreen
from lmbench.tui.kit.status_lines import KeyBar, StatusBar, bar
from lmbench.tui.laboratory.candidates import Try, keep
from lmbench.tui.laboratory.panels import ModulesPanel, PrunePanel, TriesPanel
from lmbench.tui.laboratory.saved_state import Kept
from lmbench.tui.laboratory.state import Desk

__all__ = ["Client", "LabScreen"]

# A slider that is still moving asks for nothing.
_SETTLE_S = 0.25
_ORDER = ("modules", "tries", "prune")


class Client(Protocol):
    """What prices: `probing.LaboratoryClient`, or another one in tests."""

    async def start(self) -> None: ...
    async def send(self, message: messages.Message) -> None: ...
    async def close(self) -> None: ...


class Heard(TextualMessage):
    """The laboratory said something."""

    def __init__(self, message: messages.Message) -> None:
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

    client_class: ClassVar[Any] = messages.LaboratoryClient
    """Made with the path of a log and a function that hears; another one in tests."""

    def __init__(self, key: str | None = None) -> None:
        """`key` is the run's; left out, the selected one's."""
        super().__init__()
        self._key = key
        self._client: Client | None = None
        self._settling: Timer | None = None
        self._stamp = 0
        self._level: tuple[str, float] | None = None
        self.desk = Desk(self._changed, lambda line: self.bench.show_message(line))

    def compose(self) -> ComposeResult:
        yield Static("", id="head", markup=False)
        with Container(id="lab"):
            yield ModulesPanel(self.desk, id="modules")
            with Vertical(id="right"):
                yield TriesPanel(self.desk, id="tries")
                yield PrunePanel(self.desk, id="prune")
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
            self.desk.problem = "A trained run is needed: Esc, then n starts one."
        else:
            self.desk.problem = ""
            self._key = subject.key
            self._recall(subject)
            path = self.bench.home.sessions_path / "laboratory.log"
            client: Client = self.client_class(path, lambda m: self.post_message(Heard(m)))
            self._client = client
            await client.send(self.desk.ask(messages.OpenModel(run=str(subject.run.path))))
        self._tell()

    async def on_unmount(self) -> None:
        if self._client is not None:
            await self._client.close()

    # -- what is shown -------------------------------------------------------------------------

    @property
    def subject(self) -> RunView | None:
        """The run on the bench."""
        return self.bench.snapshot.run(self._key or "")

    def _tell(self) -> None:
        """Bring the head and the panels up to date."""
        view = self.subject
        # Of what went wrong no word may be missing; the rest has a line each.
        whole = bool(self.desk.problem)
        head = Text(no_wrap=not whole, overflow="fold" if whole else "ellipsis")
        if view is not None:
            mark = mark_of(view.id)
            head.append(f"{mark.marker} ", self.bench.colour_style(mark.variable))
            head.append(f"{view.id} {view.name}", "bold")
        ready = self.desk.ready
        if ready is not None:
            head.append(f"  ppl {numbers.perplexity(self.desk.ppl)} as it is")
            head.append(f", {numbers.size(ready.bytes)}, on {ready.tokens:,} tokens of valid")
        head.append("\n")
        head.append_text(self._state())
        update_static(self.query_one("#head", Static), head)
        for panel in self.query(Panel):
            panel.refresh_view()

    def _state(self) -> Text:
        desk = self.desk
        if desk.problem:
            return Text(printable(desk.problem), self.bench.colour_style("error"))
        if desk.working is None:
            return Text("" if desk.ready else "starting …", "dim")
        text = Text(f"{desk.working.what} ", "dim")
        if desk.working.total:
            share = desk.working.done / desk.working.total
            done, rest = self.bench.colour_style("accent"), self.bench.colour_style("faint")
            text.append_text(bar(share, 30, done, rest))
            text.append(f" {100 * share:3.0f}%")
        return text

    # -- asking --------------------------------------------------------------------------------

    def on_heard(self, event: Heard) -> None:
        self.desk.hear(event.message)

    def _changed(self, lasting: bool) -> None:
        """The desk stands otherwise: keep it, show it, and ask what is to be asked next."""
        if lasting:
            self._remember()
        self._tell()
        level = (self.desk.target, self.desk.level)
        if self.desk.level_asked and level != self._level:
            if self._settling is not None:
                self._settling.stop()
            self._settling = self.set_timer(_SETTLE_S, self._rested)
        self._level = level
        self.call_next(self._next)

    async def _rested(self) -> None:
        self._settling = None
        await self._next()

    async def _next(self) -> None:
        question = self.desk.next_question(at_rest=self._settling is None)
        if question is not None and self._client is not None:
            self._tell()
            await self._client.send(question)

    def _remember(self) -> None:
        """Keep how the desk stands; nothing before the model is on it."""
        view = self.subject
        if view is not None and self.desk.ready is not None:
            self.bench.remember(f"lab/{view.key}", self.desk.kept().to_json(self._stamp))

    def _recall(self, view: RunView) -> None:
        self._stamp = stamp_of(view)
        kept = self.bench.recall_each("lab").get(view.key)
        self.desk.recall(Kept.from_json(kept, self._stamp))

    # -- keys ----------------------------------------------------------------------------------

    def panel(self, name: str) -> Panel:
        return self.query_one(f"#{name}", Panel)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        match action:
            case "published" | "preset":
                return self.desk.ready is not None
            case "keep":
                return self._to_keep is not None and not self.bench.demo
        return True

    def action_back(self) -> None:
        self.dismiss(None)

    def action_go(self, step: int) -> None:
        here = next((i for i, n in enumerate(_ORDER) if self.panel(n).has_focus_within), 0)
        self.panel(_ORDER[(here + step) % len(_ORDER)]).take_focus()

    def action_published(self) -> None:
        self.desk.price_published()

    def action_preset(self) -> None:
        from lmbench.tui.kit.choice_dialog import ChoiceDialog

        def taken(name: str | None) -> None:
            if name:
                self.desk.start_from(name)

        offered = [(preset.name, preset.about) for preset in self.desk.presets.values()]
        self.app.push_screen(
            ChoiceDialog("Start the draft from", offered, self.desk.base_name), taken
        )

    def on_tries_panel_taken(self) -> None:
        """A try became the draft: on to the modules."""
        self.panel("modules").take_focus()

    @property
    def _to_keep(self) -> Try | None:
        """The try under the cursor; where the focus is elsewhere, the best."""
        panel = self.query_one(TriesPanel)
        chosen = (panel.chosen if panel.has_focus_within else None) or self.desk.best
        return chosen if chosen and chosen.state == "priced" and chosen.settings else None

    async def action_keep(self) -> None:
        """Make a quantize run of the try, and have it worked on."""
        chosen, view = self._to_keep, self.subject
        if chosen is None or view is None:
            return
        run = await self.bench.run_in_thread(keep, view.run, chosen, doing="while keeping a try")
        if isinstance(run, Run):
            self.bench.show_message(
                f"kept as run {run.id} {printable(chosen.name)}: scored on valid and test"
            )
            await self.bench.refresh_snapshot()
