"""A new run: a form made from the settings' definitions, with what it will take beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical

from lmbench.config import CONFIGS, Config, Kind, PruneConfig, TrainConfig, validate
from lmbench.config.command_line import flag_in
from lmbench.config.machine import COMPRESSION, DATA, MODEL
from lmbench.config.training import laid_over
from lmbench.corpus import default_corpus
from lmbench.errors import LmbenchError
from lmbench.jobs.prepare import command_for, inherited_settings, long_enough, run_name
from lmbench.printable import printable
from lmbench.session.manage import run_name_problem
from lmbench.session.store import Run
from lmbench.tui.bench.snapshots import RunView
from lmbench.tui.kit import choices
from lmbench.tui.kit.background_task import BackgroundTask
from lmbench.tui.kit.choice_dialog import ChoiceDialog
from lmbench.tui.kit.form import FieldSpec, Form
from lmbench.tui.kit.make_and_launch import make_and_launch
from lmbench.tui.kit.screen import BenchScreen
from lmbench.tui.kit.status_lines import KeyBar, TopBar
from lmbench.tui.new_run.about_panel import AboutRun, RunRequest
from lmbench.tui.new_run.corpus_size import CorpusSize
from lmbench.tui.new_run.fields import Setting, problems, settings_of, shown
from lmbench.tui.new_run.form_lines import (
    ABOUT,
    KINDS,
    FormState,
    can_start,
    default_note,
    field_specs,
    label,
    missing,
    preset_note,
    preset_settings,
    start_of,
    taken_from,
    texts_of,
    training_of,
)
from lmbench.tui.new_run.unfinished_form import FormDraft

__all__ = ["NewRunScreen"]

_SETTLE_S = 0.05


class NewRunScreen(BenchScreen[str]):
    """Gives the key of the run that was started, or None."""

    HELP = """
Each line is a setting: its name, its value, and what it can be. **↑ ↓** go from one to the next,
**Page Up** and **Page Down** to the next heading. A value between **‹** and **›** is chosen by
**← →**, or by its first letter; others are typed. Clearing a field brings its default back. A **•**
marks what differs from the default: only that is stored. **Enter** opens a list where there is one.

Beside the form stand what the setting means, how large the model is, about how long an epoch
takes (judged by earlier runs on this machine, or by a trial), and the command line that does the
same.
**Ctrl+S** starts the run; while another one computes, it waits in the queue.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "start", "start", id="new.start", tooltip="Start the run"),
        # Before a text field, which takes the key for the end of its line.
        Binding(
            "ctrl+e",
            "schedule",
            "edit schedule",
            id="new.schedule",
            priority=True,
            tooltip="Edit its schedule",
        ),
        Binding("ctrl+l", "list", "list", id="new.list", tooltip="List what the field can be"),
        Binding(
            "ctrl+y", "copy", "copy command", id="new.copy", tooltip="Copy the equivalent command"
        ),
        Binding("escape", "leave", "back", id="new.back", tooltip="Back, starting nothing"),
    ]
    DEFAULT_CSS = """
    NewRunScreen #new { height: 1fr; }
    NewRunScreen #ask { border: heavy $accent; border-title-color: $accent;
        border-title-style: bold; height: 1fr; width: 1fr; }
    NewRunScreen #about { height: 9; width: 1fr; }
    NewRunScreen.-wide #new { layout: horizontal; }
    NewRunScreen.-wide #about { width: 46; height: 1fr; }
    """

    def __init__(
        self,
        kind: Kind | None = None,
        settings: Mapping[str, Any] | None = None,
        parent: str | None = None,
        preset: str = "",
    ) -> None:
        """`preset` (of a training) and over it `settings` fill the form; `parent` is the key of the
        run to start from."""
        super().__init__()
        self._kind: Kind = kind or "train"
        self._first = dict(settings or {})
        self._origin = parent
        self._wrong: dict[str, str] = {}
        self._config: Config | None = None
        # The key of the run that the form was made for, and the runs that it offers, by title.
        self._start_key: str | None = None
        self._offered: dict[str, str] = {}
        # The schedule that `_inherited` reads the needed epochs from.
        self._schedule = ""
        # The preset in the form, and what was typed that is none of it.
        self._preset = preset
        self._typed: dict[str, str] = {}
        # What differs from the defaults, or from the parent of a pruning.
        self.given: dict[str, Any] = {}
        self._visited = "@kind"
        # A form that was left half filled in; nothing is kept before it is there again.
        self._draft: FormDraft | None = None
        self._keeping = False
        self._below = "main"

    def compose(self) -> ComposeResult:
        self._below = str(self.bench.recall("screen", "main"))
        fresh = not (self._first or self._preset) and self._origin is None and self._kind == "train"
        if fresh and self._below == "new_run":
            self._draft = FormDraft.from_json(self.bench.recall("new_run"))
        if self._below == "new_run":
            self._below = "main"
        yield TopBar()
        with Container(id="new"):
            with Vertical(id="ask") as box:
                box.border_title = "New run"
                yield Form(() if self._waits else self._first_specs(), id="form")
            yield AboutRun(id="about")
        yield KeyBar()

    def on_mount(self) -> None:
        self.bench.remember("screen", "new_run")
        if self.form.specs:
            self._fill_in()
        else:
            self.watch(self.app, "snapshot", self._begin)

    @property
    def _waits(self) -> bool:
        """Does the workbench open on the form? The runs that it can start from come in a moment,
        and of a large session only the newest at first."""
        draft, snapshot = self._draft, self.bench.snapshot
        if draft is None:
            return False
        return snapshot.session is None or (draft.kind != "train" and snapshot.unread > 0)

    async def _begin(self) -> None:
        if not (self._keeping or self._waits):
            await self.form.rebuild(self._first_specs())
            self._fill_in()

    def _first_specs(self) -> list[FieldSpec]:
        """The fields as the form was left, or for the selected run."""
        draft, selected = self._draft, self.bench.selected_run
        if draft is not None:
            self._kind, self._origin = draft.kind, draft.origin
        elif self._origin is None and selected is not None:
            self._origin = selected.key
        return self._specs()

    def _fill_in(self) -> None:
        draft = self._draft
        self._keeping = True
        first = {**preset_settings(self._preset), **self._first}
        self.form.fill({"@preset": self._preset, **texts_of(self.settings, first)})
        if draft is not None:
            self.form.fill(draft.texts)
            self._preset = draft.texts.get("@preset", "")
            if draft.visited in self.form.specs:
                self.form.focus_field(draft.visited)
        self._read()

    def _keep(self) -> None:
        """Keep what stands in the form, until it is started or left."""
        if self._keeping:
            draft = FormDraft(self._kind, self._origin, self.form.values, self._visited)
            self.bench.remember("new_run", draft.to_json())

    def _leave(self, started: str | None = None) -> None:
        self._keeping = False
        self.bench.remember("new_run", None)
        self.bench.remember("screen", self._below)
        self.finish(started)

    # -- the form ------------------------------------------------------------------------------

    @property
    def form(self) -> Form:
        return self.query_one("#form", Form)

    @property
    def model(self) -> type[Config]:
        return CONFIGS[self._kind]

    @property
    def parents(self) -> list[RunView]:
        """Runs that the new one can start from."""
        return [view for view in self.bench.snapshot.runs if can_start(self._kind, view)]

    @property
    def origin(self) -> RunView | None:
        """The run that the new one starts from; None, too, where it is gone since."""
        return self.bench.snapshot.by_key.get(self._start_key or "")

    def _inherited(self) -> dict[str, Any]:
        """What a pruning takes over from its parent, and the epochs that its schedule needs."""
        values: dict[str, Any] = {}
        # The panel of runs and the form show what is wrong; starting will say so again.
        with suppress(LmbenchError):
            if self._kind == "prune":
                values = inherited_settings(self.origin.run) if self.origin else {}
                values = long_enough(values, self._schedule, self.bench.home)
        return values

    @property
    def settings(self) -> list[Setting]:
        """What the form asks: a pruned model's shape, but for a projection, and its corpus are its
        parent's."""
        first = "" if self._kind == "train" else COMPRESSION
        found = settings_of(self.model, first)
        if self._kind == "prune" and self.origin is not None:
            before = TrainConfig.model_construct(**self._inherited())
            rotates = not before.projection and before.emsize == before.nhid
            asked = ("projection",) if rotates else ()
            return [s for s in found if s.group not in (MODEL, DATA) or s.name in asked]
        return list(found)

    def _base(self) -> dict[str, Any]:
        """The value of each setting where the form is left alone."""
        inherited = self._inherited()
        return {s.name: inherited.get(s.name, s.default) for s in self.settings}

    def _specs(self) -> list[FieldSpec]:
        start = start_of(self._kind, self.bench.snapshot.by_key, self._origin)
        self._start_key = start.key if start else None
        self._offered = {view.title: view.key for view in self.parents}
        state = FormState(self._kind, self.settings, self._base(), self.parents, start)
        return field_specs(state, default_corpus(self.bench.home.path))

    async def _rebuild(self) -> None:
        await self.form.rebuild(self._specs())
        self._read()

    # -- reading it ----------------------------------------------------------------------------

    def _read(self) -> None:
        """Take the form's texts in, mark what is wrong, and show what it will be."""
        notes: dict[str, str] = {}
        if self._start_key is not None and self.origin is None:
            self._wrong, self._config = {"@parent": "that run is gone"}, None
        else:
            if self._kind == "prune":
                notes["epochs"] = self._adopt_schedule()
            self._judge()
        texts = self.form.values
        changed = set(self.given)
        if texts.get("@name"):
            changed.add("@name")
        if self._kind == "train":
            notes["@preset"] = preset_note(texts.get("@preset"))
        self.form.mark_fields(self._wrong, changed, notes)
        self._keep()
        self._show_about()

    def _judge(self) -> None:
        """Find what is given and what is wrong with it."""
        given, wrong = taken_from(self.settings, self._base(), self.form.values)
        full = laid_over(self._inherited(), given)
        wrong = {**problems(self.model, full), **wrong}
        wrong = {**missing(self._kind, self.origin, given), **wrong}
        if (name := self.form.values["@name"].strip()) and (problem := run_name_problem(name)):
            wrong["@name"] = problem
        self._wrong, self.given = wrong, given
        self._config = None if wrong else validate(self.model, full)

    def _adopt_schedule(self) -> str:
        """Epochs that nobody has changed follow the schedule, also one whose file was changed;
        gives what is said of them."""
        self._schedule = self.form.values["compress"].strip()
        setting = next(s for s in self.settings if s.name == "epochs")
        epochs = self._base()["epochs"]
        self.form.set_default("epochs", shown(setting, epochs))
        return default_note(setting, epochs)

    async def on_form_edited(self, event: Form.Edited) -> None:
        texts = self.form.values
        match event.name:
            case "@kind":
                if self._kind == "train":
                    # What a preset or recipe gives is no wish for another kind of run.
                    self._fill("")
                self._kind = next(k for k in KINDS if k == texts["@kind"])
                await self._rebuild()
                if self._kind == "train":
                    self._fill(self.form.values["@preset"])
            case "@parent":
                self._origin = self._start_key = self._offered.get(texts["@parent"])
                if self._start_key is None or self.origin is not None:
                    await self._rebuild()
                else:
                    self._read()
            case "@preset":
                self._fill(texts["@preset"])
            case _:
                self.settle(_SETTLE_S, self._read)

    def _fill(self, preset: str) -> None:
        """Put a published command or a recipe into the form, in the place of the one before.

        What was typed besides stays, and comes back where it was hidden by another preset.
        """
        base, last = self._base(), preset_settings(self._preset)
        before = texts_of(self.settings, {**base, **last})
        hidden = {name: text for name, text in self._typed.items() if name in last}
        texts = self.form.values
        typed = {name: texts[name] for name, text in before.items() if texts[name] != text}
        self._preset, self._typed = preset, {**hidden, **typed}
        own = preset_settings(preset)
        kept = {name: text for name, text in self._typed.items() if name not in own}
        self.form.fill({**texts_of(self.settings, {**base, **own}), **kept})
        self._read()

    def on_form_field_focused(self, event: Form.FieldFocused) -> None:
        if event.name:
            self._visited = event.name
            self._keep()
            self._show_about()
            self.refresh_bindings()

    # -- what it will be -----------------------------------------------------------------------

    def _show_about(self) -> None:
        problem = ""
        if self._wrong:
            first = next(iter(self._wrong))
            name = self.form.specs[first].label if first in self.form.specs else first
            problem = f"{name}: {self._wrong[first]}"
        field, command = self._about_field(), self.command
        request = RunRequest(field, problem, self._config, self.origin, command)
        self.about.show(request)

    @property
    def about(self) -> AboutRun:
        return self.query_one(AboutRun)

    def _about_field(self) -> str:
        if self._visited in ABOUT:
            return ABOUT[self._visited]
        found = next((s for s in self.settings if s.name == self._visited), None)
        return f"{flag_in(self._kind, found.name)}: {found.help}" if found else ""

    @property
    def command(self) -> str:
        """The command line that starts the same run."""
        parent, session = self.origin, self.bench.session
        # The welcome screen opens one before this.
        assert session is not None
        return command_for(
            self._kind,
            self.given,
            parent=parent.run.ref if parent else None,
            name=self.form.values.get("@name", "").strip() or None,
            session=session.name,
        )

    # -- keys ----------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "schedule":
            return self._kind in ("train", "prune")
        if action == "list":
            spec = self.form.specs.get(self._visited)
            return bool(spec and spec.listed)
        return True

    def action_leave(self) -> None:
        self._leave()

    def action_copy(self) -> None:
        self.bench.copy_to_clipboard(self.command)

    def action_list(self) -> None:
        self._list(self._visited)

    def on_form_list_requested(self, event: Form.ListRequested) -> None:
        self._list(event.name)

    def _list(self, name: str) -> None:
        setting = next(s for s in self.settings if s.name == name)
        offered = choices.offered(setting.choices_from, self.bench)

        def taken(value: str | None) -> None:
            if value == choices.EDITOR:
                self.action_schedule()
            elif value is not None:
                self.form.set_value(name, value)

        self.app.push_screen(ChoiceDialog(label(setting), offered, self.form.values[name]), taken)

    def action_schedule(self) -> None:
        """Edit the schedule that the form names, drawn for the form's model."""

        def saved(path: str | None) -> None:
            if path:
                self.form.set_value("compress", path)

        config = self._config if isinstance(self._config, TrainConfig) else None
        if config is None and (model := training_of(self.origin)) is not None:
            config = PruneConfig.model_validate(model.model_dump())
        record = self.origin.record if self.origin else None
        types = record.shape.get("ntoken") if record else None
        if not isinstance(types, int):
            corpus = self.about.corpus_size(config) if config else None
            types = corpus.types if isinstance(corpus, CorpusSize) else 0
        self.bench.open(
            "schedule",
            then=saved,
            source=self.form.values.get("compress", "").strip() or None,
            config=config,
            types=types,
            picking=True,
            lengthened=self._kind == "prune" and "epochs" not in self.given,
        )

    async def action_start(self) -> None:
        """Check everything once more, make the run's folder and have it worked on."""
        if self._background is not None or not self._keeping:
            return
        self._read()
        config = self._config
        if config is None:
            first = next(iter(self._wrong))
            if first in self.form.specs:
                self.form.focus_field(first)
            self.bench.show_message(f"not started: {first.removeprefix('@')}: {self._wrong[first]}")
            return
        task = self._background = BackgroundTask(self.bench)
        self.bench.show_message("starting …")
        parent, session = self.origin, self.bench.session
        assert session is not None
        name = self.form.values["@name"].strip() or None
        origin = parent.run if parent else None
        kind, called = self._kind, name or run_name(self._kind, config)
        make = partial(make_and_launch, session, kind, config, origin, name, self.command)
        self.bench.start_work(self._start(task, make, called))

    async def _start(
        self, task: BackgroundTask, make: Callable[[BackgroundTask], Run], called: str
    ) -> None:
        run = await task.run(make, task, doing="while starting a run")
        self._background = None
        if not isinstance(run, Run):
            self.bench.show_message("not started")
            return
        if self.bench.session == run.session:
            self.bench.select(run.path.name)
        done = "queued" if self.bench.snapshot.current is not None else "started"
        self.bench.show_message(f"{done} {run.id} {printable(called)}")
        if not self.gone:
            self._leave(run.path.name)
        await self.bench.refresh_snapshot()
