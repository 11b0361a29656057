"""``lmbench score``: what a text is worth to a model."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, BinaryIO

from cyclopts import Parameter

from lmbench.cli.flags import configured
from lmbench.cli.language_models import open_language_model
from lmbench.cli.output import Json, SessionName, note, print_json, write
from lmbench.config import ScoreConfig
from lmbench.errors import LmbenchError
from lmbench.scoring import LanguageModel, LineScore, Score
from lmbench.scoring.lines import lines_of
from lmbench.scoring.score import score_columns, score_running, score_sentences
from lmbench.user_folder import expanded

__all__ = ["score"]

_STDIN = "-"
_HEAD = f"{'log prob':>12} {'words':>7} {'unknown':>7} {'ppl':>12} {'ppl known':>12}  text\n"


@configured(ScoreConfig)
def score(
    config: ScoreConfig,
    model: str,
    /,
    *texts: Annotated[str, Parameter(allow_leading_hyphen=True)],
    session: SessionName = "default",
    json: Json = False,
) -> int:
    """Score any text, a line at a time: log probability, words, unknown words, perplexity.

    Perplexity counts the words and the end of each line; "ppl known" leaves unknown words out.

    Args:
        model: a run (SESSION/3, 3, @, a path), or a packed or safetensors file.
        texts: files of words separated by white space; left out, or -: standard input.
    """
    lm = open_language_model(model, config, session, config.checkpoint)
    lines: list[dict[str, Any]] = []
    total, began = Score(), time.perf_counter()
    if not json:
        write(_HEAD)
    for name in texts or (_STDIN,):
        for number, scored in enumerate(_scores(lm, config, name), 1):
            line = scored.total
            total += line
            if json:
                lines.append({"file": name, "line": number, **_document(lm, config, scored, line)})
            else:
                write(_row(config, line, scored.line.beginning) + _word_rows(lm, config, scored))
    seconds = time.perf_counter() - began
    if json:
        print_json(
            {
                "model": lm.title,
                "runtime": lm.runtime,
                "base": "10" if config.log10 else "e",
                "lines": lines,
                "total": _figures(config, total),
                "seconds": seconds,
                "tokens_per_s": total.tokens / seconds,
            }
        )
        return 0
    write(_row(config, total, "in all"))
    rate = f"{total.tokens:,} tokens, {total.tokens / seconds:,.0f} a second"
    units = f"perplexity {total.word_perplexity:.2f} a word" if not config.columns else ""
    if units:
        note(f"{units}, {total.bits_per_character:.3f} bits a character")
    note(f"{lm.title} ({lm.runtime}): {rate}")
    return 0


def _scores(lm: LanguageModel, config: ScoreConfig, name: str) -> Iterator[LineScore]:
    with _opened(name) as (file, called):
        lines = lines_of(file, called, lm.words, keep_words=config.words)
        if config.columns:
            yield from score_columns(lm.predictor, lm.words, lines, config.columns)
        else:
            read = score_running if config.carry else score_sentences
            yield from read(lm.predictor, lm.words, lines)


@contextmanager
def _opened(name: str) -> Iterator[tuple[BinaryIO, str]]:
    """A text's bytes, and what to call it."""
    if name == _STDIN:
        yield sys.stdin.buffer, "standard input"
        return
    path = expanded(name)
    if not path.exists():
        if name.startswith("-"):
            raise LmbenchError(f"score: unknown option {name}: lmbench score --help lists them")
        raise LmbenchError(
            f"{name}: no such file; a sentence itself is scored by `echo '…' | lmbench score MODEL`"
        )
    with path.open("rb") as file:
        yield file, str(path)


def _in_base(config: ScoreConfig, log_prob: float) -> float:
    return log_prob / math.log(10) if config.log10 else log_prob


def _row(config: ScoreConfig, score: Score, text: str) -> str:
    log_prob = _in_base(config, score.log_prob)
    return (
        f"{log_prob:>12.4f} {score.words:>7} {score.unknown:>7} "
        f"{score.perplexity:>12.2f} {score.known_perplexity:>12.2f}  {text}\n"
    )


def _word_rows(lm: LanguageModel, config: ScoreConfig, scored: LineScore) -> str:
    return "".join(
        f"{_in_base(config, log_prob):>12.4f}   {word}{'  (unknown)' if unknown else ''}\n"
        for word, log_prob, unknown in _words(lm, config, scored)
    )


def _words(
    lm: LanguageModel, config: ScoreConfig, scored: LineScore
) -> Iterator[tuple[str, float, bool]]:
    """Each word and the line's end, where they are asked for."""
    if config.words:
        words = [*scored.line.words, lm.words.vocabulary[lm.words.eos]]
        unknown = [*scored.unknown.tolist(), False]
        yield from zip(words, scored.log_probs.tolist(), unknown, strict=True)


def _figures(config: ScoreConfig, score: Score) -> dict[str, Any]:
    # In columns some words are only read: their number and characters are not those predicted.
    whole = not config.columns
    return {
        "log_prob": _in_base(config, score.log_prob),
        "known_log_prob": _in_base(config, score.known_log_prob),
        "words": score.words,
        "unknown": score.unknown,
        "tokens": score.tokens,
        "ppl": score.perplexity,
        "known_ppl": score.known_perplexity,
        "word_ppl": score.word_perplexity if whole else None,
        "bits_per_character": score.bits_per_character if whole else None,
    }


def _document(
    lm: LanguageModel, config: ScoreConfig, scored: LineScore, line: Score
) -> dict[str, Any]:
    document = {"text": scored.line.beginning, **_figures(config, line)}
    if config.words:
        document["each"] = [
            {"word": word, "log_prob": _in_base(config, log_prob), "unknown": unknown}
            for word, log_prob, unknown in _words(lm, config, scored)
        ]
    return document
