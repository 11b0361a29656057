"""The first time: five ways to begin, one key each."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Static

from lmbench.config import TrainConfig, validate
from lmbench.corpus import data_get
from lmbench.errors import LmbenchError
from lmbench.jobs.prepare import command_for, make_run
from lmbench.printable import printable
from lmbench.report import numbers
from lmbench.report.published_figures import FIRST_STEPS, PUBLISHED
from lmbench.session.store import Run, Session
from lmbench.tui.kit.choice_dialog import ChoiceDialog
from lmbench.tui.kit.dialog import Answer, QuestionDialog, TextDialog
from lmbench.tui.kit.screen import BenchScreen
from lmbench.tui.kit.status_lines import KeyBar
from lmbench.tui.make_corpus import make_corpus, name_for, path_of, preview

__all__ = ["WelcomeScreen"]

_NAME = "lmbench"
_SAYS = "A workbench for word-level language models: train, prune, quantize, compare."
_WAYS = (
    ("t", "train", "Train a small model now", "on the English that Python carries; no download"),
    ("w", "fetch", "Get WikiText-2", "the corpus of the published figures, 4.5 MB"),
    ("m", "make", "Make a corpus of your own text", "a file or a folder; shows its words first"),
    ("o", "sessions", "Open a session", "or a packed session file"),
    ("p", "published", "Start from a published command", "small, medium or large, tied or not"),
)
_BAR = 30
_PREVIEWED = 60


def _missing(text: str) -> str:
    """What is wrong with a path that was given; "" where nothing is."""
    there = not text or os.path.exists(path_of(text))  # noqa: PTH110
    return "" if there else "there is no such file or folder"


class WelcomeScreen(BenchScreen[None]):
    """Stays until a way is chosen; what it starts is watched on the main screen behind it."""

    HELP = """
**t** starts a training that is small enough to watch from its first step to its last. **w** fetches
WikiText-2 and then offers to train on it. **m** asks for the path of a text, or of a folder of
texts, shows how it becomes words, makes a corpus of it and opens the new-run form on that. **o**
shows the sessions that there are, and opens packed ones. **p** lists the published commands and
fills the new-run form with one. **Esc** goes to the empty main screen.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("t", "train", "train", id="welcome.train", tooltip="Train a small model now"),
        Binding("w", "fetch", "WikiText-2", id="welcome.fetch", tooltip="Get WikiText-2"),
        Binding("m", "make", "own text", id="welcome.make", tooltip="Make a corpus of your text"),
        Binding("o", "sessions", "open", id="welcome.open", tooltip="Open a session"),
        Binding(
            "p",
            "published",
            "published",
            id="welcome.published",
            tooltip="Start from a published command",
        ),
        Binding("escape", "leave", "main screen", id="welcome.back", tooltip="The main screen"),
    ]
    DEFAULT_CSS = """
    WelcomeScreen { align: center middle; }
    WelcomeScreen Vertical { width: 72; max-width: 100%; height: auto; border: round $accent;
        padding: 0 3; }
    WelcomeScreen Static { height: auto; }
    WelcomeScreen .way { margin: 1 0 0 0; }
    /* what is wrong may take many lines */
    WelcomeScreen.-short.-failed .way { margin: 0; }
    WelcomeScreen KeyBar { dock: bottom; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._busy = False

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(Text.assemble((f"{_NAME}\n", "bold"), (_SAYS, "dim")))
            yield from self._ways()
            yield Static(id="now", markup=False)
        yield KeyBar()

    def _ways(self) -> Iterator[Static]:
        accent = self.bench.colour_style("accent")
        for key, action, title, about in _WAYS:
            text = Text.assemble(
                (f" {key}  ", accent + Style(bold=True)),
                (f"{title}\n", "bold"),
                (f"    {about}", "dim"),
            )
            text.apply_meta({"@click": f"screen.{action}"})
            way = Static(text, classes="way")
            # Else it would be underlined as a link.
            way.auto_links = False
            yield way

    def on_mount(self) -> None:
        self._tell(Text(f"\nEverything is kept in {self.bench.home.path}", "dim"))

    def _tell(self, text: Text, *, failed: bool = False) -> None:
        """Here, or, where this screen was left meanwhile, in the line of the one in front."""
        if self.gone:
            self.bench.show_message(text.plain.strip())
        else:
            self.set_class(failed, "-failed")
            self.query_one("#now", Static).update(text)

    def _fail(self, error: LmbenchError) -> None:
        style = self.bench.colour_style("error")
        self._tell(Text(f"\n✗ {printable(error.message)}", style), failed=True)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return not (self._busy and action in ("train", "fetch", "make", "sessions", "published"))

    def action_leave(self) -> None:
        self._session()
        self.dismiss(None)

    def _session(self) -> Session:
        """The session that is open; the first one is made here."""
        if self.bench.session is None:
            self.bench.attach(self.bench.home.open_session())
        session = self.bench.session
        assert session is not None
        return session

    # -- train ---------------------------------------------------------------------------------

    def action_train(self) -> None:
        self._work(self._train(), Text("\nstarting …"))

    async def _train(self) -> None:
        run = await self.bench.run_in_thread(
            self._start_first, doing="while starting the first training"
        )
        if not isinstance(run, Run):
            return
        self._session()
        self.bench.select(run.path.name)
        self.bench.show_message(f"training {FIRST_STEPS.name} on the embedded corpus")
        self.finish()
        await self.bench.refresh_snapshot()

    def _start_first(self) -> Run:
        """In a thread. The embedded corpus is long enough and needs no look first: the worker
        makes it, and the sooner that has begun the better."""
        from lmbench.jobs import launch

        session = self.bench.session or self.bench.home.open_session()
        config = validate(TrainConfig, FIRST_STEPS.settings)
        command = command_for(
            "train", FIRST_STEPS.settings, name=FIRST_STEPS.name, session=session.name
        )
        make = partial(make_run, session, "train", config, name=FIRST_STEPS.name, command=command)
        return launch.start_new(make)

    # -- WikiText-2 ----------------------------------------------------------------------------

    def action_fetch(self) -> None:
        self._work(self._fetch(), Text("\nasking for WikiText-2 …"))

    async def _fetch(self) -> None:
        def progress(what: str, done: int, total: int | None) -> None:
            self.app.call_from_thread(self._show_progress, what, done, total)

        try:
            folder = await asyncio.to_thread(data_get, "wikitext-2", self.bench.home.path, progress)
        except LmbenchError as error:
            self._fail(error)
            return
        self._tell(
            Text(f"\n✓ WikiText-2 is in {folder}: ", self.bench.colour_style("success"))
            + Text("p trains on it", "bold")
        )

    def _show_progress(self, what: str, done: int, total: int | None) -> None:
        share = min(1.0, done / total) if total else 0.0
        text = Text(f"\n{what}  ")
        text.append("━" * round(_BAR * share), self.bench.colour_style("accent"))
        text.append("─" * (_BAR - round(_BAR * share)), self.bench.colour_style("faint"))
        text.append(f"  {numbers.size(done)}" + (f" of {numbers.size(total)}" if total else ""))
        self._tell(text)

    # -- one's own text ------------------------------------------------------------------------

    def action_make(self) -> None:
        question = "The path of a text, or of a folder of texts: type it, or drop it here."

        def taken(text: str | None) -> None:
            if text:
                path = path_of(text)
                self._work(self._preview(path), Text(f"\nreading {printable(path)} …"))

        self.app.push_screen(TextDialog("Text of your own", question, "", _missing), taken)

    async def _preview(self, path: Path) -> None:
        try:
            sentences = await preview(path, self.bench.home)
        except LmbenchError as error:
            self._fail(error)
            return
        if self.gone:
            return
        name = name_for(path, self.bench.home)
        text = Text("Its words:\n")
        for sentence in sentences:
            line = Text(f"\n{printable(sentence)}", "dim")
            line.truncate(_PREVIEWED, overflow="ellipsis")
            text.append_text(line)
        text.append(f"\n\nIt becomes data/{name}; rare words become <unk>.")
        answers = (Answer("make", "m", "make the corpus"), Answer("", "b", "back"))

        def taken(answer: str | None) -> None:
            if answer == "make":
                self._work(self._make(name, path), Text(f"\nmaking {name} …"))
            else:
                self._tell(Text())

        self.app.push_screen(QuestionDialog(printable(path.name), text, answers), taken)

    async def _make(self, name: str, path: Path) -> None:
        try:
            card = await make_corpus(name, path, self.bench.home)
        except LmbenchError as error:
            self._fail(error)
            return
        words = card["splits"]["train"]["words"]
        self.bench.show_message(f"{name}: {words:,} words to train on")
        # Not over a dialog, nor in the place of one.
        if not self.gone and self.is_current:
            self._session()
            self.dismiss(None)
            self.bench.open("new_run", kind="train", settings={"data": name})

    def _work(self, work: Coroutine[Any, Any, None], now: Text) -> None:
        self._tell(now)
        self._busy = True
        self.refresh_bindings()
        self.bench.start_work(self._until_done(work))

    async def _until_done(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            self._busy = False
            if not self.gone:
                self.refresh_bindings()

    # -- sessions and published commands --------------------------------------------------------

    def action_sessions(self) -> None:
        self.bench.open("sessions")

    def action_published(self) -> None:
        offered = [
            (p.name, p.about + (f"; test perplexity {p.test_ppl}" if p.test_ppl else ""))
            for p in PUBLISHED
        ]

        def taken(name: str | None) -> None:
            if name is not None:
                self._session()
                self.dismiss(None)
                self.bench.open("new_run", preset=name)

        self.app.push_screen(ChoiceDialog("Published commands", offered), taken)
