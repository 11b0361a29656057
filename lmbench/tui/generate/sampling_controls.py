"""The sampling settings in a line or two, each changed by typing a value or by + and −."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from rich.text import Text
from textual.app import RenderResult
from textual.binding import Binding, BindingType
from textual.events import Click, Key
from textual.geometry import Size
from textual.message import Message

from lmbench.config import WORKBENCH_GENERATION, GenerateConfig, validate
from lmbench.errors import LmbenchError
from lmbench.tui.kit.panel import GuardedWidget

__all__ = ["ALTERNATIVES", "SETTINGS", "SamplingControls"]

ALTERNATIVES = 24
"""So many likely words are kept for each word."""

MOST_WORDS = 2000
# As many as the largest seed has.
_MOST_DIGITS = 19

_CACHES: dict[Any, tuple[int, ...]] = {0: (0,), 500: (500,), "both": (0, 500)}
"""By the value of the setting `cache`, the cache of each text that a run writes."""


@dataclass(frozen=True)
class SamplingSetting:
    """A setting of `GenerateConfig`: its short label, and what one step of + changes it by."""

    name: str
    label: str
    step: float = 0.0
    bounds: str = ""
    """What a number can be, in words."""
    values: tuple[Any, ...] = ()
    """What it turns through, where it is not a number."""
    words: tuple[str, ...] = ()
    """How those values read, where not as they are."""

    @property
    def default(self) -> Any:
        return getattr(WORKBENCH_GENERATION, self.name)


SETTINGS = (
    SamplingSetting("temperature", "temp", 0.1, "0 to 1,000"),
    SamplingSetting("top_k", "top-k", 10, "0 (all) or more"),
    SamplingSetting("top_p", "top-p", 0.05, "above 0 to 1"),
    SamplingSetting("seed", "seed", 1, "0 to below 2^63"),
    SamplingSetting("words", "words", 10, f"1 to {MOST_WORDS:,}"),
    SamplingSetting("no_unk", "unk", values=(False, True), words=("on", "off")),
    SamplingSetting("cache", "cache", values=tuple(_CACHES), words=("off", "on", "both")),
    SamplingSetting("runtime", "", values=("as-is", "auto", "torch")),
)
_BY_NAME = {dial.name: dial for dial in SETTINGS}


class SamplingControls(GuardedWidget, can_focus=True):
    """Holds the settings; Enter in it means: write."""

    PART: ClassVar[str] = "settings"
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "dials--cursor",
        "dials--typed",
        "dials--wrong",
    }
    DEFAULT_CSS = """
    SamplingControls {
        height: auto;
        width: 1fr;
        .dials--cursor {
            background: $block-cursor-background;
            color: $block-cursor-foreground;
            text-style: bold;
        }
        .dials--typed { text-style: bold reverse; }
        .dials--wrong { color: $error; text-style: bold underline; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(-1)", "setting", id="dials.left", key_display="← →",
                tooltip="The setting before"),
        Binding("right", "move(1)", "next setting", id="dials.right", show=False,
                tooltip="The next setting"),
        Binding("plus,equals_sign", "turn(1)", "change", id="dials.more", key_display="+ − 0-9",
                tooltip="More of this setting"),
        Binding("minus", "turn(-1)", "less", id="dials.less", show=False,
                tooltip="Less of this setting"),
        Binding("space", "turn(1)", "turn", id="dials.turn", show=False,
                tooltip="The next choice of this setting"),
        Binding("up,k", "leave(-1)", "to the prompt", id="dials.up", show=False,
                tooltip="To the prompt"),
        Binding("down,j", "leave(1)", "to the text", id="dials.down", show=False,
                tooltip="To the text"),
        Binding("enter", "go", "write", id="dials.go", tooltip="Write with these settings"),
        Binding("escape", "undo", "undo", id="dials.undo", show=False,
                tooltip="Take back what is typed"),
    ]  # fmt: skip

    class Changed(Message):
        """A setting has another value."""

    class Go(Message):
        """Enter was pressed, and all settings are good."""

    class Left(Message):
        """Upwards (-1) or downwards (1), out of the settings."""

        def __init__(self, direction: int) -> None:
            super().__init__()
            self.direction = direction

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Any] = {dial.name: dial.default for dial in SETTINGS}
        self._at = 0
        self._typed = ""
        self._wrong = False
        self._offered: tuple[str, ...] = ()
        self._known: frozenset[str] = frozenset()

    def offer(self, runtimes: Sequence[str]) -> None:
        """Have the dial turn through these runtimes, too."""
        self._offered = tuple(runtimes)

    @property
    def dial(self) -> SamplingSetting:
        return SETTINGS[self._at]

    @property
    def caches(self) -> tuple[int, ...]:
        """The cache of each text that a run writes, in words: of two texts where it is `both`."""
        return _CACHES[self.values["cache"]]

    def recall(self, kept: Any, runtimes: Iterable[str] = ()) -> None:
        """Take over what was remembered; what does not fit is left as it is. `runtimes` are those
        that were offered for any run."""
        self._known = frozenset(runtimes)
        for name, value in kept.items() if isinstance(kept, dict) else ():
            if name in _BY_NAME and not self._problem(name, value):
                self.values[name] = value
        self.refresh(layout=True)

    def set(self, name: str, value: Any) -> bool:
        """Give a setting a value; says what is wrong with it, should anything be."""
        problem = self._problem(name, value)
        if problem:
            self.bench.show_message(problem, keep=False)
            return False
        if self.values[name] != value:
            self.values[name] = value
            self.post_message(self.Changed())
        self.refresh(layout=True)
        return True

    def _problem(self, name: str, value: Any) -> str:
        dial = _BY_NAME[name]
        outside = f"{dial.label}: {dial.bounds}"
        if name == "words" and isinstance(value, int) and value > MOST_WORDS:
            return outside
        choices = self._choices(dial)
        known = [*choices, *(self._known if name == "runtime" else ())]
        if choices and value not in known:
            return f"{name}: use one of {', '.join(dial.words or map(str, choices))}"
        try:
            settings = {**self.values, name: value}
            validate(GenerateConfig, settings | {"cache": _CACHES[settings["cache"]][-1]})
        except LmbenchError:
            return outside
        return ""

    def _choices(self, dial: SamplingSetting) -> tuple[Any, ...]:
        """What a dial without numbers turns through."""
        if dial.name != "runtime":
            return dial.values
        # What was chosen for another run stays until it is turned.
        return tuple(dict.fromkeys((*dial.values, *self._offered, self.values["runtime"])))

    # -- changing ------------------------------------------------------------------------------

    def on_key(self, event: Key) -> None:
        """Digits and a point are a new value."""
        character = event.character or ""
        if self.dial.values:
            return
        if character.isdecimal() or (character == "." and "." not in self._typed):
            # What is too much already gets no more digits.
            self._typed += "" if self._wrong or len(self._typed) == _MOST_DIGITS else character
        elif event.key == "backspace":
            shown = self._typed or self._shown(self.dial)
            self._typed = shown[:-1]
        else:
            return
        event.stop()
        # 0 may be the beginning of a fraction.
        problem = self._problem(self.dial.name, number) if (number := self._number) else ""
        self._wrong = bool(problem)
        if problem:
            self.bench.show_message(problem, keep=False)
        self.refresh(layout=True)

    @property
    def _number(self) -> int | float:
        """What is typed so far."""
        if isinstance(self.dial.default, float):
            return float(self._typed if self._typed.strip(".") else 0)
        return int(self._typed.partition(".")[0] or 0)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "undo" or bool(self._typed)

    def commit(self) -> bool:
        """Take what was typed; False where it is no good, which then stays to be mended."""
        if not self._typed:
            return True
        self._wrong = not self.set(self.dial.name, self._number)
        if not self._wrong:
            self._typed = ""
        self.refresh(layout=True)
        return not self._wrong

    def on_blur(self) -> None:
        if not self.commit():
            self.action_undo()

    def action_undo(self) -> None:
        self._typed, self._wrong = "", False
        self.refresh(layout=True)

    def action_move(self, by: int) -> None:
        if self.commit():
            self._at = (self._at + by) % len(SETTINGS)
            self.refresh()

    def action_turn(self, by: int) -> None:
        if not self.commit():
            return
        dial, value = self.dial, self.values[self.dial.name]
        if choices := self._choices(dial):
            self.set(dial.name, choices[(choices.index(value) + by) % len(choices)])
            return
        turned = round(value + by * dial.step, 6)
        if dial.name == "top_p":
            turned = min(turned, 1.0)
        least = dial.step if dial.name in ("top_p", "words") else 0
        # What was typed may be below the first step.
        turned = max(turned, min(least, value))
        turned = turned if isinstance(dial.default, float) else int(turned)
        if turned == value:
            self.bench.show_message(f"{dial.label} is at its {'most' if by > 0 else 'least'}")
        self.set(dial.name, turned)

    def action_leave(self, direction: int) -> None:
        if self.commit():
            self.post_message(self.Left(direction))

    def action_go(self) -> None:
        if self.commit():
            self.post_message(self.Go())

    def on_click(self, event: Click) -> None:
        for index, row, column, text in self._places(self.size.width):
            if event.y == row and column <= event.x < column + len(text) and self.commit():
                self._at = index
                self.refresh()

    # -- drawing -------------------------------------------------------------------------------

    def _shown(self, dial: SamplingSetting) -> str:
        value = self.values[dial.name]
        if dial.words:
            return dial.words[dial.values.index(value)]
        if isinstance(value, float):
            # With an exponent it could not be typed on.
            return np.format_float_positional(value, precision=_MOST_DIGITS, trim="-")
        return str(value)

    def _places(self, width: int) -> list[tuple[int, int, int, str]]:
        """Each dial with its line, column and text, in as few lines as there need be."""
        roomy, close = self._spread(width, 2), self._spread(width, 1)
        return close if close[-1][1] < roomy[-1][1] else roomy

    def _spread(self, width: int, gap: int) -> list[tuple[int, int, int, str]]:
        found, row, column = [], 0, 0
        for index, dial in enumerate(SETTINGS):
            typed = index == self._at and self._typed
            text = f"{dial.label} {typed or self._shown(dial)}".strip()
            if column and column + len(text) > width:
                row, column = row + 1, 0
            found.append((index, row, column, text))
            column += len(text) + gap
        return found

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return self._places(width)[-1][1] + 1

    def render(self) -> RenderResult:
        lines: list[Text] = []
        for index, row, column, text in self._places(self.size.width):
            if row == len(lines):
                lines.append(Text(no_wrap=True))
            line = lines[row]
            line.append(" " * (column - len(line)))
            label, _, value = text.rpartition(" ")
            line.append(label + " " if label else "", "dim")
            line.append(value, self._style(index))
        return Text("\n").join(lines)

    def _style(self, index: int) -> Any:
        if index != self._at or not self.has_focus:
            return ""
        name = "wrong" if self._wrong else "typed" if self._typed else "cursor"
        return self.get_component_rich_style(f"dials--{name}")
