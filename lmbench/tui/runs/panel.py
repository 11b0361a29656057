"""The panel of runs: the tree, its filter and sort, marks, and what can be done with a run."""

from __future__ import annotations

from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.widgets import Input, Static

from lmbench.report import numbers
from lmbench.tui.bench.key_bindings import bindings_in_force
from lmbench.tui.bench.run_history import adapted_tests
from lmbench.tui.bench.run_marks import mark_of
from lmbench.tui.bench.run_place import where_of
from lmbench.tui.bench.snapshots import RunView, Snapshot, neighbour, one_line
from lmbench.tui.kit.filter_input import FilterInput
from lmbench.tui.kit.next_steps import RECORDING, next_steps, take_step, why_not_next
from lmbench.tui.kit.panel import Panel, update_static
from lmbench.tui.kit.screen import BenchScreen
from lmbench.tui.runs import actions
from lmbench.tui.runs.keys import KEYS
from lmbench.tui.runs.tree import SORTS, RunTree, difference, spark

__all__ = ["RunsPanel"]

# A panel lower than this has no lines to spare for the detail.
_LOW = 8
# Lines below the list, at most.
_DETAIL_LINES = 5
# Behind why a run is in trouble.
_MORE = " (enter: more)"
# The least and the most cells of the detail's spark line.
_SPARK = (5, 20)
# Cells of a frame's foot that its corners and the words' margins take.
_FRAME_TAKES = 4


class RunsPanel(Panel):
    """All runs of the session; the cursor here decides what the other panels show."""

    TITLE = "Runs"
    HELP = """
Every run of this session, each under its parent, the run that it was made from. A line shows the
run's marker (the same in all plots), number, name, status and best validation perplexity; where
there is room also sparsity, size (≈ the size that it would have packed), the course of its loss and
the change since its parent. Below the list these are shown of the selected run, or why it failed,
and what to do next with it: **P** prune, **Q** quantize, **K** pack, **C** compare with its parent.
The first three open the form, filled so that Ctrl+S starts it.

▶ running, ‖ paused, … queued, ✓ finished, □ stopped, ✗ failed, ? lost (its process is gone). Enter
on a failed or lost run says why, and what to do about it.

Space marks runs: the plots overlay them, generation and comparison set them side by side. **U**
brings a deleted run back until the workbench is left.
"""
    BINDINGS: ClassVar[list[BindingType]] = KEYS
    DEFAULT_CSS = f"""
    RunsPanel {{
        #detail {{ height: auto; max-height: {_DETAIL_LINES}; color: $text-muted; display: none; }}
        #empty {{ color: $text-muted; padding: 1 1 0 1; height: auto; display: none; }}
    }}
    """

    # The run that was selected when the list was last shown.
    _selected = ""

    def compose(self) -> ComposeResult:
        yield FilterInput()
        yield Static(id="empty", markup=False)
        yield RunTree()
        yield Static(id="detail", markup=False)

    def on_mount(self) -> None:
        kept = self.bench.recall("runs", {})
        tree = self.query_one(RunTree)
        sort = str(kept.get("sort"))
        tree.set_reactive(RunTree.sort, sort if sort in SORTS else "tree")
        tree.set_reactive(RunTree.filter, str(kept.get("filter", "")))
        box = self.query_one(FilterInput)
        box.value = tree.filter
        box.set_class(bool(tree.filter), "-shown")

    def take_focus(self) -> None:
        tree = self.query_one(RunTree)
        box = self.query_one(FilterInput)
        box.set_class(bool(box.value), "-shown")
        tree.focus()

    def refresh_view(self) -> None:
        snapshot = self.bench.snapshot
        tree = self.query_one(RunTree)
        tree.show(snapshot)
        self._reveal_selected(tree)
        self._show_why_empty(tree)
        self._show_detail(self.bench.selected_run)
        self._show_state(tree)
        self.refresh_bindings()

    def _reveal_selected(self, tree: RunTree) -> None:
        """The filter goes where it hides a run that was just selected, as one that was started:
        the keys would be about a run that is not in the list."""
        if self.bench.selected_run is None:
            # It is in the next snapshot.
            return
        before, self._selected = self._selected, self.bench.selected
        box = self.query_one(FilterInput)
        if before not in ("", self._selected) and tree.cursor < 0 and not box.has_focus:
            box.value = ""
            box.remove_class("-shown")

    def on_resize(self) -> None:
        self._show_detail(self.bench.selected_run)
        self._show_state(self.query_one(RunTree))

    def _show_why_empty(self, tree: RunTree) -> None:
        snapshot, empty = self.bench.snapshot, self.query_one("#empty", Static)
        text = snapshot.problem or ("" if tree.shown else _nothing_to_show(snapshot))
        empty.display = bool(text)
        update_static(empty, text)

    def _show_state(self, tree: RunTree) -> None:
        notes = []
        snapshot, room = self.bench.snapshot, self.content_size.width - _FRAME_TAKES
        partly = next((view for view in snapshot.runs if view.read < 1), None)
        if partly is not None and snapshot.unread == 1:
            notes.append(f"reading run {partly.id}: {100 * partly.read:.0f}%")
        elif snapshot.unread:
            reading = f"reading {snapshot.count - snapshot.unread} of {snapshot.count}"
            notes.append(whole if len(whole := f"{reading} runs") <= room else reading)
        if tree.sort != "tree":
            notes.append(f"by {SORTS[tree.sort]}")
        if self.bench.marked:
            notes.append(f"{len(self.bench.marked)} marked")
        # No figure is cut: what does not fit whole is left out.
        while len(notes) > 1 and len(" · ".join(notes)) > room:
            notes.pop()
        self.set_subtitle(" · ".join(notes))

    def _show_detail(self, view: RunView | None) -> None:
        """What a narrow line has no room for, of the selected run; or why it failed."""
        detail, width = self.query_one("#detail", Static), self.content_size.width
        text = Text()
        if view is not None and _in_trouble(view):
            text = Text(one_line(view.problem or view.reason or "no reason is known") + _MORE)
            if self.size.height < _LOW:
                text.truncate(width, overflow="ellipsis")
            elif len(lines := text.wrap(self.app.console, width)) > _DETAIL_LINES:
                last = lines[_DETAIL_LINES - 1]
                last.truncate(width - len(_MORE) - 1)
                text = Text("\n").join([*lines[: _DETAIL_LINES - 1], last.append(f"…{_MORE}")])
        elif view is not None and self.size.height >= _LOW:
            colour = self.bench.colour_style(mark_of(view.id).variable)
            text = _detail(view, self.bench.snapshot.run(view.parent or ""), width, colour)
            text.append_text(self._proposals(view, width))
        detail.display = bool(text)
        update_static(detail, text)

    def _proposals(self, view: RunView, width: int) -> Text:
        """The keys of what one would do next with the run, from a new line on."""
        if self.bench.demo:
            return Text()
        style = self.bench.colour_style("footer-key-foreground") + Style(bold=True)
        bindings = {b.action: b for _, b in bindings_in_force(self)}
        text, room = Text(), 0
        for step in next_steps(view, self.bench.snapshot):
            binding = bindings.get(f"next('{step}')")
            if binding is None:
                # The user has given its key to something else.
                continue
            key = self.app.get_key_display(binding)
            entry = Text.assemble((key, style), f" {step}")
            text.append("  " if entry.cell_len + 2 <= room else "\n")
            room = (room - 2 if text.plain.endswith("  ") else width) - entry.cell_len
            text.append_text(entry)
        return text

    # -- filter, sort, marks -------------------------------------------------------------------

    def action_filter(self) -> None:
        self.query_one(FilterInput).open()

    def action_unfilter(self) -> None:
        self.query_one(FilterInput).action_leave(True)

    @on(Input.Changed, "#filter")
    def _filtered(self, event: Input.Changed) -> None:
        event.stop()
        tree = self.query_one(RunTree)
        if tree.filter != event.value:
            tree.filter = event.value
            self._remember(tree)
            self._show_why_empty(tree)
            if tree.shown and tree.cursor < 0:
                self.bench.select(tree.shown[0].key)

    def action_sort(self) -> None:
        tree = self.query_one(RunTree)
        names = list(SORTS)
        tree.sort = names[(names.index(tree.sort) + 1) % len(names)]
        self._remember(tree)
        self._show_state(tree)
        self.bench.show_message(f"runs by {SORTS[tree.sort]}")

    def _remember(self, tree: RunTree) -> None:
        self.bench.remember("runs", {"sort": tree.sort, "filter": tree.filter})

    def action_mark(self) -> None:
        key, marked = self.bench.selected, self.bench.marked
        if key in marked:
            self.bench.mark(tuple(other for other in marked if other != key))
        elif key:
            self.bench.mark((*marked, key))

    def action_unmark(self) -> None:
        self.bench.mark(())

    # -- what can be done with a run -----------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        view = self.bench.selected_run
        match action:
            case "unmark":
                return bool(self.bench.marked)
            case "unfilter":
                return bool(self.query_one(FilterInput).value)
            case "undo_delete":
                return bool(self.bench.deletions.newest)
            case "next":
                possible = parameters[0] in next_steps(view, self.bench.snapshot)
                return possible and not self.bench.demo
            case "rename" | "delete":
                return actions.is_possible(action, view)
            case "mark" | "open" | "copy_command" | "copy_path":
                return view is not None
            case "filter" | "sort":
                return bool(self.bench.snapshot.runs)
        return True

    def why_not(self, action: str, parameters: tuple[object, ...]) -> str:
        """Why `check_action` refuses an action."""
        if action == "unmark":
            return "no run is marked: space marks one"
        if action == "undo_delete":
            return "there is nothing to bring back"
        if not self.bench.snapshot.runs:
            return "there is no run yet: n starts one"
        if action == "next" and self.bench.demo:
            return RECORDING
        if action == "next":
            return why_not_next(str(parameters[0]), self.bench.selected_run)
        return actions.why_not(action, self.bench.selected_run)

    def action_open(self) -> None:
        view = self.bench.selected_run
        if view is not None and actions.is_possible("why", view):
            actions.show_reason(self.bench, view)
        else:
            assert isinstance(self.screen, BenchScreen)
            self.screen.focus_panel(self.screen.query_one("#plots", Panel))

    def action_rename(self) -> None:
        if view := self.bench.selected_run:
            actions.rename(self.bench, view)

    async def action_delete(self) -> None:
        if view := self.bench.selected_run:
            chosen = [self.bench.snapshot.run(key) for key in self.bench.marked]
            among = view.key in self.bench.marked
            views = [v for v in chosen if v is not None] if among else [view]
            views = [v for v in views if actions.is_possible("delete", v)]
            shown = [view.key for view in self.query_one(RunTree).shown]
            then = neighbour(shown, view.key, {view.key for view in views})
            await actions.delete(self.bench, views, then)

    async def action_undo_delete(self) -> None:
        await actions.undo_delete(self.bench)

    async def action_next(self, step: str) -> None:
        if view := self.bench.selected_run:
            await take_step(self.bench, step, view)

    def action_copy_command(self) -> None:
        if view := self.bench.selected_run:
            self.bench.copy_to_clipboard(actions.command_of(view))

    def action_copy_path(self) -> None:
        if view := self.bench.selected_run:
            self.bench.copy_to_clipboard(str(view.run.path))


def _nothing_to_show(snapshot: Snapshot) -> str:
    if snapshot.reading:
        return "Reading the runs …"
    if snapshot.runs:
        return "No run matches the filter."
    return (
        "No run yet.\n\nn starts one: a training, with the settings of the published commands to "
        "choose from."
    )


def _in_trouble(view: RunView) -> bool:
    return view.status in ("failed", "lost") or bool(view.problem)


def _detail(view: RunView, parent: RunView | None, width: int, colour: Style) -> Text:
    """What is known of a run, packed into lines of so many cells; at the end its spark line."""
    change = difference(view, parent)
    tests = adapted_tests(view.record.results) if view.record else []
    parts = [
        view.kind,
        *(tests or ([f"test {numbers.perplexity(view.test_ppl)}"] if view.test_ppl else [])),
        f"{view.part_ppl} of {view.part_tokens:,} tokens only" if view.part_ppl else "",
        numbers.percent(view.total_sparsity or None),
        view.size,
        "" if change is None else f"{change:+.1f} ppl".replace("-0.0 ", "+0.0 "),
        where_of(view),
    ]
    lines = [""]
    for part in filter(None, parts):
        longer = f"{lines[-1]} · {part}" if lines[-1] else part
        if len(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(part)
    text = Text("\n".join(lines))
    least, most = _SPARK
    room = width - len(lines[-1]) - 1
    drawn = spark(view, min(room if room >= least else width, most))
    if drawn:
        text.append(" " if room >= least else "\n")
        text.append(drawn, colour)
    return text
