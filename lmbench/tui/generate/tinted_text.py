"""A text word by word, tinted by surprisal, with a cursor on a word."""

from __future__ import annotations

import textwrap
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from typing import ClassVar, Literal

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.color import Color
from textual.events import Click
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip

from lmbench.corpus.subwords import is_subword, joined
from lmbench.jobs.hosts.sampler_messages import Wrote
from lmbench.tui.bench.bench import Bench
from lmbench.tui.bench.run_marks import Mark
from lmbench.tui.bench.snapshots import one_line
from lmbench.tui.kit.lines_view import keep_line_in_view
from lmbench.tui.kit.search import Searchable, selected

__all__ = ["GeneratedText", "State", "TintedText", "shown_word", "surprisal_style"]

State = Literal["waiting", "opening", "writing", "done", "halted", "failed"]

EOS_SIGN = "¶"
# Bits at which a word is as red as it gets: one of 16,000 equally likely ones.
_REDDEST = 14.0
_DULL = 1.0
# Where there are sixteen colours: bits from which on a word has this one.
_STEPS = ((9.0, "error"), (5.0, "warning"), (_DULL, "foreground"), (0.0, "text-muted"))


@dataclass
class GeneratedText:
    """A text that is being written or was: which run wrote it, and its words so far.

    `id` is what the sampler knows it by; it changes when one branches off.
    """

    id: int
    run_id: int
    key: str
    name: str
    mark: Mark
    origin: str = ""
    """What the model is of, where that needs telling: ``last checkpoint, step 3,660``."""
    figures: str = ""
    """Perplexity and size."""
    created: float = 0.0
    """When its run was made: a later one may have the same key."""
    attempt: int = 0
    """That of its run by which the model was trained: it may go on to another one."""
    cache: int = 0
    """The words that a neural cache looks at while it is written; 0 for no cache."""
    prompt: tuple[str, ...] = ()
    words: list[Wrote] = field(default_factory=list)
    state: State = "waiting"
    problem: str = ""
    opening: int | None = None
    """The index of the word that it begins after, unseen, where there is no prompt."""
    recorded: bool = False
    """Read from the session's samples: nothing is known of its alternatives."""

    @property
    def seconds(self) -> float:
        return self.words[-1].seconds if self.words else 0.0

    @property
    def tokens_per_s(self) -> float | None:
        return len(self.words) / self.seconds if self.seconds > 0 else None

    @property
    def text(self) -> str:
        """The prompt and what was written, as one reads it."""
        prompt, words = " ".join(self.prompt), [word.text for word in self.words]
        return joined(words, prompt) if is_subword(words) else " ".join((*self.prompt, *words))

    @property
    def alive(self) -> bool:
        return self.state in ("waiting", "opening", "writing")

    @property
    def bits(self) -> float | None:
        """The mean surprisal of a word, whole if it was written in pieces."""
        if not self.words:
            return None
        bits, pieces = sum(word.bits for word in self.words), [word.text for word in self.words]
        return bits / max(1, len(joined(pieces).split() if is_subword(pieces) else pieces))


def shown_word(text: str) -> str:
    """A word as it may stand on the screen: vocabularies come from texts of any kind."""
    return EOS_SIGN if text == "<eos>" else one_line(text) or "·"


def surprisal_style(bench: Bench, bits: float) -> Style:
    """From dull (the model was sure) over plain to red (it was most surprised)."""
    names = bench.theme_variables
    foreground = Color.parse(names["foreground"])
    if foreground.ansi is not None:
        variable = next(name for least, name in _STEPS if bits >= least or least == 0)
        return bench.colour_style(variable)
    if bits < _DULL:
        return Style(color=foreground.blend(Color.parse(names["background"]), 0.4).rich_color)
    share = min(bits / _REDDEST, 1.0)
    warm, hot = Color.parse(names["warning"]), Color.parse(names["error"])
    half = foreground.blend(warm, min(2 * share, 1.0))
    return Style(color=half.blend(hot, max(2 * share - 1, 0.0)).rich_color)


@dataclass(frozen=True, slots=True)
class _Placed:
    """A word on its line; `index` counts written words from 0, the prompt's are negative."""

    index: int
    column: int
    text: str


class TintedText(  # pyright: ignore[reportIncompatibleMethodOverride]
    ScrollView, Searchable, can_focus=True
):
    """One draft. Follows the newest word until the cursor is put on one."""

    PART: ClassVar[str] = "text"
    COMPONENT_CLASSES: ClassVar[set[str]] = {"words--cursor", "words--prompt", "words--problem"}
    DEFAULT_CSS = """
    TintedText {
        height: 1fr;
        padding: 0;
        overflow-x: hidden;
        scrollbar-gutter: stable;
        background: transparent;
        .words--cursor {
            background: $block-cursor-background;
            color: $block-cursor-foreground;
            text-style: bold;
        }
        .words--prompt { color: $text-muted; text-style: italic; }
        .words--problem { color: $error; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(-1)", "word", id="words.left", key_display="← →",
                tooltip="To the word before"),
        Binding("right", "move(1)", "next word", id="words.right", show=False,
                tooltip="To the next word"),
        Binding("up,k", "line(-1)", "line up", show=False),
        Binding("down,j", "line(1)", "line down", show=False),
        Binding("pageup", "line(-8)", "page up", show=False),
        Binding("pagedown", "line(8)", "page down", show=False),
        Binding("home", "move(-1000000)", "first word", show=False),
        Binding("end,G", "move(1000000)", "last word", show=False),
        Binding("enter,b", "choose", "alternatives", id="words.choose",
                tooltip="Choose another word here and branch"),
        Binding("escape", "leave", "no cursor", id="words.leave", show=False,
                tooltip="Take the cursor away"),
    ]  # fmt: skip

    class Moved(Message):
        """The cursor is on another word, or on none."""

        def __init__(self, view: TintedText) -> None:
            super().__init__()
            self.view = view

    class Chosen(Message):
        """The word under the cursor is to be replaced."""

    class Left(Message):
        """Upwards, out of the text."""

    def __init__(self) -> None:
        super().__init__()
        self.draft: GeneratedText | None = None
        self.cursor: int | None = None
        self._lines: list[list[_Placed]] = []
        self._laid = 0
        self._width = 0

    @property
    def word(self) -> Wrote | None:
        """The word under the cursor."""
        words = self.draft.words if self.draft else []
        return words[self.cursor] if self.cursor is not None and self.cursor < len(words) else None

    # -- what is shown -------------------------------------------------------------------------

    def show(self, draft: GeneratedText | None) -> None:
        """Show this draft from its beginning."""
        if draft is None and self.draft is None:
            return
        self.draft = draft
        self.cursor = None
        self.lay_out()

    def grow(self) -> None:
        """The draft has got more words; only the lines that they stand on are painted anew."""
        if self.draft is None or not self._width:
            return
        first = max(len(self._lines) - 1, 0)
        for index in range(self._laid, len(self.draft.words)):
            self._place(index, shown_word(self.draft.words[index].text))
        self._laid = len(self.draft.words)
        self._resize()
        self.refresh_lines(first, len(self._lines) - first)
        if self.cursor is None:
            self.scroll_end(animate=False, immediate=True)

    def lay_out(self) -> None:
        """Break the whole text into lines again."""
        self._width = self.scrollable_content_region.width
        self._lines, self._laid = [[]], 0
        if self.draft is not None:
            count = len(self.draft.prompt)
            for place, text in enumerate(self.draft.prompt):
                self._place(place - count, shown_word(text))
            self.grow()
        self._resize()
        self.refresh()

    def _place(self, index: int, text: str) -> None:
        line = self._lines[-1]
        column = line[-1].column + cell_len(line[-1].text) + 1 if line else 0
        if line and column + cell_len(text) > self._width:
            line, column = [], 0
            self._lines.append(line)
        line.append(_Placed(index, column, text))

    def _resize(self) -> None:
        self.virtual_size = Size(self._width, len(self._lines) + len(self._notes()))

    def _notes(self) -> list[str]:
        """What is said under the text, broken into lines."""
        if self.draft is None or not self.draft.problem or self._width < 4:
            return []
        return textwrap.wrap(one_line(self.draft.problem), self._width)

    def on_resize(self) -> None:
        if self._width != self.scrollable_content_region.width:
            self.lay_out()
            self._keep_in_sight()

    # -- the cursor ----------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "choose":
            return self.word is not None and bool(self.word.alternatives)
        if action == "leave":
            return self.cursor is not None
        return super().check_action(action, parameters)

    def why_not(self, action: str, parameters: tuple[object, ...]) -> str:
        """Why `check_action` refuses an action."""
        if action != "choose":
            return ""
        return "no other word is known here" if self.word else "← → go to a word first"

    def put_cursor(self, index: int | None) -> None:
        count = len(self.draft.words) if self.draft else 0
        self.cursor = None if index is None or not count else min(max(index, 0), count - 1)
        self.refresh()
        self.refresh_bindings()
        self._keep_in_sight()
        self.post_message(self.Moved(self))

    def action_move(self, by: int) -> None:
        count = len(self.draft.words) if self.draft else 0
        if self.cursor is None:
            # The first step lands on the newest word, or from the left on the first; Home and End
            # go on from there.
            start = count - 1 if by < 0 else 0
            self.put_cursor(start if abs(by) == 1 else start + by)
        else:
            self.put_cursor(self.cursor + by)

    def action_line(self, by: int) -> None:
        if self.cursor is None:
            if by > 0:
                self.put_cursor(0)
            else:
                self.post_message(self.Left())
            return
        row = next(i for i, line in enumerate(self._lines) for p in line if p.index == self.cursor)
        column = next(p.column for p in self._lines[row] if p.index == self.cursor)
        target = min(row + by, len(self._lines) - 1)
        if by < -1:
            # A page up ends on the first written line; only a step up from there leaves the text.
            first = next(i for i, line in enumerate(self._lines) if line and line[-1].index >= 0)
            target = max(target, first)
        written = [p for p in self._lines[target] if p.index >= 0] if target >= 0 else []
        if not written:
            self.put_cursor(None)
            self.post_message(self.Left())
            return
        self.put_cursor(min(written, key=lambda p: abs(p.column - column)).index)

    def action_choose(self) -> None:
        self.post_message(self.Chosen())

    def action_leave(self) -> None:
        self.put_cursor(None)

    def on_click(self, event: Click) -> None:
        row = event.y + int(self.scroll_offset.y)
        if 0 <= row < len(self._lines):
            for placed in self._lines[row]:
                inside = placed.column <= event.x < placed.column + cell_len(placed.text)
                if placed.index >= 0 and inside:
                    self.put_cursor(placed.index)

    def _keep_in_sight(self) -> None:
        for row, line in enumerate(self._lines):
            if self.cursor is not None and any(p.index == self.cursor for p in line):
                keep_line_in_view(self, row)

    # -- search and selection ------------------------------------------------------------------

    @property
    def searched(self) -> str:
        texts = [text for text in self.screen.query(TintedText) if text.draft]
        if self.draft is None or len(texts) < 2:
            return super().searched
        return f"in the text of {self.draft.run_id} {self.draft.name} (] goes to the next text)"

    def places(self, text: str) -> list[int]:
        words = [shown_word(word.text).lower() for word in self.draft.words] if self.draft else []
        starts = list(accumulate((len(word) + 1 for word in words), initial=0))
        joined, found, at = " ".join(words), [], -1
        while (at := joined.find(text, at + 1)) >= 0:
            found.append(bisect_right(starts, at) - 1)
        return list(dict.fromkeys(found))

    @property
    def place(self) -> int:
        return self.cursor or 0

    def go_to(self, place: int) -> None:
        self.put_cursor(place)

    def get_selection(self, selection: Selection) -> tuple[str, str]:
        lines = (" ".join(placed.text for placed in line) for line in self._lines)
        return selection.extract("\n".join(lines)), "\n"

    # -- drawing -------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        base = self.visual_style.rich_style
        row = y + int(self.scroll_offset.y)
        notes = row - len(self._lines)
        if row < len(self._lines):
            segments = self._segments(self._lines[row], base)
        elif notes < len(self._notes()):
            style = self.get_component_rich_style("words--problem")
            segments = [Segment(self._notes()[notes], style)]
        else:
            segments = []
        return selected(self, Strip(segments).adjust_cell_length(width, base), row)

    def _segments(self, line: list[_Placed], base: Style) -> list[Segment]:
        segments: list[Segment] = []
        for placed in line:
            if segments:
                segments.append(Segment(" ", base))
            # A word that is longer than the line is cut.
            room = max(self._width - placed.column, 0)
            text = placed.text
            text = set_cell_size(text, room) if cell_len(text) > room else text
            segments.append(Segment(text, self._style(placed.index, base)))
        return segments

    def _style(self, index: int, base: Style) -> Style:
        if index < 0 or self.draft is None:
            return self.get_component_rich_style("words--prompt")
        if index == self.cursor:
            return self.get_component_rich_style("words--cursor")
        if self.draft.recorded:
            return base
        return base + surprisal_style(self.bench, self.draft.words[index].bits)
