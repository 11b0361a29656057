"""One run's text in the generation panel: the lines that tell whose it is, and the words."""

from __future__ import annotations

import time

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from lmbench.jobs.hosts.sampler_messages import Wrote
from lmbench.tui.generate.tinted_text import TintedText
from lmbench.tui.kit.panel import GuardedWidget, update_static

__all__ = ["TextColumn"]

# A rate that changes more often than this cannot be read.
_RATE_EVERY_S = 0.3


class TextColumn(Vertical, GuardedWidget):
    """A draft under its head; `alone` says whether there is no other beside it."""

    DEFAULT_CSS = """
    TextColumn { height: 1fr; width: 1fr; }
    TextColumn Static { height: auto; max-height: 3; width: 1fr; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.text = TintedText()
        self.alone = True
        self._head = Static("", markup=False)
        self._hint = ""
        self._shown_at = 0.0

    def compose(self) -> ComposeResult:
        yield self._head
        yield self.text

    def on_resize(self) -> None:
        self.show_head()

    def holds(self, word: Wrote) -> bool:
        """Is this very word one of the draft's?"""
        draft = self.text.draft
        return draft is not None and any(written is word for written in draft.words)

    def show_rate(self) -> None:
        """Tell how fast the words come, if that has not just been done."""
        if time.monotonic() - self._shown_at > _RATE_EVERY_S:
            self.show_head()

    def show_head(self, hint: str | None = None) -> None:
        """Whose text it is, its figures, and how fast it came; or else the `hint`, which
        stays until there is another."""
        self._shown_at = time.monotonic()
        if hint is not None:
            self._hint = hint
        head = self._title() if self.text.draft is not None else Text(self._hint, "dim")
        update_static(self._head, head)

    def _title(self) -> Text:
        draft = self.text.draft
        assert draft is not None
        title = Text()
        title.append(f"{draft.mark.marker} ", self.bench.colour_style(draft.mark.variable))
        title.append(f"{draft.run_id} {draft.name}", "bold")
        cache = " + cache" if draft.cache else ""
        if not self.alone:
            title.truncate(max(self.size.width - 1 - len(cache), 4), overflow="ellipsis")
        title.append(cache)
        facts = [draft.figures] if draft.figures else []
        if draft.tokens_per_s is not None:
            facts.append(f"{draft.tokens_per_s:,.0f}/s")
        if draft.state == "opening":
            facts.append("opening the model …")
        elif draft.state == "waiting":
            facts.append("starting the sampler …")
        line = " · ".join(facts)
        if draft.recorded:
            line += " · written before" if line else "written before"
        elif draft.bits is not None and not draft.alive:
            surprise = f" · {draft.bits:.1f} bits a word"
            line += surprise if len(line) + len(surprise) <= self.size.width else ""
        if len(line) > self.size.width:
            line = " ".join(
                fact.replace(" · ", " ").replace(" MB", "MB").replace(" kB", "kB") for fact in facts
            )
        fits = title.cell_len + len(line) + 2 <= self.size.width
        title.append(("  " if fits else "\n") + line if line else "", "dim")
        if draft.origin:
            title.append(f"\n{draft.origin}", "dim italic")
        return title
