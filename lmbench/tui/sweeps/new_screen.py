"""A new sweep that starts from a run: a form for its axes, and what it will take beside it."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.content import Content
from textual.widgets import Static

from lmbench.config import Kind
from lmbench.errors import LmbenchError
from lmbench.jobs.sweeps.kept_file import has_sweep
from lmbench.printable import printable
from lmbench.tui.bench.snapshots import RunView
from lmbench.tui.kit.choice_dialog import ChoiceDialog
from lmbench.tui.kit.form import Form
from lmbench.tui.kit.panel import update_static
from lmbench.tui.kit.screen import BenchScreen
from lmbench.tui.kit.status_lines import KeyBar, TopBar
from lmbench.tui.sweeps.new_sweep import (
    AXES,
    fields_of,
    kinds_of,
    listed_settings,
    run_sweep,
    sweep_text,
    took,
)

__all__ = ["NewSweepScreen"]

_SETTLE_S = 0.5


class NewSweepScreen(BenchScreen[None]):
    """Opened by `n` on the sweep's screen."""

    HELP = """
A sweep that starts from one run: it trains anew as the run was trained, or prunes or quantizes its
model. Each **axis** is a setting and its values, `lr: 5, 10, 20`, or a range as
`lr: {from: 1, to: 9, count: 3}`; **Enter** lists the settings. All combinations are made, each with
each seed. Below stand the sweep's file, how many runs it is, how long they will take on this
machine and what they ask of the disk, as `lmbench sweep check` says it. **Ctrl+S** starts it as
`lmbench sweep start --detach` does; the session keeps the file (`docs/sweeps.md`).
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "start", "start", id="new_sweep.start", tooltip="Start the sweep"),
        Binding("ctrl+l", "list", "settings", id="new_sweep.list", tooltip="List the settings"),
        Binding("escape", "dismiss", "back", id="new_sweep.back", tooltip="Back, starting nothing"),
    ]
    DEFAULT_CSS = """
    NewSweepScreen #new { height: 1fr; }
    NewSweepScreen #ask { border: heavy $accent; border-title-color: $accent;
        border-title-style: bold; height: 12; }
    NewSweepScreen #about { border: round $border-blurred; height: 1fr; padding: 0 1; }
    NewSweepScreen.-wide #new { layout: horizontal; }
    NewSweepScreen.-wide #ask { width: 3fr; height: 1fr; }
    NewSweepScreen.-wide #about { width: 2fr; }
    """

    def __init__(self, run: str) -> None:
        """`run` is the key of the run that it starts from."""
        super().__init__()
        self._run = run
        # The file that was found to be in order; "" while it is not.
        self._checked = ""
        self._starting = False

    @property
    def view(self) -> RunView:
        view = self.bench.snapshot.run(self._run)
        if view is None:
            raise LmbenchError(f"run {self._run} is not there any more")
        return view

    @property
    def form(self) -> Form:
        return self.query_one(Form)

    @property
    def kind(self) -> Kind:
        chosen = self.form.values.get("kind", "")
        kinds = kinds_of(self.view)
        return kinds[kinds.index(chosen)] if chosen in kinds else kinds[0]

    def compose(self) -> ComposeResult:
        yield TopBar()
        with Container(id="new"):
            with Vertical(id="ask") as box:
                box.border_title = Content(f"New sweep from {self.view.id} {self.view.name}")
                kind = kinds_of(self.view)[0]
                yield Form(fields_of(self.view, kind, self._proposed_session()))
            yield Static("", id="about", markup=False)
        yield KeyBar()

    def on_mount(self) -> None:
        self.form.focus_field(AXES[0])
        self._check_soon()

    def _proposed_session(self) -> str:
        """This session, or one beside it where it has a sweep already."""
        session = self.view.run.session
        names = {other.name for other in session.home.sessions()}
        if not has_sweep(session):
            return session.name
        number = 2
        while f"{session.name} {number}" in names:
            number += 1
        return f"{session.name} {number}"

    async def on_form_edited(self, event: Form.Edited) -> None:
        if event.name == "kind":
            specs = fields_of(self.view, self.kind, self.form.values["session"])
            await self.form.rebuild(specs)
        self._check_soon()

    def _check_soon(self) -> None:
        """Check what is typed a moment after the last key; the check of what it was ends."""
        self._checked = ""
        self.workers.cancel_group(self, "check")
        self.settle(_SETTLE_S, self._check)

    def _check(self) -> None:
        try:
            text = sweep_text(self.view, self.kind, self.form.values)
        except LmbenchError as error:
            self._show("", [error.message], wrong=True)
            return
        self._show(text, ["being checked …"])
        session = self.form.values["session"].strip()
        check = self._judge(text, session)
        self.bench.start_work(check, owner=self, group="check")

    async def _judge(self, text: str, session: str) -> None:
        try:
            document = await run_sweep("check", text, session, self.bench.home)
        except LmbenchError as error:
            self._show(text, error.message.split("\n"), wrong=True)
            return
        except OSError as error:
            self._show(text, [f"it cannot be checked: {error}"], wrong=True)
            return
        self._checked = text
        self._show(text, took(document))

    def _show(self, text: str, lines: list[str], *, wrong: bool = False) -> None:
        """What it will take, over the file."""
        style = self.bench.colour_style("error" if wrong else "foreground")
        shown = Text("\n").join(Text(printable(line), style) for line in lines)
        update_static(self.query_one("#about", Static), shown + Text(f"\n\n{text}", "dim"))

    # -- keys ----------------------------------------------------------------------------------

    def on_form_list_requested(self, event: Form.ListRequested) -> None:
        self._list(event.name)

    def action_list(self) -> None:
        self._list(self.form.focused_name)

    def _list(self, name: str) -> None:
        axis = name if name in AXES else AXES[0]

        def taken(setting: str | None) -> None:
            if setting is not None:
                self.form.set_value(axis, f"{setting}: ")

        self.app.push_screen(ChoiceDialog(axis, listed_settings(self.kind)), taken)

    def action_start(self) -> None:
        if not self._checked:
            self.bench.show_message("the sweep is not in order yet, or still being checked")
        elif not self._starting:
            self._starting = True
            session = self.form.values["session"].strip()
            self.bench.show_message("making the runs …")
            self.bench.start_work(self._start(self._checked, session))

    async def _start(self, text: str, session: str) -> None:
        """Goes on where the screen is left: a start that is broken off leaves half of the runs."""
        try:
            await run_sweep("start", text, session, self.bench.home, "--detach")
        except (LmbenchError, OSError) as error:
            self.bench.show_error(error, "while starting the sweep")
            return
        finally:
            self._starting = False
        self.bench.show_message(f"sweep {session} has begun")
        if self.gone:
            return
        if self.bench.session is not None and self.bench.session.name == session:
            self.finish()
            await self.bench.refresh_snapshot()
        else:
            self.bench.change_session(self.bench.home.session(session))
            self.bench.open("sweep")
