"""The schedule editor: YAML on the left, the sparsity that it will produce on the right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.timer import Timer
from textual.widgets import Static

from lmbench.config import TrainConfig
from lmbench.distiller.errors import ScheduleError
from lmbench.distiller.presets import find_schedule, preset_names, preset_path
from lmbench.errors import LmbenchError
from lmbench.report.draw import Look, draw
from lmbench.report.plots import Plot
from lmbench.report.tables import plain
from lmbench.session.files import write_atomic
from lmbench.tui import choices, figures
from lmbench.tui.schedule_check import Checked, check_text, curves
from lmbench.tui.screens.base import BenchScreen
from lmbench.tui.widgets.dialog import AskText
from lmbench.tui.widgets.panel import Guarded
from lmbench.tui.widgets.pick import Pick
from lmbench.tui.widgets.status import KeyBar, TopBar
from lmbench.tui.widgets.yaml_editor import YamlEditor

__all__ = ["ScheduleScreen"]

_FIRST = "small-80"
_DEFAULT_TYPES = 33_278
_SETTLE_S = 0.12
_MAX_DRAFT = 64 * 1024
_FILE = "a file …"
_COLOURS = 8


class _Curves(Guarded):
    """The plan of a schedule, drawn; what is wrong with it stands under the editor."""

    DEFAULT_CSS = """
    _Curves { width: 1fr; height: 1fr; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.checked = Checked(())

    def show(self, checked: Checked) -> None:
        self.checked = checked
        self.refresh()

    def render(self) -> Text:
        plan = self.checked.plan
        if plan is None:
            return Text("The curves come back when the schedule is in order.", "dim")
        bench = self.bench
        width, height = self.content_size
        series = curves(plan, [bench.colour(f"series-{n}") for n in range(1, _COLOURS + 1)])
        legend = Text()
        for one, number in zip(series, range(1, _COLOURS + 1), strict=False):
            last = figures.percent(float(one.y[-1])).rjust(6)
            legend.append(f"\n{one.marker} ", bench.colour_style(f"series-{number}"))
            legend.append(f"{last}  {_shortened(one.label, width - 10)}")
        told = _outcome(self.checked)
        told.append_text(legend)
        lines = told.wrap(bench.console, max(width, 1))
        rows = height - len(lines)
        look = Look(axes=bench.colour("faint"), faint=bench.colour("faint"))
        picture = draw(Plot(series, x_axis="epoch", unit="share"), width, rows, look)
        return Text("\n").join([*picture.lines, *lines]) if rows > 0 else told


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def _outcome(checked: Checked) -> Text:
    plan = checked.plan
    assert plan is not None
    if plan.final_sparsity is None:
        return Text("thresholds decide, so the total depends on the weights", "bold")
    about = "about " if plan.estimated else ""
    return Text.assemble(
        (f"{about}{100 * plan.final_sparsity:.1f}% zero", "bold"),
        f" after {plan.epochs} epochs: {plan.final_nonzero:,} of {plan.total:,} stay",
    )


class ScheduleScreen(BenchScreen[str]):
    """Gives the path of what was saved, from the working folder, or None."""

    HELP = """
On the left the schedule, in YAML; on the right, as you type, the share of weights that it will
take away by the end of each epoch. Mistakes stand below with their lines, and **Ctrl+G** goes from
one to the next. **Ctrl+O** starts from a preset, a schedule of this session, or a file. **Ctrl+S**
saves: a name keeps it in the session, a path puts it anywhere. **Ctrl+R** saves and prunes with
it. What you type is kept as a draft until it is saved, also when you leave.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "save", "save", id="schedule.save", tooltip="Save the schedule"),
        Binding(
            "ctrl+o",
            "begin",
            "start from",
            id="schedule.open",
            tooltip="Start from a preset, a schedule of this session, or a file",
        ),
        Binding(
            "ctrl+g",
            "problem",
            "next mistake",
            id="schedule.problem",
            tooltip="Go to the next mistake",
        ),
        Binding(
            "ctrl+r",
            "prune",
            "prune with it",
            id="schedule.prune",
            tooltip="Save the schedule and prune with it",
        ),
        Binding("escape", "leave", "back", id="schedule.back", tooltip="Back; the draft is kept"),
    ]
    DEFAULT_CSS = """
    ScheduleScreen #sheet { height: 1fr; }
    ScheduleScreen #text { width: 11fr; border: heavy $accent; border-title-color: $accent;
        border-title-style: bold; border-subtitle-color: $text-muted; }
    ScheduleScreen #curves { width: 9fr; border: round $border-blurred;
        border-title-color: $text-muted; }
    ScheduleScreen #verdict { height: auto; min-height: 1; max-height: 5; padding: 0 1; }
    """

    def __init__(
        self,
        source: str | None = None,
        config: TrainConfig | None = None,
        types: int = 0,
        *,
        picking: bool = False,
    ) -> None:
        """`source` is a path or a preset, None for the draft; the curves are for the model of
        `config` over `types` words; `picking` says that a form waits for what is saved."""
        super().__init__()
        self._source = source
        self._config = config
        self._types = types or _DEFAULT_TYPES
        self._picking = picking
        self._path = ""
        self._saved: str | None = None
        self._checked = Checked(())
        self._settling: Timer | None = None

    def compose(self) -> ComposeResult:
        yield TopBar()
        with Horizontal(id="sheet"):
            with Vertical(id="text"):
                yield YamlEditor()
            with Vertical(id="curves") as box:
                box.border_title = "Sparsity by epoch"
                yield _Curves()
        yield Static(id="verdict", markup=False)
        yield KeyBar()

    def on_mount(self) -> None:
        if self._config is None:
            self._config, self._types = self._of_selected()
        draft = self.bench.recall("schedule")
        if self._source:
            self._load(self._source)
        elif isinstance(draft, dict) and isinstance(draft.get("text"), str):
            self._path = str(draft.get("path", ""))
            self._put(draft["text"], saved=False)
        else:
            self._load(_FIRST)
        self.editor.focus()

    def _of_selected(self) -> tuple[TrainConfig, int]:
        """The model of the selected run; without one, the small tied model of WikiText-2."""
        view = self.bench.selected_run
        if view is not None and view.record is not None:
            try:
                config = view.run.config()
            except LmbenchError:
                config = None
            types = view.record.shape.get("ntoken")
            if isinstance(config, TrainConfig):
                return config, types if isinstance(types, int) else _DEFAULT_TYPES
        return TrainConfig(tied=True, epochs=6), self._types

    @property
    def editor(self) -> YamlEditor:
        return self.query_one(YamlEditor)

    # -- text ----------------------------------------------------------------------------------

    def _load(self, source: str) -> None:
        """Put the text of a preset or of a file into the editor."""
        beside = self.bench.home.path / source
        try:
            path = beside if beside.is_file() else find_schedule(Path(source).expanduser())
            text = path.read_text(encoding="utf-8")
        except (ScheduleError, OSError, UnicodeDecodeError) as error:
            self.bench.complain(LmbenchError(f"{source}: {error}"))
            text = self.editor.text or preset_path(_FIRST).read_text(encoding="utf-8")
            source = _FIRST
        self._path = "" if source in preset_names() else source
        self._put(text, saved=True)

    def _put(self, text: str, *, saved: bool) -> None:
        self.editor.load_text(text)
        self._saved = text if saved else None
        self._check()

    def on_text_area_changed(self) -> None:
        if self._settling is not None:
            self._settling.stop()
        self._settling = self.set_timer(_SETTLE_S, self._check)

    def _check(self) -> None:
        text = self.editor.text
        assert self._config is not None
        self._checked = check_text(text, self._config, self._types)
        problems = self._checked.problems
        self.editor.mark_problems(p.line for p in problems if p.line is not None)
        self.query_one(_Curves).show(self._checked)
        self.query_one("#verdict", Static).update(self._verdict())
        box = self.query_one("#text")
        changed = " *" if text != self._saved and self._path else ""
        box.border_title = f"Schedule {plain(Path(self._path).name) or 'not saved yet'}{changed}"
        box.border_subtitle = self._for()
        if text != self._saved and len(text) <= _MAX_DRAFT:
            self.bench.remember("schedule", {"text": text, "path": self._path})
        self.refresh_bindings()

    def _for(self) -> str:
        config = self._config
        assert config is not None
        tied = " tied" if config.tied else ""
        return f"for {config.model} {config.nlayers}x{config.nhid}{tied}, {config.epochs} epochs"

    def _verdict(self) -> Text:
        checked = self._checked
        if checked.problems:
            style = self.bench.colour_style("error")
            return Text("\n").join(Text(f"✗ {plain(p.words)}", style) for p in checked.problems)
        text = Text("✓ in order", self.bench.colour_style("success"))
        for warning in checked.warnings:
            text.append(f"\n! {plain(warning)}", self.bench.colour_style("warning"))
        return text

    # -- keys ----------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "problem":
            return any(p.line is not None for p in self._checked.problems)
        if action == "prune":
            return not self._checked.problems and not self._picking
        return True

    def action_problem(self) -> None:
        """The next line with a mistake after the cursor, round and round."""
        lines = sorted({p.line for p in self._checked.problems if p.line is not None})
        here = self.editor.cursor_location[0]
        line = next((number for number in lines if number > here), lines[0])
        text = self.editor.document.get_line(line)
        self.editor.move_cursor((line, len(text) - len(text.lstrip())), center=True)
        self.editor.focus()

    def action_begin(self) -> None:
        own = choices.own_schedules(self.bench.session) if self.bench.session else []
        offered = [*own, *choices.schedules(), (_FILE, "by its path")]

        def taken(value: str | None) -> None:
            if value == _FILE:
                question = "Which file? A path, from the working folder or from its root:"
                self.app.push_screen(AskText("Open a schedule", question, ""), named)
            elif value:
                self._load(value)

        def named(path: str | None) -> None:
            if path:
                self._load(path)

        self.app.push_screen(Pick("Start from", offered), taken)

    def action_save(self) -> None:
        self._check()
        self._save(then=self._after_saving)

    def _after_saving(self, path: str) -> None:
        if self._picking:
            self.dismiss(path)

    def action_prune(self) -> None:
        def prune(path: str) -> None:
            self.dismiss(path)
            self.bench.open("new_run", kind="prune", settings={"compress": path})

        self._check()
        if self._checked.problems:
            self.bench.say("a schedule with mistakes cannot be pruned with")
        elif self._path and self.editor.text == self._saved:
            prune(self._path)
        else:
            self._save(then=prune)

    def _save(self, then: Callable[[str], None]) -> None:
        question = "A name keeps it in this session; a path (with a /) puts it anywhere:"

        def named(answer: str | None) -> None:
            if not answer:
                return
            path = self._target(answer)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, self.editor.text.encode())
            except OSError as error:
                self.bench.complain(LmbenchError(f"{path}: cannot be written ({error.strerror})"))
                return
            home = self.bench.home.path
            self._path = str(path.relative_to(home) if path.is_relative_to(home) else path)
            self._saved = self.editor.text
            self.bench.remember("schedule", None)
            self.bench.say(f"saved {self._path}")
            self._check()
            then(self._path)

        name = Path(self._path).stem if "schedules/" in self._path else self._path
        self.app.push_screen(AskText("Save the schedule", question, name, _check_name), named)

    def _target(self, answer: str) -> Path:
        """The file that an answer means: in the session's folder, or where its path leads."""
        name = answer if answer.endswith((".yaml", ".yml")) else f"{answer}.yaml"
        if "/" in answer:
            path = Path(name).expanduser()
            return path if path.is_absolute() else self.bench.home.path / path
        session = self.bench.session or self.bench.home.open_session()
        return choices.schedule_folder(session) / name

    def action_leave(self) -> None:
        # The last keys may not have been judged yet, and the draft is kept by judging.
        self._check()
        if self.editor.text != self._saved:
            self.bench.say("the schedule's draft is kept")
        self.dismiss(self._path if self._picking and self.editor.text == self._saved else None)


def _check_name(name: str) -> str:
    if not name:
        return "It needs a name."
    plain_name = all(c.isalnum() or c in "._- " for c in name) and name[0].isalnum()
    if "/" in name or plain_name:
        return ""
    return "A name has letters, digits, '.', '_' and '-', and begins with a letter or digit."
