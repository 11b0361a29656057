"""What the generation panel asks of the sampler, and the texts that each run wrote last."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lmbench.jobs.hosts import sampler_messages as messages
from lmbench.jobs.hosts.messages import Client
from lmbench.tui.bench.snapshots import RunView
from lmbench.tui.generate.texts import attempt_of, created_of, figures_of, new_text, origin_of
from lmbench.tui.generate.tinted_text import GeneratedText

__all__ = ["Requests"]

# Of so many runs the last text stays, to be branched from.
_TEXTS_KEPT = 8


class Requests:
    """The sampler, connected when it is first asked for anything."""

    def __init__(self, connect: Callable[[], Client]) -> None:
        self._connect = connect
        self._client: Client | None = None
        self._numbers = itertools.count(1)
        # What each run wrote last here, by the run's key: a text, or one without and with a cache.
        self._written: dict[str, list[GeneratedText]] = {}

    @property
    def client(self) -> Client:
        if self._client is None:
            self._client = self._connect()
        return self._client

    async def close(self) -> None:
        if self._client is not None:
            # What has been written of a text is recorded.
            await self.halt(draft for draft in self.texts if draft.alive)
            await self._client.close()

    @property
    def texts(self) -> list[GeneratedText]:
        """Those that the sampler may still write, on the screen or not."""
        return [draft for drafts in self._written.values() for draft in drafts]

    def last_of(self, view: RunView) -> Sequence[GeneratedText]:
        """What a run wrote last, in this visit."""
        created = created_of(view)
        return [draft for draft in self._written.get(view.key, ()) if draft.created == created]

    async def make_room(self, keys: Iterable[str]) -> None:
        """Forget the texts of these runs, and of others the oldest; what is being written is
        halted, and so recorded, since it leaves the screen."""
        for key in (*keys, *list(self._written)[:-_TEXTS_KEPT]):
            drafts = self._written.pop(key, ())
            await self.halt(draft for draft in drafts if draft.alive)
            for draft in drafts:
                await self.client.send(messages.Forget(id=draft.id))
        await self.halt(draft for draft in self.texts if draft.alive)

    def new(self, view: RunView, prompt: str, caches: Iterable[int]) -> Sequence[GeneratedText]:
        """Empty texts of this run for `write`, one with each of these caches."""
        drafts = [new_text(next(self._numbers), view, prompt, cache) for cache in caches]
        self._written[view.key] = drafts
        return drafts

    def branched(self, draft: GeneratedText, view: RunView, at: int, cache: int) -> GeneratedText:
        """A text rewound to before its word `at`, to go on with this cache."""
        fresh = dataclasses.replace(
            draft,
            id=next(self._numbers),
            words=draft.words[:at],
            state="waiting",
            problem="",
            origin=origin_of(view),
            figures=figures_of(view),
            attempt=attempt_of(view),
            cache=cache,
        )
        beside = self._written.get(draft.key, [draft])
        self._written[draft.key] = [fresh if text is draft else text for text in beside]
        return fresh

    async def write(
        self,
        draft: GeneratedText,
        view: RunView,
        settings: dict[str, Any],
        *,
        chosen: int | None = None,
        of: GeneratedText | None = None,
    ) -> None:
        """Have a text written. One that is branched goes on from `of` with the word `chosen`, an
        index of the vocabulary."""
        if of is not None:
            settings = settings | {"prompt": " ".join(of.prompt)}
            if of.alive:
                # What has been written of it is recorded.
                await self.halt([of])
        request = messages.Write(
            id=draft.id,
            run=str(view.run.path),
            settings=settings,
            kept=tuple(word.word for word in draft.words),
            chosen=chosen,
            opening=draft.opening,
            of=of.id if of is not None else 0,
        )
        await self.client.send(request)

    async def halt(self, drafts: Iterable[GeneratedText]) -> None:
        for draft in drafts:
            await self.client.send(messages.Halt(id=draft.id))
