"""Published commands as a chain: one key queues train, prune at four levels, quantize each."""

from __future__ import annotations

from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.widgets import Static

from lmbench.config import TrainConfig
from lmbench.errors import LmbenchError
from lmbench.jobs.chains import CHAINS, Chain, Step, chain_steps, queue_chain, seconds_of
from lmbench.report import numbers
from lmbench.report.training_speed import Measured
from lmbench.tui.kit import choices
from lmbench.tui.kit.background_task import BackgroundTask
from lmbench.tui.kit.choice_dialog import ChoiceDialog
from lmbench.tui.kit.grid import Cell, Column, Grid
from lmbench.tui.kit.panel import Panel, update_static
from lmbench.tui.kit.screen import BenchScreen
from lmbench.tui.kit.status_lines import KeyBar, StatusBar, TopBar
from lmbench.tui.new_run.corpus_size import CorpusSize, size_of
from lmbench.tui.new_run.estimate import unknown_time
from lmbench.tui.new_run.form_lines import training_of
from lmbench.tui.new_run.training_speed import speeds

__all__ = ["ChainsScreen"]

_AS_PUBLISHED = "as published"
_NO_TIME = "–"

_CHAINS = (
    Column("chain", 14, left=True),
    Column("what it does", 30, left=True, grow=1),
    Column("runs", 4),
    Column("about", 10),
)
_STEPS = (
    Column("run", 24, left=True, grow=1),
    Column("kind", 9, left=True),
    Column("from", 20, left=True, grow=1, rank=1),
    Column("about", 10),
)


class ChainsPanel(Panel):
    """The chains, one for each published training."""

    TITLE = "Published commands, queued as a chain"
    DEFAULT_CSS = "ChainsPanel { height: 12; }"

    def compose(self) -> ComposeResult:
        yield Grid()

    def refresh_view(self) -> None:
        screen = self.screen
        assert isinstance(screen, ChainsScreen)
        rows = tuple(
            (
                chain.name,
                (
                    Cell(chain.name),
                    Cell(chain.about),
                    Cell(str(len(chain_steps(chain)))),
                    Cell(screen.time_of(chain)),
                ),
            )
            for chain in CHAINS
        )
        self.query_one(Grid).show(_CHAINS, rows)


class StepsPanel(Panel):
    """The runs of the chain under the cursor."""

    TITLE = "Its runs"
    DEFAULT_CSS = """
    StepsPanel { height: 1fr; }
    StepsPanel #judged { height: auto; max-height: 2; color: $text-muted; }
    """

    def compose(self) -> ComposeResult:
        yield Grid()
        yield Static("", id="judged", markup=False)

    def refresh_view(self) -> None:
        screen = self.screen
        assert isinstance(screen, ChainsScreen)
        steps = chain_steps(screen.chain)
        rows = tuple(
            (
                str(place),
                (
                    Cell(step.name),
                    Cell(step.kind),
                    Cell("" if step.parent is None else steps[step.parent].name),
                    Cell(numbers.duration(screen.seconds_of(screen.chain, step))),
                ),
            )
            for place, step in enumerate(steps)
        )
        self.query_one(Grid).show(_STEPS, rows)
        update_static(self.query_one("#judged", Static), screen.judged)


class ChainsScreen(BenchScreen[None]):
    """Opened by `N`."""

    HELP = """
Each chain trains a model by a published command, prunes it to four levels under the published
schedules, and quantizes the dense model and each pruned one. **Ctrl+S** queues all of its runs;
they run one after the other, also while the workbench is closed. **n** opens the form for the
training alone. The corpus is WikiText-2, on which the published figures were measured, and of the
first chain pydoc; **d** chooses another. The time is estimated from earlier trainings on this
machine.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "queue", "queue all", id="chains.queue", tooltip="Queue the whole chain"),
        Binding("n", "form", "form", id="chains.form", tooltip="The training alone, in the form"),
        Binding("d", "corpus", "corpus", id="chains.corpus", tooltip="Train on another corpus"),
        Binding(
            "tab", "go(1)", "next panel", id="chains.next", show=False, tooltip="The next panel"
        ),
        Binding(
            "shift+tab", "go(-1)", "previous panel", id="chains.previous", show=False,
            tooltip="The panel before",
        ),
        Binding("escape", "dismiss", "back", id="chains.back", tooltip="Back to the runs"),
    ]  # fmt: skip
    DEFAULT_CSS = "ChainsScreen #chains { height: 1fr; layout: vertical; }"

    def __init__(self, first: str = "") -> None:
        """`first` is the chain that has the cursor."""
        super().__init__()
        self._first = first or CHAINS[0].name
        self._measured: list[Measured] | None = []
        self._corpora: dict[str | None, CorpusSize | str] = {}
        self._data: str | None = None

    def compose(self) -> ComposeResult:
        yield TopBar()
        with Container(id="chains"):
            yield ChainsPanel(id="list")
            yield StepsPanel(id="steps")
        yield StatusBar()
        yield KeyBar()

    def on_mount(self) -> None:
        panel = self.query_one(ChainsPanel)
        panel.query_one(Grid).cursor_key = self._first
        panel.take_focus()
        self.bench.start_work(self._judge(), owner=self)

    async def _judge(self) -> None:
        """Find out how fast this machine is, and how large the corpora are."""
        self.bench.start_work(self._look_at_corpora(), owner=self)
        async for known in speeds(self.bench):
            self._measured = known
            self._show()

    async def _look_at_corpora(self) -> None:
        for data in dict.fromkeys(self._data_of(chain) for chain in CHAINS):
            # One that could not be opened may be there by now.
            if isinstance(self._corpora.get(data), CorpusSize):
                continue
            try:
                self._corpora[data] = await size_of(data, "all", self.bench.home)
            except LmbenchError as error:
                self._corpora[data] = error.message
            self._show()

    def _show(self) -> None:
        for panel in self.query(Panel):
            panel.refresh_view()

    @property
    def chain(self) -> Chain:
        """The chain under the cursor."""
        key = self.query_one(ChainsPanel).query_one(Grid).cursor_key
        return next((chain for chain in CHAINS if chain.name == key), CHAINS[0])

    @property
    def changes(self) -> dict[str, Any]:
        """Settings that are to differ from the published ones."""
        return {} if self._data is None else {"data": self._data}

    def _data_of(self, chain: Chain) -> str | None:
        return self._data or chain.training.settings.get("data")

    def _corpus(self, chain: Chain) -> CorpusSize | str | None:
        return self._corpora.get(self._data_of(chain))

    def seconds_of(self, chain: Chain, step: Step) -> float | None:
        """About how long a step will take; None where that is not known."""
        corpus = self._corpus(chain)
        if not isinstance(corpus, CorpusSize):
            return None
        training = chain_steps(chain)[0].config
        assert isinstance(training, TrainConfig)
        # The two are about as long everywhere.
        tokens = {"train": corpus.train, "valid": corpus.valid, "test": corpus.valid}
        return seconds_of(step, corpus.types, tokens, self._measured or [], training)

    def time_of(self, chain: Chain) -> str:
        """About how long the chain will take."""
        each = [self.seconds_of(chain, step) for step in chain_steps(chain)]
        known = [seconds for seconds in each if seconds is not None]
        return numbers.duration(sum(known)) if len(known) == len(each) else _NO_TIME

    @property
    def judged(self) -> Text:
        """What the estimates stand on."""
        corpus = self._corpus(self.chain)
        if isinstance(corpus, str):
            return Text(corpus, self.bench.colour_style("error"))
        if corpus is None:
            return Text("looking at the corpus …")
        words = f"{corpus.name}: {corpus.train:,} tokens"
        words += " (not here yet: queueing fetches it)" if corpus.missing else ""
        published = self.chain.training.settings.get("data")
        words += f", instead of {published}" if self._data not in (None, published) else ""
        if self.time_of(self.chain) == _NO_TIME:
            words += f"; time: {unknown_time(self._measured)}"
        return Text(words)

    # -- keys ----------------------------------------------------------------------------------

    def on_grid_moved(self) -> None:
        self.query_one(StepsPanel).refresh_view()

    def action_form(self) -> None:
        self.bench.open("new_run", settings=self.changes, preset=self.chain.training.name)

    def action_corpus(self) -> None:
        """Take another corpus for all chains: one known by name, or one that a run has used."""
        offered = dict(choices.corpora(self.bench.home.path))
        for view in self.bench.snapshot.runs:
            training = training_of(view)
            if training is not None and training.data:
                offered.setdefault(training.data, f"as {view.title}")

        listed = [(_AS_PUBLISHED, "what the figures are of"), *offered.items()]

        def chosen(data: str | None) -> None:
            if data is not None:
                self._data = None if data == _AS_PUBLISHED else data
                self._show()
                self.bench.start_work(self._look_at_corpora(), owner=self)

        here = self._data or _AS_PUBLISHED
        self.app.push_screen(ChoiceDialog("Train the chains on", listed, here), chosen)

    def action_queue(self) -> None:
        """Make and queue every run of the chain."""
        if self._background is None:
            task = self._background = BackgroundTask(self.bench)
            self.bench.show_message("looking at the corpus and the schedules …")
            self.bench.start_work(self._queue(task, self.chain))

    async def _queue(self, task: BackgroundTask, chain: Chain) -> None:
        session = self.bench.session
        doing = "while queueing a chain"
        progress, check = task.progress, task.check
        runs = await task.run(
            queue_chain, session, chain, self.changes, progress, check, doing=doing
        )
        self._background = None
        if not runs:
            self.bench.show_message("nothing was queued")
            return
        if self.bench.session == session:
            self.bench.select(runs[0].path.name)
        self.bench.show_message(
            f"queued {numbers.plural(len(runs), 'run')}: {runs[0].id} to {runs[-1].id}"
        )
        self.finish()
        await self.bench.refresh_snapshot()
