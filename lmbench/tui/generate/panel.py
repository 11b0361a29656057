"""Text from the selected run, or from several runs side by side."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.message import Message as TextualMessage
from textual.widgets import Input

from lmbench.jobs.hosts import sampler_messages as messages
from lmbench.jobs.hosts.messages import Client
from lmbench.jobs.hosts.sampler_messages import Wrote
from lmbench.tui.bench.float_model_run import checkpoint_of
from lmbench.tui.bench.run_marks import mark_of
from lmbench.tui.bench.snapshots import RunView
from lmbench.tui.generate.alternatives import AlternativesList
from lmbench.tui.generate.known_runtimes import KnownRuntimes
from lmbench.tui.generate.requests import Requests
from lmbench.tui.generate.sampling_controls import ALTERNATIVES, SamplingControls
from lmbench.tui.generate.saved_samples import SavedSamples
from lmbench.tui.generate.text_columns import MOST_TEXTS, TextColumns
from lmbench.tui.generate.texts import (
    apply_reply,
    attempt_of,
    created_of,
    figures_of,
    hint,
    origin_of,
    saved_text,
    why_unable,
)
from lmbench.tui.generate.tinted_text import GeneratedText, TintedText
from lmbench.tui.kit.line_input import LineInput
from lmbench.tui.kit.panel import Panel

__all__ = ["GeneratePanel"]

# Panels wider than this have the alternatives at the side where there are few rows.
_WIDE_ENOUGH = 60
_FEW_ROWS = 16


class SamplerReplied(TextualMessage):
    """The sampler said something."""

    def __init__(self, message: messages.Message) -> None:
        super().__init__()
        self.message = message


class PromptInput(LineInput):
    PART: ClassVar[str] = "prompt"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "write", id="prompt.write", tooltip="Write from this prompt"),
        Binding("down", "down", "settings", id="prompt.down", tooltip="To the sampling settings"),
    ]

    def action_down(self) -> None:
        self.query_ancestor(GeneratePanel).query_one(SamplingControls).focus()


class GeneratePanel(Panel):
    """Asks the sampler, shows what it writes, and branches where one wants."""

    TITLE = "Generate"
    HELP = """
Text from the selected run; where two to four runs are marked, they answer the same prompt with the
same seed, side by side where there is room (**m** changes between the two). A run that is training
answers from its last checkpoint; one that quantizes or packs has no model until it is finished.

Type a beginning, or none, and press **Enter**. **↓** goes to the settings: ← → choose one, digits
or + − change it, Enter writes. **↓** again goes into the text: ← → ↑ ↓ move over the words, which
are the redder the more they surprised the model. Below stands what else was likely, before and
after temperature, top-k and top-p. **Enter** goes there; **Enter** on another word rewinds the text
and writes on from it.

**cache** lets the text recall what it has said: words that followed states like the present one
become likelier (a neural cache over 500 words). At **both** each run writes without and with it, of
the same seed: two marked runs at most.

What runs the model is a setting, too: **as-is** in the form that it has, a packed file's integers
on their own kernels; **auto** the fastest here whose perplexity stays within 0.1%; **torch** in
floats. The other runtimes that a model has on this machine are offered once it has written a text.

**w** writes or stops, **r** takes another seed, **u** hides `<unk>`, **i** edits the prompt,
**y** copies the text. In a text **/** searches, **n** and **N** go from match to match. All texts
are kept in the session's `samples.jsonl`.
"""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("w", "write", "write/stop", id="generate.write", tooltip="Write, or stop writing"),
        Binding("i", "prompt", "prompt", id="generate.prompt", tooltip="Edit the prompt"),
        Binding("r", "reseed", "new seed", id="generate.reseed", tooltip="Write with a new seed"),
        Binding("u", "unk", "<unk>", id="generate.unk", show=False, tooltip="Show or hide <unk>"),
        Binding("m", "compare", "marked/one", id="generate.compare",
                tooltip="Texts of the marked runs, or of the selected one"),
        Binding("right_square_bracket", "column(1)", "next text", id="generate.next",
                key_display="]", tooltip="To the next text"),
        Binding("left_square_bracket", "column(-1)", "previous text", id="generate.previous",
                show=False, tooltip="To the previous text"),
        Binding("y", "copy", "copy", id="generate.copy", show=False, tooltip="Copy the text"),
    ]  # fmt: skip
    DEFAULT_CSS = """
    GeneratePanel {
        layout: vertical;
        #output { width: 1fr; height: 1fr; layout: vertical; }
        TextColumn { min-height: 3; }
        AlternativesList { display: none; border-top: solid $border-blurred; max-height: 8; }
        &.-across TextColumns { layout: horizontal; }
        &.-across TextColumn { min-height: 0; margin: 0 1 0 0; }
        &.-across TextColumn.-last { margin: 0; }
        &.-across AlternativesList { max-height: 14; }
        &.-pointing AlternativesList { display: block; }
        &.-beside #output { layout: horizontal; }
        &.-beside AlternativesList {
            border-top: none; border-left: solid $border-blurred;
            width: 38; max-height: 100%;
        }
    }
    """

    client_class: ClassVar[Any] = messages.SamplerClient
    """Made with the path of a log and a function that takes each message; another in tests."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id, classes="-across")
        self._requests = Requests(self._connect)
        self._comparing = True
        self._theme = ""
        # The run whose texts were recalled last: its key, and when it was made.
        self._recalled: tuple[str, float] | None = None
        self._runtimes = KnownRuntimes()
        self._texts = TextColumns()
        self._controls = SamplingControls()
        self._samples: SavedSamples | None = None

    def compose(self) -> ComposeResult:
        yield PromptInput(placeholder="a beginning; Enter writes on")
        yield self._controls
        with Container(id="output"):
            yield self._texts
            yield AlternativesList()

    def on_mount(self) -> None:
        box = self.query_one(PromptInput)
        with self.prevent(Input.Changed):
            box.value = str(self.bench.recall("prompt", ""))
        kept = self.bench.recall("sampling", {})
        self._runtimes = KnownRuntimes(self.bench.recall_each("runtimes"))
        self._controls.recall(kept, self._runtimes.all)
        self._comparing = not isinstance(kept, dict) or kept.get("compare") is not False

    async def on_unmount(self) -> None:
        await self._requests.close()

    def on_resize(self) -> None:
        self._arrange()

    # -- what is shown -------------------------------------------------------------------------

    @property
    def targets(self) -> Sequence[RunView]:
        """The runs that would write now: the marked ones side by side, or the selected one; as many
        as there is room for their texts."""
        marked = [self.bench.snapshot.run(key) for key in self.bench.marked]
        among = tuple(view for view in marked if view is not None)
        if self._comparing and len(among) > 1:
            return among[: MOST_TEXTS // len(self._controls.caches)]
        selected = self.bench.selected_run
        return (selected,) if selected is not None else ()

    def _why_unable(self, view: RunView) -> str:
        if self.bench.demo:
            return "A recording has no model to write with."
        return why_unable(view, self.bench.snapshot.run(view.parent or ""))

    @property
    def _left_out(self) -> str:
        """In words, that not all of the marked runs write; "" where they do."""
        marked, first = len(self.bench.marked), len(self.targets)
        more = self._comparing and marked > first > 1
        return f"{marked} runs are marked; the first {first} write" if more else ""

    @property
    def _can_write(self) -> bool:
        """Can any of the targets write?"""
        return any(not self._why_unable(view) for view in self.targets)

    @property
    def drafts(self) -> tuple[GeneratedText, ...]:
        """The texts on the screen."""
        return self._texts.drafts

    @property
    def writing(self) -> bool:
        return self._texts.writing

    def refresh_view(self) -> None:
        targets = self.targets
        names = [f"{mark_of(v.id).marker} {v.title}" for v in targets]
        if len(targets) > 1:
            names = [f"{mark_of(v.id).marker} {v.id}" for v in targets]
        self.set_subtitle(" vs ".join(names))
        for column in self._texts.columns:
            draft = column.text.draft
            view = self._run_of(draft) if draft else None
            if draft is not None and view is not None:
                draft.name = view.name
                # What was written before, or in the midst of a training, is not of what it is now.
                if not (draft.recorded or draft.origin):
                    if attempt_of(view) == draft.attempt:
                        draft.figures = figures_of(view)
                # The first checkpoint, which this text has asked for, tells its step by now.
                elif draft.origin.endswith("checkpoint"):
                    draft.origin = origin_of(view) or draft.origin
            column.show_head()
            if self._theme != self.bench.theme:
                column.text.refresh()
        self._theme = self.bench.theme
        if not self.drafts:
            words = hint(targets, [self._why_unable(v) for v in targets])
            if self._left_out and self._can_write:
                words += f" {self._left_out}."
            known = targets or self.bench.snapshot.complete
            self._texts.columns[0].show_head(words if known else "")
        self._offer_runtimes()
        # With the marks gone, too, the texts are to be of the run in the frame.
        alone = targets[0] if len(targets) == 1 else None
        if (run := (alone.key, created_of(alone)) if alone else None) != self._recalled:
            self._recalled = run
            if alone is not None and self._shows_others(alone):
                self._recall(alone)
        self.refresh_bindings()

    def _run_of(self, draft: GeneratedText) -> RunView | None:
        """The run that wrote a text; None where it is gone, though another may have its key."""
        view = self.bench.snapshot.run(draft.key)
        return view if view is not None and created_of(view) == draft.created else None

    def _shows_others(self, view: RunView) -> bool:
        """Is no text being written, and none on the screen of this run?"""
        others = all(draft.recorded or self._run_of(draft) is not view for draft in self.drafts)
        return others and not self.writing and len(self.targets) < 2

    def _offer_runtimes(self) -> None:
        """Let the dial turn through what all targets are known to have."""
        self._controls.offer(self._runtimes.shared([view.key for view in self.targets]))

    def _recall(self, view: RunView) -> None:
        """Show what the selected run wrote last."""
        session = self.bench.session
        if session is None:
            return
        # It may have been renamed.
        if self._samples is None or self._samples.session != session:
            self._samples = SavedSamples(session)
        if self._samples.outdated:
            work = self._read_samples(view, self._samples)
            self.bench.start_work(work, owner=self, group="recall", exclusive=True)
        else:
            self._show_last(view, self._samples)

    async def _read_samples(self, view: RunView, samples: SavedSamples) -> None:
        await self.bench.run_in_thread(samples.read, doing="while reading the samples")
        # Whoever left meanwhile takes this panel down, its parts first.
        if self.query(SamplingControls):
            self._show_last(view, samples)

    def _show_last(self, view: RunView, samples: SavedSamples) -> None:
        if self.bench.selected == view.key and self._shows_others(view):
            shown = self._requests.last_of(view)
            sample = samples.last_of(view.key, created_of(view))
            if not shown and sample is not None:
                shown = [saved_text(view, sample)]
            if not shown and not self.drafts:
                return
            self._point_at(None)
            self._texts.show(shown)
            self._arrange()
            self.refresh_view()

    def _arrange(self) -> None:
        width, height = self.content_size
        beside = width >= _WIDE_ENOUGH and height <= _FEW_ROWS
        self.update_classes({"-across": self._texts.fit(width), "-beside": beside})

    # -- asking --------------------------------------------------------------------------------

    def _connect(self) -> Client:
        path = self.bench.home.sessions_path / "sampler.log"
        return self.client_class(path, lambda m: self.post_message(SamplerReplied(m)))

    async def write(self) -> None:
        """Have the targets write from the prompt, in place of what is on the screen."""
        targets, caches = self.targets, self._controls.caches
        if not targets:
            self.bench.show_message("there is no run to write: n starts one")
            return
        if not self._can_write:
            self.bench.show_message(self._why_unable(targets[0]))
            return
        await self._requests.make_room(view.key for view in targets)
        prompt = self.query_one(PromptInput).value
        self._point_at(None)
        drafts: list[GeneratedText] = []
        able = []
        for view in targets:
            why = self._why_unable(view)
            for draft in self._requests.new(view, prompt, (0,) if why else caches):
                drafts.append(draft)
                if why:
                    draft.state, draft.problem = "failed", why
                else:
                    able.append((draft, view, self._settings(view, draft.cache)))
        self._texts.show(drafts)
        self._arrange()
        if self._left_out:
            self.bench.show_message(self._left_out, keep=False)
        for draft, view, settings in able:
            await self._requests.write(draft, view, settings)
        self.refresh_bindings()

    def _settings(self, view: RunView, cache: int) -> dict[str, Any]:
        return {
            **self._controls.values,
            "cache": cache,
            "prompt": self.query_one(PromptInput).value,
            "checkpoint": checkpoint_of(view),
            "alternatives": ALTERNATIVES,
        }

    @on(AlternativesList.Taken)
    async def _branch(self, event: AlternativesList.Taken) -> None:
        """Rewind to the word and write on from another one."""
        event.stop()
        column = self._texts.with_word(event.word)
        draft = column.text.draft if column is not None else None
        view = self._run_of(draft) if draft is not None else None
        if column is None or draft is None:
            return
        if view is None:
            self.bench.show_message("that run is gone", keep=False)
            return
        if self.bench.demo:
            self.bench.show_message(self._why_unable(view))
            return
        caches = self._controls.caches
        cache = draft.cache if draft.cache in caches else caches[0]
        fresh = self._requests.branched(draft, view, event.word.at, cache)
        column.text.show(fresh)
        self._point_at(None)
        column.text.focus()
        await self._requests.write(
            fresh, view, self._settings(view, cache), chosen=event.choice.id, of=draft
        )

    # -- hearing -------------------------------------------------------------------------------

    def on_sampler_replied(self, event: SamplerReplied) -> None:
        if isinstance(event.message, messages.Offered):
            self._on_offered(event.message)
            return
        news = apply_reply(self._requests.texts, self._texts.columns, event.message)
        if news:
            self.bench.show_message(news)
        if not isinstance(event.message, messages.Wrote):
            self.refresh_bindings()

    def _on_offered(self, message: messages.Offered) -> None:
        """Remember which runtimes a run has: the sampler alone can tell."""
        texts = self._requests.texts
        draft = next((text for text in texts if text.id == message.id), None)
        if draft is not None:
            self._runtimes.take(draft.key, message.runtimes)
            self.bench.remember(f"runtimes/{draft.key}", list(message.runtimes))
            self._offer_runtimes()

    # -- the parts of the panel ----------------------------------------------------------------

    @on(Input.Changed)
    def _prompt_changed(self, event: Input.Changed) -> None:
        event.stop()
        self.bench.remember("prompt", event.value)
        # Whoever types a prompt is about to write: torch may as well load meanwhile.
        if not self.bench.demo:
            self.bench.start_work(self._requests.client.start(), owner=self)

    @on(Input.Submitted)
    @on(SamplingControls.Go)
    async def _go(self, event: TextualMessage) -> None:
        event.stop()
        await self.write()

    @on(SamplingControls.Changed)
    def _dials_changed(self) -> None:
        self.bench.remember("sampling", {**self._controls.values, "compare": self._comparing})
        # Fewer runs write side by side where each writes two texts.
        self.refresh_view()

    @on(SamplingControls.Left)
    def _out_of_dials(self, event: SamplingControls.Left) -> None:
        column = self._texts.focused
        if event.direction < 0 or column is None:
            self.query_one(PromptInput).focus()
        else:
            column.text.focus()

    @on(TintedText.Left)
    def _out_of_words(self) -> None:
        self._controls.focus()

    @on(TintedText.Moved)
    def _pointed(self, event: TintedText.Moved) -> None:
        word = event.view.word
        among = word if word is not None and word.alternatives else None
        if among is not None:
            self._texts.take_cursor(event.view)
        self._point_at(among)

    def _point_at(self, word: Wrote | None) -> None:
        """Show what else was likely in the place of this word; None for no list."""
        self.set_class(word is not None, "-pointing")
        self.query_one(AlternativesList).show(word)

    @on(TintedText.Chosen)
    def _to_alternatives(self) -> None:
        self.query_one(AlternativesList).focus()

    @on(AlternativesList.Left)
    def _back_to_words(self) -> None:
        column = self._texts.focused
        if column is not None:
            column.text.focus()

    # -- keys ----------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        match action:
            case "write" | "reseed":
                return self._can_write or self.writing
            case "compare":
                return len(self.bench.marked) > 1
            case "column":
                return len(self.drafts) > 1
            case "copy":
                return any(draft.words for draft in self.drafts)
        return True

    async def action_write(self) -> None:
        if self.writing:
            await self._requests.halt(self.drafts)
        elif self._controls.commit():
            await self.write()

    async def action_reseed(self) -> None:
        if self._controls.commit() and self._controls.set("seed", random.randrange(10_000)):
            await self.write()

    def action_prompt(self) -> None:
        self.query_one(PromptInput).focus()

    def action_unk(self) -> None:
        dials = self._controls
        hidden = not dials.values["no_unk"]
        dials.set("no_unk", hidden)
        self.bench.show_message(
            f"<unk> is {'hidden' if hidden else 'shown'} in what is written next"
        )

    def action_compare(self) -> None:
        self._comparing = not self._comparing
        self._dials_changed()
        who = f"{len(self.targets)} marked runs" if self._comparing else "the selected run"
        self.bench.show_message(f"to write: {who}", keep=False)

    def action_column(self, by: int) -> None:
        self._texts.focus_beside(by)

    def action_copy(self) -> None:
        column = self._texts.focused
        draft = column.text.draft if column is not None else None
        if draft is not None:
            self.app.copy_to_clipboard(draft.text)
