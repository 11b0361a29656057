"""The line of messages: answers to keys, and news of runs.

What a key was answered goes with its screen; what is new of a run stays until something newer comes
or it is over.
"""

from __future__ import annotations

from collections.abc import Collection

from textual.events import Key
from textual.reactive import var
from textual.timer import Timer

from lmbench.printable import printable
from lmbench.tui.bench.changes import bad_news, ended, is_past, newest_note
from lmbench.tui.bench.key_order import KeysInOrder
from lmbench.tui.bench.snapshots import Snapshot
from lmbench.tui.bench.user_settings import Settings

__all__ = ["MESSAGE_SHOWN_S", "Messages"]

MESSAGE_SHOWN_S = 4.0


class Messages(KeysInOrder):
    """An application that has something to say."""

    last_message: var[str] = var("", init=False)
    """The newest message, in one line."""
    recent_message: var[str] = var("", init=False)
    """The same for `MESSAGE_SHOWN_S`; lines that show something else show this instead."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self._message_timer: Timer | None = None
        self._recent_is_kept = False
        # The key that the newest message answers.
        self._answered_key: Key | None = None
        # The kinds of screen that these two were said on.
        self._said_on: type | None = None
        self._recent_said_on: type | None = None
        self.forget_news()

    def forget_news(self) -> None:
        """Another session begins, in which nothing was said yet."""
        # The note shown last of any run, with its time.
        self._newest_note = (0.0, "")
        # What was said last that no key had asked for.
        self._news = ""

    def show_message(self, text: str, *, keep: bool = True) -> None:
        """Show one line on whatever screen is in front; with `keep` until another one comes, else
        only for a moment, and until a key says or does something else: what is not possible now
        may soon be."""
        self.recent_message = text
        self._answered_key = self._key_on_its_way
        self._recent_is_kept = keep
        self._recent_said_on = self._kind_in_front
        if keep:
            self.last_message = text
            self._said_on = self._recent_said_on
        if self._message_timer is not None:
            self._message_timer.stop()
        self._message_timer = self.set_timer(MESSAGE_SHOWN_S, self._clear_recent)

    @property
    def _kind_in_front(self) -> type | None:
        """The kind of the full screen in front: a dialog is one of the screen below it."""
        return next((type(s) for s in reversed(self.screen_stack) if not s.is_modal), None)

    def _clear_recent(self) -> None:
        self.recent_message = ""
        if self._said_on is not self._kind_in_front:
            self.forget_answer()

    def key_is_through(self, key: Key) -> None:
        if self.recent_message and not self._recent_is_kept and key is not self._answered_key:
            self._clear_recent()

    def leave_answer(self) -> None:
        """Another screen is in front: what a key was answered is left behind with its screen. Only
        what has closed that has its moment here."""
        said_on = self._recent_said_on
        closed = all(type(screen) is not said_on for screen in self.screen_stack)
        told = said_on is self._kind_in_front or (closed and self._recent_is_kept)
        if not told and self.recent_message != self._news:
            self.recent_message = ""
        self.forget_answer()

    def forget_answer(self) -> None:
        """Go back from a key's answer that has had its moment to the newest news: on another screen
        it may be wrong, and its keys other ones."""
        if not self.recent_message:
            self.last_message = self._news

    def report_changes(self, before: Snapshot, now: Snapshot, deleted: Collection[str]) -> None:
        """One line for what is new: the newest note of any run, or why a run ended."""
        if self._news and is_past(self._news, before, now):
            if self.last_message == self._news:
                self.last_message = ""
            if self.recent_message == self._news:
                self.recent_message = ""
            self._news = ""
        if now.problem and now.problem != before.problem:
            self._news = now.problem
            self.show_message(self._news)
            return
        for text in ended(before, now):
            self.notify_terminal(text)
        note = newest_note(before, now, self._newest_note)
        if news := bad_news(before, now, deleted):
            self._news = news
            self.show_message(news)
        elif note is not None:
            # It may come with each step, so it replaces no other line.
            self._newest_note = note
            self.last_message = self._news = note[1]

    def notify_terminal(self, text: str) -> None:
        """Have the terminal notify the user, who looks at something else: OSC 9, OSC 777 and the
        bell, since terminals differ in what they know."""
        if self.settings.notify and not self.app_focus and self._driver is not None:
            safe = printable(text).replace(";", ",")
            self._driver.write(f"\x1b]9;{safe}\x07\x1b]777;notify;lmbench;{safe}\x07\x07")
            self._driver.flush()
