"""``lmbench generate``: text from a model, as its words come."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch
from rich.table import Table

from lmbench.cli.flags import configured, free_place, write_new
from lmbench.cli.output import Json, SessionName, console, note, print_json, write
from lmbench.config import GenerateConfig
from lmbench.corpus.subwords import Joining, is_subword
from lmbench.deploy.load_model import LoadedModel, open_model, with_words_of
from lmbench.errors import INTERRUPTED, LmbenchError
from lmbench.generation.sampler import Word
from lmbench.generation.text import WORDS_A_LINE, Generation, append_sample, lines
from lmbench.generation.text import generate as write_text
from lmbench.jobs.scoring_text import corpus_of_words
from lmbench.model.device import allow_tf32, choose_device
from lmbench.session import Home, Run
from lmbench.user_folder import expanded

__all__ = ["generate", "generate_run"]


@configured(GenerateConfig)
def generate(
    config: GenerateConfig,
    run: str = "@",
    /,
    *,
    session: SessionName = "default",
    json: Json = False,
) -> int:
    """Write text with a model, 20 words a line.

    Args:
        run: SESSION/3, SESSION/003-train, 3, a name, @ for the newest, a folder, or a packed or
            safetensors file.
    """
    if "prompt" in config.model_fields_set and not config.prompt.split():
        note("--prompt holds no word: the text starts as it does without one")
    home = Home.find()
    run, checkpoint = _which(run, config.checkpoint)
    allow_tf32(False)
    if config.threads:
        torch.set_num_threads(config.threads)
    loaded, found = open_model(run, home, session, checkpoint, choose_device(config))
    if config.data is not None:
        known, ntoken = loaded.vocabulary, int(loaded.shape["ntoken"])
        loaded = with_words_of(loaded, corpus_of_words(config.data, home.path, known, ntoken))
    generation = generate_run(loaded, config, found, quiet=json)
    if json:
        print_json(generation.document())
    return INTERRUPTED if generation.interrupted else 0


def _which(run: str, checkpoint: str) -> tuple[str, str]:
    """The model and the checkpoint of it that are meant.

    The original generator knows models as files alone: ``--checkpoint model.safetensors``.
    """
    if checkpoint in ("best", "last"):
        return run, checkpoint
    if run != "@":
        raise LmbenchError(
            f"--checkpoint {checkpoint}: beside the run {run} use best or last; a model's file "
            "stands in place of the run"
        )
    if not expanded(checkpoint).exists():
        raise LmbenchError(f"--checkpoint {checkpoint}: best, last, or a file; no such file")
    return checkpoint, "best"


def generate_run(
    loaded: LoadedModel, config: GenerateConfig, run: Run | None, *, quiet: bool
) -> Generation:
    """Generate, showing the words on stdout as they come unless `quiet`; keep the text among the
    samples of the run's session, and write ``--outf``."""
    target = free_place("--outf", config.outf) if config.outf else None
    show = None
    if not quiet:
        cut = is_subword(loaded.vocabulary)
        show = _Stream(target is not None, config.log_interval, config.words, cut)
    generation = write_text(loaded, config, show)
    if show is not None:
        show.end()
    if generation.unknown:
        words = ", ".join(f"'{word}'" for word in generation.unknown)
        note(f"not in the vocabulary, read as <unk>: {words}")
    if run is not None and run.in_session:
        _keep(run, generation)
    if target is not None:
        write_new("--outf", target, lines(generation.text.split()).encode())
    if not quiet:
        if config.alternatives:
            console().print(_alternatives(generation))
        _summarise(generation, target)
    return generation


def _keep(run: Run, generation: Generation) -> None:
    """Among the samples of the run's session, which may be someone else's."""
    try:
        append_sample(run.session, generation)
    except (OSError, LmbenchError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.message
        note(f"not kept among the samples of session {run.session.name}: {reason}")


class _Stream:
    """Words on stdout as they come; where a file takes them, the original's lines of progress."""

    def __init__(self, to_file: bool, interval: int, total: int, is_cut: bool) -> None:
        self._to_file, self._interval, self._total = to_file, interval, total
        self._joining = Joining() if is_cut else None
        self._count = 0

    def __call__(self, word: Word) -> None:
        if self._to_file:
            # The file is wanted whole, also where nobody reads how far it is.
            if self._count % self._interval == 0:
                with suppress(BrokenPipeError):
                    write(f"| Generated {self._count}/{self._total} words\n")
        elif self._joining is not None:
            write(self._joined(self._joining.add(word.text)))
            return
        else:
            last = self._count % WORDS_A_LINE == WORDS_A_LINE - 1
            write(word.text + ("\n" if last else " "))
        self._count += 1

    def _joined(self, text: str) -> str:
        """A piece of a word, in lines of as many words."""
        if not text.startswith(" "):
            # The text may begin in the midst of the prompt's last word.
            self._count = max(self._count, 1)
            return text
        self._count += 1
        if self._count == 1:
            return text[1:]
        return ("\n" if self._count % WORDS_A_LINE == 1 else " ") + text[1:]

    def end(self) -> None:
        if self._joining is not None and not self._to_file:
            write(self._joining.end() + "\n")
        elif not self._to_file and self._count % WORDS_A_LINE:
            write("\n")


def _alternatives(generation: Generation) -> Table:
    """What else was likely at each place: by the model, and under the sampling settings."""
    table = Table(box=None, pad_edge=False)
    table.add_column("word")
    table.add_column("bits", justify="right")
    table.add_column("likely here (before → after sampling settings)")
    for word in generation.words:
        others = "  ".join(f"{a.text} {a.before:.1%} → {a.after:.1%}" for a in word.alternatives)
        table.add_row(word.text, f"{word.surprisal_bits:.1f}", others)
    return table


def _summarise(generation: Generation, target: Path | None) -> None:
    where = f"{target}: " if target else ""
    what = "pieces" if generation.pieces else "words"
    note(
        f"{where}{len(generation.words):,} {what} by {generation.run} "
        f"({generation.runtime}, seed {generation.seed}), {generation.tokens_per_s:,.0f} {what}/s, "
        f"{generation.bits_per_word:.2f} bits a word",
    )
