"""The schedule editor: YAML on the left, the sparsity that it will produce on the right."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.events import Resize
from textual.widgets import Static

from lmbench.config import TrainConfig
from lmbench.distiller.errors import ScheduleError
from lmbench.distiller.schedules.preset_files import preset_names
from lmbench.errors import LmbenchError
from lmbench.jobs.input_files import name_of_file, schedule_file
from lmbench.printable import printable
from lmbench.session.files import write_atomic
from lmbench.tui.bench.float_model_run import is_training, with_trainings
from lmbench.tui.kit import choices
from lmbench.tui.kit.choice_dialog import ChoiceDialog
from lmbench.tui.kit.dialog import Answer, QuestionDialog, TextDialog, ask_to_replace, typed_path
from lmbench.tui.kit.next_steps import GRADUAL, schedule_for
from lmbench.tui.kit.screen import BenchScreen
from lmbench.tui.kit.status_lines import KeyBar, TopBar
from lmbench.tui.schedule.check import Checked, check_text
from lmbench.tui.schedule.curves import ScheduleCurves
from lmbench.tui.schedule.unsaved import (
    LONGEST,
    drafts,
    drop_draft,
    keep_draft,
    mark_of,
    origin_of,
)
from lmbench.tui.schedule.yaml_editor import YamlEditor

__all__ = ["ScheduleScreen"]

_FIRST = "small-80"
_DEFAULT_TYPES = 33_278
_SETTLE_S = 0.12
_FILE = "a file …"
_VERDICT_ROWS = 5
_NOT_WITH_MISTAKES = "a schedule with mistakes cannot be pruned with"


class ScheduleScreen(BenchScreen[str]):
    """Gives the path of what was saved, from the working folder, or None."""

    HELP = """
On the left the schedule, in YAML; on the right, as you type, the share of weights that it will
take away by the end of each epoch. Mistakes stand below with their lines, and **Ctrl+G** goes from
one to the next. **Ctrl+O** starts from a preset, a schedule of this session, or a file. **Ctrl+S**
saves: a name keeps it in the session, a path puts it anywhere. **Ctrl+R** saves and prunes with
it. What you type is kept as a draft of what you began from until it is saved, also when you leave;
opened again, the draft is back. The last eight drafts are kept.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "save", "save", id="schedule.save", tooltip="Save the schedule"),
        Binding("ctrl+o", "begin", "start from", id="schedule.open",
                tooltip="Start from a preset, a schedule of this session, or a file"),
        Binding("ctrl+g", "problem", "next mistake", id="schedule.problem",
                tooltip="Go to the next mistake"),
        Binding("ctrl+r", "prune", "prune with it", id="schedule.prune",
                tooltip="Save the schedule and prune with it"),
        Binding("escape", "leave", "back", id="schedule.back", tooltip="Back; the draft is kept"),
    ]  # fmt: skip
    DEFAULT_CSS = """
    ScheduleScreen #sheet { height: 1fr; }
    ScheduleScreen #text { width: 11fr; border: heavy $accent; border-title-color: $accent;
        border-title-style: bold; border-subtitle-color: $text-muted; }
    ScheduleScreen #curves { width: 9fr; border: round $border-blurred;
        border-title-color: $text-muted; }
    ScheduleScreen #verdict { height: auto; min-height: 1; max-height: %d; padding: 0 1; }
    """.replace("%d", str(_VERDICT_ROWS))

    def __init__(
        self,
        source: str | None = None,
        config: TrainConfig | None = None,
        types: int = 0,
        *,
        picking: bool = False,
        lengthened: bool = True,
    ) -> None:
        """`source` is a path or a preset, None for the newest draft; the curves are for the model
        of `config` over `types` words; `picking` says that a form waits for what is saved,
        `lengthened` that a training has no fewer epochs than its schedule needs."""
        super().__init__()
        self._source = source or ""
        self._config = config
        self._types = types or _DEFAULT_TYPES
        self._picking = picking
        self._lengthened = lengthened
        # Where it was opened from or saved to, as the form writes it and as a file.
        self._path = ""
        self._file: Path | None = None
        # The text on the disk; None where there is none.
        self._saved: str | None = None
        # The mark of the text that the editor's began from.
        self._origin: int | None = None
        self._returned: str | None = None
        self._checked = Checked(())

    def compose(self) -> ComposeResult:
        yield TopBar()
        with Horizontal(id="sheet"):
            with Vertical(id="text"):
                yield YamlEditor()
            with Vertical(id="curves") as box:
                box.border_title = "Sparsity by epoch"
                yield ScheduleCurves()
        yield Static(id="verdict", markup=False)
        yield KeyBar()

    def on_mount(self) -> None:
        if self._config is None:
            self._config, self._types = self._of_selected()
        wanted = self._source or next(reversed(drafts(self.bench)), "")
        if not wanted or not self._load(wanted):
            self._load_first()
        self.editor.focus()

    def _load_first(self) -> None:
        """Begin with a preset, or, where that does not fit the model, with one made for it."""
        self._load(_FIRST)
        if self._checked.problems:
            self._load(GRADUAL)

    def on_resize(self, event: Resize) -> None:
        self.query_one("#verdict", Static).update(self._verdict())

    def _of_selected(self) -> tuple[TrainConfig, int]:
        """The model of the selected run; without one, the small tied model of WikiText-2."""
        selected = self.bench.selected_run
        # What is no training has the model of the one that it came from.
        found = with_trainings(self.bench.snapshot.by_key, [selected] if selected else [])
        view = next(filter(is_training, found), None)
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

    def _load(self, source: str, *, anew: bool = False) -> bool:
        """Put a preset or a file into the editor, or the draft that was begun from it unless it is
        to be `anew`. False where it cannot be read: then everything stays as it is."""
        draft = None if anew else drafts(self.bench).get(source)
        path = text = None
        try:
            if source == GRADUAL:
                assert self._config is not None
                text = schedule_for(self._config)
            else:
                # The file that a run takes by this name.
                path = schedule_file(source, self.bench.home)
                text = path.read_text(encoding="utf-8")
        except (LmbenchError, ScheduleError, OSError, UnicodeDecodeError) as error:
            if draft is None:
                self.bench.show_error(LmbenchError(f"{source}: {error}"))
                return False
        preset = source in (GRADUAL, *preset_names())
        self._source, self._path = source, "" if preset else source
        self._file = None if preset or path is None else path.resolve()
        self._saved = text
        known = origin_of(self.bench, source) if draft is not None else None
        self._origin = known if known is not None or text is None else mark_of(text)
        self._returned = draft if draft != text else None
        self.editor.load_text(draft if draft is not None else text or "")
        self._check()
        return True

    def on_text_area_changed(self) -> None:
        self.settle(_SETTLE_S, self._check)

    def _check(self) -> None:
        text = self.editor.text
        assert self._config is not None
        self._checked = check_text(text, self._config, self._types, lengthened=self._lengthened)
        problems = self._checked.problems
        self.editor.mark_problems(p.line for p in problems if p.line is not None)
        self.query_one(ScheduleCurves).show(self._checked)
        self.query_one("#verdict", Static).update(self._verdict())
        box = self.query_one("#text")
        changed = " *" if text != self._saved and self._path else ""
        # A file's name is no markup.
        box.border_title = Content(
            f"Schedule {printable(Path(self._path).name) or 'not saved yet'}{changed}"
        )
        box.border_subtitle = self._for()
        if text == self._saved:
            drop_draft(self.bench, self._source)
        elif len(text) <= LONGEST:
            keep_draft(self.bench, self._source, text, self._origin)
        self.refresh_bindings()

    def _for(self) -> str:
        config = self._config
        assert config is not None
        return f"for {config.title}, {self._types:,} words"

    def _verdict(self) -> Text:
        checked = self._checked
        text, room = Text(), _VERDICT_ROWS
        if self._returned is not None and self.editor.text == self._returned:
            words = f"The draft of {printable(self._source)} is back; Ctrl+O can start anew.\n"
            text.append(words, self.bench.colour_style("accent"))
            room -= 1
        if checked.problems:
            style = self.bench.colour_style("error")
            found = [f"✗ {printable(p.words)}" for p in checked.problems]
            if len(found) > room:
                found[room - 1 :] = [f"✗ {len(found) - room + 1} more: Ctrl+G goes through them"]
            lines = self._in_rows([Text(words, style) for words in found], room)
            return text + Text("\n").join(lines)
        text.append("✓ in order", self.bench.colour_style("success"))
        for warning in checked.plan.notes if checked.plan else ():
            text.append(f"\n! {printable(warning)}", self.bench.colour_style("warning"))
        return text

    def _in_rows(self, texts: list[Text], rows: int) -> list[Text]:
        """Whole where there are rows for all, else each with as many as another."""
        width = max(self.size.width - 2, 1)
        wrapped = [list(text.wrap(self.bench.console, width)) for text in texts]
        most = rows if sum(map(len, wrapped)) <= rows else rows // len(texts)
        for lines in (lines for lines in wrapped if len(lines) > most):
            lines[most - 1 :] = [Text(" ").join(lines[most - 1 :])]
            lines[-1].truncate(width, overflow="ellipsis")
        return [line for lines in wrapped for line in lines]

    # -- keys ----------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "problem":
            return any(p.line is not None for p in self._checked.problems)
        if action == "prune":
            return not self._checked.problems and not self._picking
        return True

    def why_not(self, action: str, parameters: tuple[object, ...]) -> str:
        """Why `check_action` refuses an action."""
        if action == "problem":
            return "no line has a mistake"
        return "the form waits for it: save it" if self._picking else _NOT_WITH_MISTAKES

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
        made = (GRADUAL, "made for this model: each matrix to 80%, step by step")
        offered = [*own, made, *choices.schedules(), (_FILE, "by its path")]

        def taken(value: str | None) -> None:
            if value == _FILE:
                question = "Which file? A path, from the working folder or from its root:"
                self.app.push_screen(TextDialog("Open a schedule", question, ""), named)
            elif value:
                self._begin_from(value)

        def named(path: str | None) -> None:
            if path:
                self._begin_from(path)

        self.app.push_screen(ChoiceDialog("Start from", offered), taken)

    def _begin_from(self, source: str) -> None:
        """Open it; where it has a draft, ask which of the two."""
        # The last keys may not have been judged yet, and the draft is kept by judging.
        self._check()
        if self._is_too_long:
            self._ask_to_lose(lambda: self._open(source))
        else:
            self._open(source)

    def _open(self, source: str) -> None:
        if source not in drafts(self.bench):
            self._load(source)
            return

        def answered(answer: str | None) -> None:
            if answer:
                self._load(source, anew=answer == "anew")

        question = f"There is a draft of {source} that was not saved."
        answers = (
            Answer("draft", "d", "go on with it"),
            Answer("anew", "a", "start anew, without it", danger=True),
            Answer("", "escape", "stay"),
        )
        self.app.push_screen(QuestionDialog("Start from", question, answers), answered)

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
            self.bench.show_message(_NOT_WITH_MISTAKES)
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
            if self._would_lose(path):
                ask_to_replace(self.app, "Save the schedule", path, lambda: written(path))
            else:
                written(path)

        def written(path: Path) -> None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, self.editor.text.encode())
            except OSError as error:
                self.bench.show_error(LmbenchError(f"{path}: cannot be written ({error.strerror})"))
                return
            drop_draft(self.bench, self._source)
            self._path = name_of_file(path, self.bench.home)
            self._source, self._file = self._path, path.resolve()
            self._saved = self.editor.text
            self._origin = mark_of(self._saved)
            self.bench.show_message(f"saved {self._path}")
            self._check()
            then(self._path)

        name = self._proposed_name()
        self.app.push_screen(TextDialog("Save the schedule", question, name, _check_name), named)

    def _would_lose(self, path: Path) -> bool:
        """Is there another file, or something else in this one than the text began from?"""
        try:
            if not os.path.lexists(path):
                return False
            if path.resolve() != self._file:
                return True
            return mark_of(path.read_text(encoding="utf-8")) != self._origin
        except UnicodeDecodeError:
            return True
        except OSError:
            # Writing says why.
            return False

    def _proposed_name(self) -> str:
        """What leads to the file that was opened or saved before."""
        file, session = self._file, self.bench.session
        if file is None:
            return self._path
        if session is not None and file.parent == choices.schedule_folder(session).resolve():
            return file.name
        if (self.bench.home.path / self._path).resolve() != file:
            return str(file)
        # Without a / it would be one of the session's.
        return self._path if "/" in self._path else f"./{self._path}"

    def _target(self, answer: str) -> Path:
        """The file that an answer means: in the session's folder, or where its path leads."""
        name = answer if answer.endswith((".yaml", ".yml")) else f"{answer}.yaml"
        if "/" in answer:
            path = typed_path(name)
            return path if path.is_absolute() else self.bench.home.path / path
        session = self.bench.session or self.bench.home.open_session()
        return choices.schedule_folder(session) / name

    def action_leave(self) -> None:
        # The last keys may not have been judged yet, and the draft is kept by judging.
        self._check()
        text = self.editor.text
        if self._is_too_long:
            self._ask_to_lose(lambda: self.dismiss(None))
            return
        if text != self._saved:
            self.bench.show_message("the schedule's draft is kept")
        self.dismiss(None)

    @property
    def _is_too_long(self) -> bool:
        """Is there something unsaved that no draft keeps?"""
        return self.editor.text != self._saved and len(self.editor.text) > LONGEST

    def _ask_to_lose(self, leave: Callable[[], object]) -> None:
        def answered(answer: str | None) -> None:
            if answer == "leave":
                leave()

        question = f"Longer than {LONGEST:,} characters, it is not kept as a draft."
        answers = (Answer("leave", "l", "leave it", danger=True), Answer("", "escape", "stay"))
        self.app.push_screen(QuestionDialog("Not saved", question, answers), answered)


def _check_name(name: str) -> str:
    if not name:
        return "It needs a name."
    if name.endswith("/"):
        return "This is a folder."
    plain_name = all(c.isalnum() or c in "._- " for c in name) and name[0].isalnum()
    if "/" in name or plain_name:
        return ""
    return "A name has letters, digits, '.', '_' and '-', and begins with a letter or digit."
