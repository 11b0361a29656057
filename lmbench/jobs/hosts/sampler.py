"""The process that writes text for the workbench: ``python -m lmbench.jobs.hosts.sampler``.

It reads requests from stdin and answers on stdout, one JSON line each (`sampler_messages`).
Models stay loaded until their file changes or others take their place. Several texts are written
in turn, a word of each, so that runs can be watched side by side; each is timed alone. It uses
one thread, steps back behind whatever else runs, and ends when stdin does.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from lmbench.config import GenerateConfig, validate
from lmbench.corpus.subwords import is_subword
from lmbench.deploy.load_model import LoadedModel, load_run
from lmbench.deploy.runtimes.choose import open_runtime
from lmbench.deploy.runtimes.interface import Runtime
from lmbench.deploy.runtimes.table import supported
from lmbench.errors import LmbenchError
from lmbench.generation.cache import NeuralCache
from lmbench.generation.sampler import Prompt, Sampler, Snapshot, Word, read_prompt
from lmbench.generation.sampling import Sampling
from lmbench.generation.text import SETTINGS, Generation, append_sample
from lmbench.jobs import launch
from lmbench.jobs.hosts.laboratory_messages import stamp_of
from lmbench.jobs.hosts.messages import Send, refusal, serve
from lmbench.jobs.hosts.sampler_messages import (
    MESSAGES,
    Alternative,
    Began,
    Ended,
    Forget,
    Halt,
    Message,
    Offered,
    Opening,
    Write,
    Wrote,
)
from lmbench.session import Run

__all__ = ["SamplerHost", "main"]

# As many models as can be compared side by side, and texts of two such rounds.
_MODELS_KEPT = 4
_TEXTS_KEPT = 8
_NICENESS = 5
# How long a run may take to its next step and the checkpoint after it.
_SAVING_S = 60.0


@dataclass
class _Text:
    """A text that is written or was: all that going on and going back needs."""

    run: Run
    config: GenerateConfig
    model: _Model
    sampler: Sampler
    prompt: Prompt
    opening: int | None
    """The word that it begins after where there is no prompt."""
    words: list[Word] = field(default_factory=list)
    before: list[Snapshot] = field(default_factory=list)
    """The sampler before each word."""
    spent: list[float] = field(default_factory=list)
    """Seconds that each word took."""
    branch: dict[str, object] = field(default_factory=dict)
    active: bool = True

    @property
    def seconds(self) -> float:
        return sum(self.spent)

    def write(self, chosen: int | None = None) -> Word:
        """One more word; `chosen` takes that one in place of drawing one."""
        self.sampler.catch_up()
        began = time.perf_counter()
        before = self.sampler.snapshot()
        likeliest = self.config.alternatives
        if chosen is None:
            word = self.sampler.next(likeliest)
        else:
            word = self.sampler.take(chosen, likeliest)
        self.spent.append(time.perf_counter() - began)
        self.before.append(before)
        self.words.append(word)
        return word

    def rewind(self, at: int) -> None:
        """Take back word number `at` and all that follow."""
        self.sampler.restore(self.before[at])
        del self.words[at:], self.before[at:], self.spent[at:]

    def generation(self) -> Generation:
        settings = self.config.model_dump(mode="json", include=SETTINGS)
        return Generation(
            self.model.loaded.title,
            self.model.runtime.name,
            self.config.prompt,
            self.prompt.unknown,
            tuple(self.words),
            self.config.seed,
            settings | self.branch,
            self.seconds,
            is_subword(self.model.loaded.vocabulary),
        )


@dataclass(frozen=True)
class _Model:
    loaded: LoadedModel
    runtime: Runtime

    @cached_property
    def runtimes(self) -> tuple[str, ...]:
        """Found late, when a text is complete: it looks at all weights, and may have to compile."""
        return tuple(entry.name for entry in supported(self.loaded))


class SamplerHost:
    """Works on requests and writes texts; answers go to `send`. Knows nothing of processes."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._models: OrderedDict[tuple[object, ...], _Model] = OrderedDict()
        self._texts: OrderedDict[int, _Text] = OrderedDict()

    @property
    def busy(self) -> bool:
        """Is there a text that is not complete?"""
        return any(text.active for text in self._texts.values())

    def handle(self, request: Message) -> None:
        """Do what is requested; what cannot be done is answered with `Refused`."""
        try:
            match request:
                case Write():
                    self._begin(request)
                case Halt():
                    if (text := self._texts.get(request.id)) is not None and text.active:
                        self._end(request.id, text, halted=True)
                case Forget():
                    self._texts.pop(request.id, None)
                case _:
                    raise LmbenchError(f"'{request.kind}' is an answer, not a request")
        except Exception as error:
            self._fail(request.id, error)

    def step(self) -> None:
        """Write one word of each text that is not complete."""
        for id, text in [(i, t) for i, t in self._texts.items() if t.active]:
            try:
                self._send_word(id, text, text.write())
                if len(text.words) >= text.config.words:
                    self._end(id, text, halted=False)
            except Exception as error:
                self._fail(id, error)

    def _fail(self, id: int, error: Exception) -> None:
        self._texts.pop(id, None)
        self._send(refusal(id, "sampler", error))

    def _begin(self, request: Write) -> None:
        config = validate(GenerateConfig, request.settings)
        old = self._texts.pop(request.of, None) if request.of else None
        at = len(request.kept)
        if old is not None and _branches_off(old, request, config) and self._is_newest(old):
            text = old
            text.config, text.active = config, True
            text.rewind(at)
        else:
            text = self._open(request, config)
        text.sampler.sampling = Sampling.of(config, text.model.loaded.vocabulary)
        began = Began(
            id=request.id,
            runtime=text.model.runtime.name,
            unknown=text.prompt.unknown,
            opening=text.opening,
        )
        self._send(began)
        self._keep(request.id, text)
        if request.chosen is not None:
            # A branch draws other words than the text that it leaves, and always the same.
            seed = _branch_seed(config.seed, at, request.chosen)
            text.sampler.restore(text.sampler.snapshot(), seed=seed)
            word = text.write(request.chosen)
            text.branch = {"branch": {"at": at, "word": word.text}}
            self._send_word(request.id, text, word)
            if len(text.words) >= config.words:
                self._end(request.id, text, halted=False)

    def _is_newest(self, text: _Text) -> bool:
        """Is the checkpoint that it was written by still the one that its run has?"""
        return self._models.get(_key(text.run, text.config)) is text.model

    def _open(self, request: Write, config: GenerateConfig) -> _Text:
        run = Run(Path(request.run))
        model = self._model(request.id, run, config)
        prompt = read_prompt(config.prompt, model.loaded.vocabulary)
        sampler = Sampler(
            model.runtime,
            model.loaded.vocabulary,
            seed=config.seed,
            cache=NeuralCache.of(config),
        )
        sampler.read(prompt.ids)
        opening = request.opening
        if opening is None:
            opening = sampler.begin()
        else:
            sampler.read((opening,))
        text = _Text(run, config, model, sampler, prompt, opening)
        for id in request.kept:
            text.write(id)
        return text

    def _keep(self, id: int, text: _Text) -> None:
        self._texts[id] = text
        ended = [i for i, t in self._texts.items() if not t.active]
        for oldest in ended[: max(len(self._texts) - _TEXTS_KEPT, 0)]:
            del self._texts[oldest]

    def _model(self, id: int, run: Run, config: GenerateConfig) -> _Model:
        trained = run.read().kind in ("train", "prune")
        if trained and not any(run.checkpoint(which) for which in ("last", "best")):
            self._send(Opening(id=id))
            _request_checkpoint(run)
        key = _key(run, config)
        known = self._models.get(key)
        if known is not None:
            self._models.move_to_end(key)
            return known
        self._send(Opening(id=id))
        # What the file held before is no use to anyone.
        for stale in [k for k in self._models if k[0] == key[0] and k[1] != key[1]]:
            del self._models[stale]
        loaded = load_run(run, config.checkpoint)
        runtime = open_runtime(config.runtime, loaded, "step", config.accuracy)
        runtime.warm()
        model = self._models[key] = _Model(loaded, runtime)
        while len(self._models) > _MODELS_KEPT:
            self._models.popitem(last=False)
        return model

    def _send_word(self, id: int, text: _Text, word: Word) -> None:
        among = tuple(
            Alternative(id=a.id, text=a.text, before=a.before, after=a.after)
            for a in word.alternatives
        )
        self._send(
            Wrote(
                id=id,
                at=len(text.words) - 1,
                word=word.id,
                text=word.text,
                bits=word.surprisal_bits,
                probability=word.probability,
                seconds=text.seconds,
                alternatives=among,
            )
        )

    def _end(self, id: int, text: _Text, *, halted: bool) -> None:
        text.active = False
        problem = ""
        if text.words:
            try:
                append_sample(text.run.session, text.generation())
            except (OSError, LmbenchError) as error:
                problem = f"the text is not recorded: {error}"
        self._send(Ended(id=id, halted=halted, problem=problem))
        self._send(Offered(id=id, runtimes=text.model.runtimes))


def _request_checkpoint(run: Run) -> None:
    """Request a checkpoint of a running run that has none yet; its next step writes it."""
    with contextlib.suppress(LmbenchError):
        launch.request(run, "checkpoint")
        give_up = time.monotonic() + _SAVING_S
        while run.checkpoint("last") is None and time.monotonic() < give_up:
            if run.status() != "running":
                return
            time.sleep(0.05)


def _branches_off(old: _Text, request: Write, config: GenerateConfig) -> bool:
    """Does the requested text branch off this one, with the same model?"""
    at = len(request.kept)
    same = all(
        getattr(old.config, name) == getattr(config, name)
        for name in ("prompt", "seed", "checkpoint", "runtime", "accuracy")
    )
    same = same and NeuralCache.of(old.config) == NeuralCache.of(config)
    written = tuple(word.id for word in old.words[:at])
    return (
        same
        and str(old.run.path) == request.run
        and written == request.kept
        and at < len(old.words)
    )


def _branch_seed(seed: int, at: int, chosen: int) -> int:
    digest = hashlib.blake2b(f"{seed} {at} {chosen}".encode(), digest_size=7).digest()
    return int.from_bytes(digest)


def _key(run: Run, config: GenerateConfig) -> tuple[str, int, str, str]:
    """What an opened model is known by: its checkpoint and when that was written, and how it
    runs."""
    which = config.checkpoint
    return str(run.path / which), stamp_of(run, which), config.runtime, config.accuracy


def main() -> None:
    torch.set_num_threads(1)
    serve("sampler", MESSAGES, SamplerHost, niceness=_NICENESS)


if __name__ == "__main__":
    main()
