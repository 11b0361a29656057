"""The quantization laboratory: evaluate settings on a sample in seconds, make runs of good ones."""

from __future__ import annotations

from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.message import Message as TextualMessage
from textual.timer import Timer
from textual.widgets import Static

from lmbench.jobs.hosts import laboratory_messages as messages
from lmbench.jobs.hosts.messages import Client
from lmbench.printable import printable
from lmbench.report import numbers
from lmbench.session import Run
from lmbench.tui.bench.float_model_run import subject_of, with_float_model
from lmbench.tui.bench.run_marks import mark_of
from lmbench.tui.bench.snapshots import RunView
from lmbench.tui.kit.choice_dialog import ChoiceDialog
from lmbench.tui.kit.choices import open_prune_form, save_schedule
from lmbench.tui.kit.panel import Panel, update_static
from lmbench.tui.kit.screen import BenchScreen
from lmbench.tui.kit.status_lines import KeyBar, StatusBar, bar
from lmbench.tui.laboratory.candidates import start_quantize_run
from lmbench.tui.laboratory.candidates_panel import CandidatesPanel
from lmbench.tui.laboratory.modules_panel import ModulesPanel
from lmbench.tui.laboratory.one_shot_schedule import one_shot_schedule
from lmbench.tui.laboratory.prune_panel import PrunePanel
from lmbench.tui.laboratory.saved_state import SavedState
from lmbench.tui.laboratory.state import LaboratoryState

__all__ = ["LabScreen"]

# A level is evaluated when the slider has been at rest for so long.
_REST_S = 0.25
_STARTING = "while starting a run"


class Received(TextualMessage):
    """A message of the laboratory's process."""

    def __init__(self, message: messages.Message) -> None:
        super().__init__()
        self.message = message


class LabScreen(BenchScreen[None]):
    """Of one run's model."""

    HELP = """
What settings cost the model of one run, measured on a sample of its validation text. Change the
**draft** in the table of modules and evaluate it with **Enter**: it becomes a candidate, and the
list has the best on top. **u** evaluates the published settings, **p** starts from a preset, **K**
makes a quantize run of a candidate. The slider evaluates pruning without training. **Tab** goes to
the next panel.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("u", "published", "published", id="lab.published",
                tooltip="Evaluate the model as it is and the six published settings"),
        Binding("p", "preset", "preset", id="lab.preset", tooltip="Start the draft from a preset"),
        Binding("K", "keep", "make a run", id="lab.keep",
                tooltip="Make a run of the candidate, or of the pruned level"),
        Binding("tab", "go(1)", "next panel", id="lab.next", show=False, tooltip="The next panel"),
        Binding("shift+tab", "go(-1)", "previous panel", id="lab.previous", show=False,
                tooltip="The panel before"),
        Binding("escape", "dismiss", "back", id="lab.back", tooltip="Back to the runs"),
    ]  # fmt: skip
    DEFAULT_CSS = """
    LabScreen #head {
        height: auto; min-height: 2; max-height: 5; padding: 0 1; background: $panel;
    }
    LabScreen #lab { height: 1fr; layout: vertical; }
    LabScreen #right { height: 11fr; }
    LabScreen ModulesPanel { height: 9fr; }
    LabScreen CandidatesPanel { height: 1fr; }
    LabScreen PrunePanel { height: 4; }
    LabScreen.-wide #lab { layout: horizontal; }
    LabScreen.-wide ModulesPanel { width: 5fr; height: 1fr; }
    LabScreen.-wide #right { width: 4fr; height: 1fr; }
    LabScreen.-wide CandidatesPanel #settings { min-height: 2; }
    LabScreen.-wide PrunePanel { height: 10; }
    """

    client_class: ClassVar[Any] = messages.LaboratoryClient
    """Made with the path of a log and a function that takes messages; another one in tests."""

    def __init__(self) -> None:
        super().__init__()
        # The run's, once it is known.
        self._key = ""
        self._client: Client | None = None
        self._rest_timer: Timer | None = None
        self._stamp = 0
        self._replaced = False
        self._level: tuple[str, float] | None = None
        self.state = LaboratoryState(self._changed, lambda line: self.bench.show_message(line))

    def compose(self) -> ComposeResult:
        yield Static("", id="head", markup=False)
        with Container(id="lab"):
            yield ModulesPanel(self.state, id="modules")
            with Vertical(id="right"):
                yield CandidatesPanel(self.state, id="candidates")
                yield PrunePanel(self.state, id="prune")
        yield StatusBar()
        yield KeyBar()

    async def on_mount(self) -> None:
        self.query_one(ModulesPanel).take_focus()
        self.watch(self.app, "snapshot", self._begin)

    async def _begin(self) -> None:
        """Have the run's model loaded, as soon as the session is read and has one."""
        snapshot, selected = self.bench.snapshot, self.bench.selected
        if (view := self.subject) is not None:
            replaced = messages.stamp_of(view.run) not in (self._stamp, 0)
            if replaced != self._replaced:
                self._replaced = replaced
                self._show()
        if self._client is not None or snapshot.session is None:
            return
        if snapshot.reading and with_float_model(snapshot.by_key, selected) is None:
            # What the selected run was made from may not be read yet.
            return
        subject = subject_of(snapshot.by_key, selected)
        if subject is None:
            self.state.problem = "A trained run is needed: Esc, then n starts one."
        else:
            self.state.problem = ""
            self._key = subject.key
            tied = subject.record is not None and subject.record.shape.get("tied") is True
            self.query_one(CandidatesPanel).tied = tied
            self._restore(subject, messages.stamp_of(subject.run))
            path = self.bench.home.sessions_path / "laboratory.log"
            client: Client = self.client_class(path, lambda m: self.post_message(Received(m)))
            self._client = client
            await client.send(self.state.request(messages.OpenModel(run=str(subject.run.path))))
        self._show()

    async def on_unmount(self) -> None:
        if self._client is not None:
            await self._client.close()

    # -- what is shown -------------------------------------------------------------------------

    @property
    def subject(self) -> RunView | None:
        """The run whose model it is."""
        return self.bench.snapshot.run(self._key)

    def _show(self) -> None:
        """Bring the head and the panels up to date."""
        view = self.subject
        # A problem is shown to its last word; the rest has a line each.
        whole = bool(self.state.problem)
        head = Text(no_wrap=not whole, overflow="fold" if whole else "ellipsis")
        if view is not None:
            mark = mark_of(view.id)
            head.append(f"{mark.marker} ", self.bench.colour_style(mark.variable))
            head.append(view.title, "bold")
        ready = self.state.ready
        if ready is not None:
            head.append(f"  perplexity {numbers.perplexity(self.state.ppl)}")
            head.append(f" on {ready.tokens:,} tokens of valid, {numbers.size(ready.bytes)} packed")
        head.append("\n")
        head.append_text(self._progress())
        update_static(self.query_one("#head", Static), head)
        for panel in self.query(Panel):
            panel.refresh_view()

    def _progress(self) -> Text:
        state, progress = self.state, self.state.progress
        if state.problem:
            return Text(printable(state.problem), self.bench.colour_style("error"))
        if progress is None and self._replaced:
            return Text("A newer model was saved: Esc, then l opens it.", "dim")
        if progress is None:
            return Text("" if state.ready else "starting …", "dim")
        text = Text(f"{progress.what} ", "dim")
        if progress.total:
            share = progress.done / progress.total
            done, rest = self.bench.colour_style("accent"), self.bench.colour_style("faint")
            text.append_text(bar(share, 30, done, rest))
            text.append(f" {100 * share:3.0f}%")
        return text

    # -- requests ------------------------------------------------------------------------------

    def on_received(self, event: Received) -> None:
        message, view = event.message, self.subject
        is_ready = isinstance(message, messages.Ready)
        if is_ready and message.stamp != self._stamp and view is not None:
            # A training has replaced the model while the laboratory was starting.
            self._restore(view, message.stamp)
        self.state.receive(message)

    def _changed(self, to_save: bool) -> None:
        """Save the state, show it, and send the next request."""
        if to_save:
            self._save()
        self._show()
        level = (self.state.target, self.state.level)
        if self.state.level_pending and level != self._level:
            if self._rest_timer is not None:
                self._rest_timer.stop()
            self._rest_timer = self.set_timer(_REST_S, self._rested)
        self._level = level
        self.call_next(self._send_next)

    async def _rested(self) -> None:
        self._rest_timer = None
        await self._send_next()

    async def _send_next(self) -> None:
        request = self.state.next_request(slider_at_rest=self._rest_timer is None)
        if request is not None and self._client is not None:
            self._show()
            await self._client.send(request)

    def _save(self) -> None:
        """Nothing before the model is loaded."""
        view = self.subject
        if view is not None and self.state.ready is not None:
            self.bench.remember(f"lab/{view.key}", self.state.saved().to_json(self._stamp))

    def _restore(self, view: RunView, stamp: int) -> None:
        self._stamp = stamp
        saved = self.bench.recall_each("lab").get(view.key)
        self.state.restore(SavedState.from_json(saved, self._stamp))

    # -- keys ----------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        match action:
            case "published" | "preset":
                return self.state.ready is not None
            case "keep":
                return self.state.ready is not None and not self.bench.demo
        return True

    def why_not(self, action: str, parameters: tuple[object, ...]) -> str:
        """Why `check_action` refuses an action."""
        return self.state.not_ready

    def action_published(self) -> None:
        self.state.evaluate_published()

    def action_preset(self) -> None:
        def chosen(name: str | None) -> None:
            if name:
                self.state.start_from(name)

        offered = [(preset.name, preset.about) for preset in self.state.presets.values()]
        self.app.push_screen(
            ChoiceDialog("Start the draft from", offered, self.state.base_name), chosen
        )

    def on_candidates_panel_draft_loaded(self) -> None:
        self.focus_panel(self.panel("modules"))

    async def action_keep(self) -> None:
        """Make a run of what the cursor is on."""
        view = self.subject
        if view is None:
            self.bench.show_message("that run is gone", keep=False)
            return
        if self.panel("prune").has_focus_within:
            await self._open_prune_form(view)
            return
        panel = self.query_one(CandidatesPanel)
        chosen = panel.chosen if panel.has_focus_within else self.state.of_draft
        if chosen is None:
            self.bench.show_message("no run to make: Enter evaluates the draft first", keep=False)
        elif not chosen.settings:
            self.bench.show_message(f"the model unchanged is run {view.id} itself", keep=False)
        elif chosen.state != "evaluated":
            words = f"{chosen.name} was not evaluated yet: no run is made of it"
            self.bench.show_message(words, keep=False)
        else:
            run = await self.bench.run_in_thread(
                start_quantize_run, view.run, chosen, doing=_STARTING
            )
            if isinstance(run, Run):
                name = printable(chosen.name)
                self.bench.show_message(f"kept as run {run.id} {name}: scored on valid and test")
                await self.bench.refresh_snapshot()

    async def _open_prune_form(self, view: RunView) -> None:
        """The form for a run that prunes to the slider's level at once."""
        state = self.state
        assert state.ready is not None
        if not state.level:
            self.bench.show_message("0% prunes nothing: → moves the level", keep=False)
            return
        text = one_shot_schedule(state.target, state.ready.targets, state.level)
        stem = f"at-once-{100 * state.level:.0f}"

        def write() -> tuple[str, str]:
            return save_schedule(view.run.session, stem, text), text

        if not await open_prune_form(self.bench, view, write):
            return
        # Said on the form, and so gone some time after it.
        evaluated = state.level in state.pruned.get(state.target, {})
        other = ": not the model just evaluated" if evaluated else ""
        level = f"{100 * state.level:.0f}%"
        self.bench.show_message(f"pruned to {level} at once, and then trained{other}")
