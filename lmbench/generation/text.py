"""A whole generation, as the command line, the workbench and the session's record see it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from lmbench.config import GenerateConfig
from lmbench.corpus.subwords import is_subword, joined
from lmbench.deploy.load_model import LoadedModel
from lmbench.deploy.runtimes.choose import open_runtime
from lmbench.deploy.runtimes.interface import one_thread
from lmbench.generation.cache import NeuralCache
from lmbench.generation.sampler import Prompt, Sampler, Word, read_prompt
from lmbench.generation.sampling import Sampling
from lmbench.session import Session
from lmbench.session.event_log import ends_torn
from lmbench.session.files import locked

__all__ = [
    "SETTINGS",
    "WORDS_A_LINE",
    "Generation",
    "append_sample",
    "generate",
    "lines",
    "open_sampler",
]

WORDS_A_LINE = 20

SETTINGS = {
    "words", "temperature", "top_k", "top_p", "no_unk", "checkpoint",
    "cache", "cache_theta", "cache_lambda",
}  # fmt: skip
"""The settings that decide a sample; the rest is about output."""


@dataclass(frozen=True)
class Generation:
    """A text that was written, and how."""

    run: str
    """The model's title: a run's reference or a file's name."""

    runtime: str
    prompt: str
    unknown: tuple[str, ...]
    """Words of the prompt that the model does not know; it read ``<unk>`` in their place."""

    words: tuple[Word, ...]
    seed: int
    settings: dict[str, Any]
    seconds: float
    pieces: bool = False
    """Whether the model's words are pieces of words."""
    interrupted: bool = False
    """Whether the user ended it before it had all its words."""

    @property
    def text(self) -> str:
        """Words with blanks between them; pieces of words are joined."""
        words = [word.text for word in self.words]
        return joined(words) if self.pieces else " ".join(words)

    @property
    def tokens_per_s(self) -> float:
        return len(self.words) / self.seconds if self.seconds else 0.0

    @property
    def bits_per_word(self) -> float:
        """The mean surprisal of a word, whole if it was written in pieces: how unlikely the model
        itself finds the text."""
        bits = sum(word.surprisal_bits for word in self.words)
        return bits / max(1, len(self.text.split() if self.pieces else self.words))

    def sample(self) -> dict[str, Any]:
        """The line of ``samples.jsonl``."""
        return {
            "t": time.time(),
            "run": self.run,
            "runtime": self.runtime,
            "prompt": self.prompt,
            "settings": self.settings,
            "seed": self.seed,
            "text": self.text,
            "tokens_per_s": self.tokens_per_s,
        }

    def document(self) -> dict[str, Any]:
        """The document of ``lmbench generate --json``."""
        words = [asdict(word) for word in self.words]
        return {
            **self.sample(),
            "unknown": list(self.unknown),
            "bits_per_word": self.bits_per_word,
            "seconds": self.seconds,
            "words": words,
        }


def open_sampler(loaded: LoadedModel, config: GenerateConfig) -> tuple[Sampler, Prompt]:
    """A sampler that has been given the prompt, ready to write.

    Raises:
        LmbenchError: a setting out of bounds, no vocabulary, or a runtime that cannot be had.
    """
    sampling = Sampling.of(config, loaded.vocabulary)
    runtime = open_runtime(config.runtime, loaded, "step", config.accuracy)
    sampler = Sampler(
        runtime,
        loaded.vocabulary,
        sampling,
        seed=config.seed,
        cache=NeuralCache.of(config),
    )
    prompt = read_prompt(config.prompt, loaded.vocabulary)
    sampler.read(prompt.ids)
    return sampler, prompt


def generate(
    loaded: LoadedModel, config: GenerateConfig, each: Callable[[Word], None] | None = None
) -> Generation:
    """Write a text.

    Args:
        each: called with each word as soon as it is there.

    Ctrl-C ends the text there: what was written so far is given, marked `interrupted`.
    """
    sampler, prompt = open_sampler(loaded, config)
    words: list[Word] = []
    interrupted = False
    with one_thread():
        sampler.runtime.warm()
        began = time.perf_counter()
        try:
            sampler.catch_up()
            # To read a prompt is no writing.
            began = time.perf_counter()
            for word in sampler.words(config.words, config.alternatives):
                words.append(word)
                if each:
                    each(word)
        except KeyboardInterrupt:
            interrupted = True
        seconds = time.perf_counter() - began
    return Generation(
        loaded.title,
        sampler.runtime.name,
        config.prompt,
        prompt.unknown,
        tuple(words),
        config.seed,
        config.model_dump(mode="json", include=SETTINGS),
        seconds,
        is_subword(loaded.vocabulary),
        interrupted,
    )


def lines(words: Iterable[str]) -> str:
    """The text as the original writes it: a blank after each word, a new line after each 20th."""
    parts = []
    for i, word in enumerate(words):
        parts.append(word + ("\n" if i % WORDS_A_LINE == WORDS_A_LINE - 1 else " "))
    return "".join(parts)


def append_sample(session: Session, generation: Generation) -> None:
    """Add a generation to the session's ``samples.jsonl``, whole, whoever else adds to it."""
    line = json.dumps(generation.sample(), ensure_ascii=False, allow_nan=False) + "\n"
    with locked(session.path / ".lock"), session.samples_path.open("ab") as file:
        if ends_torn(session.samples_path):
            # The process that wrote it died there; its line is lost, not this one.
            line = "\n" + line
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())
