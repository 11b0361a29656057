"""Beside the new-run form: what its field means, how large and how long the run will be, and the
command line that does the same."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static
from textual.worker import Worker

from lmbench.config import Config, TrainConfig
from lmbench.corpus.ids import VocabularyRule
from lmbench.errors import LmbenchError
from lmbench.report.training_speed import Measured
from lmbench.tui.bench.snapshots import RunView
from lmbench.tui.kit.panel import GuardedWidget, update_static
from lmbench.tui.new_run.corpus_size import CorpusSize, size_of
from lmbench.tui.new_run.estimate import forecast, forecast_derived
from lmbench.tui.new_run.form_lines import training_of
from lmbench.tui.new_run.schedule_outlook import (
    ScheduleOutlook,
    schedule_outlook,
    schedule_stamp,
)
from lmbench.tui.new_run.training_speed import speeds

__all__ = ["AboutRun", "RunRequest"]

# Someone may still be typing a corpus's name.
_SETTLE_S = 0.2


@dataclass(frozen=True)
class RunRequest:
    """What the form asks for: `field` is what the focused field means, `problem` the first mistake,
    `config` None where there is one."""

    field: str
    problem: str
    config: Config | None
    parent: RunView | None
    command: str


class AboutRun(Vertical, GuardedWidget):
    """Finds out what a `RunRequest` takes."""

    DEFAULT_CSS = """
    AboutRun { border: round $border-blurred; border-title-color: $text-muted; padding: 0 1;
        overflow-y: auto; }
    """

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.border_title = "What it will be"
        self._request: RunRequest | None = None
        self._corpora: dict[tuple[str | None, VocabularyRule], CorpusSize | str] = {}
        self._measured: list[Measured] | None = []
        # Who looks at a corpus, or has done so since the form last asked.
        self._looking: dict[tuple[str | None, VocabularyRule], Worker[None]] = {}
        self._outlooks: dict[tuple[str, int, object], ScheduleOutlook | None] = {}

    def compose(self) -> ComposeResult:
        yield Static(id="words", markup=False)

    def on_mount(self) -> None:
        self.bench.start_work(self._measure(), owner=self)

    async def _measure(self) -> None:
        """Find out how fast this machine is."""
        async for known in speeds(self.bench):
            self._measured = known
            self._update()

    def show(self, request: RunRequest) -> None:
        self._request = request
        # A corpus that could not be opened may be there by now.
        self._looking = {key: w for key, w in self._looking.items() if not w.is_finished}
        self._update()

    def _update(self) -> None:
        request = self._request
        if request is None or not self.is_mounted:
            return
        wide = self.screen.has_class("-wide")
        text = Text(request.field + "\n")
        text.append("\n" if wide else "")
        if request.problem:
            text.append(f"✗ {request.problem}\n", self.bench.colour_style("error"))
        else:
            text.append_text(self._forecast(request))
            text.append("\n\n" if wide else "\n")
            text.append("$ ", self.bench.colour_style("accent"))
            text.append(request.command, "bold")
        update_static(self.query_one("#words", Static), text)

    def _forecast(self, request: RunRequest) -> Text:
        if isinstance(request.config, TrainConfig):
            corpus = self.corpus_size(request.config)
            if isinstance(corpus, CorpusSize):
                # A warning first: the panel may have no room for all.
                text = self._schedule(request.config, corpus.types)
                return text + forecast(request.config, corpus, self._measured)
            return Text(corpus or "looking at the corpus …", "dim")
        if request.parent is None or request.config is None:
            return Text()
        model = training_of(request.parent)
        corpus = self.corpus_size(model) if model is not None else ""
        known = corpus if isinstance(corpus, CorpusSize) else None
        runs = self.bench.snapshot.runs
        return forecast_derived(request.config, request.parent, model, known, self._measured, runs)

    def _schedule(self, config: TrainConfig, ntoken: int) -> Text:
        """What the schedule reaches, and a warning where that is less than it asks for."""
        stamp = schedule_stamp(config, self.bench.home)
        asked = config.model_dump_json(), ntoken, stamp
        if asked not in self._outlooks:
            self._outlooks = {asked: None}
            if config.compress is not None:
                work = self._look_at_schedule(config, ntoken, stamp)
                self.bench.start_work(work, owner=self)
        outlook, text = self._outlooks[asked], Text()
        if outlook is not None and outlook.warning:
            text.append(f"! {outlook.warning}\n", self.bench.colour_style("warning"))
        elif outlook is not None and outlook.reached is not None:
            text.append(f"{outlook.reached:.1%} of the weights are zero in the end\n")
        return text

    async def _look_at_schedule(self, config: TrainConfig, ntoken: int, stamp: object) -> None:
        found = await asyncio.to_thread(schedule_outlook, config, ntoken, self.bench.home)
        asked = config.model_dump_json(), ntoken, stamp
        if asked in self._outlooks:
            self._outlooks[asked] = found
            self._update()

    def corpus_size(self, config: TrainConfig) -> CorpusSize | str:
        """The size of a training's corpus; "" while it is looked at, a text where that failed."""
        asked = (config.data, config.vocab)
        found = self._corpora.get(asked, "")
        if isinstance(found, str) and asked not in self._looking:
            # Of a name that is typed the last letter's alone.
            work = self._look_at(*asked)
            self._looking[asked] = self.bench.start_work(
                work, owner=self, group="corpus", exclusive=True
            )
        return found

    async def _look_at(self, data: str | None, vocab: VocabularyRule) -> None:
        await asyncio.sleep(_SETTLE_S if data else 0)
        try:
            found: CorpusSize | str = await size_of(data, vocab, self.bench.home)
        except LmbenchError as error:
            found = error.message
        self._corpora[data, vocab] = found
        self._update()
