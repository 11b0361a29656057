"""``lmbench rescore``: a recogniser's n-best list, ranked anew by language models."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from lmbench.cli.flags import configured, free_place, write_new
from lmbench.cli.language_models import open_language_model
from lmbench.cli.output import Json, SessionName, console, print_json, print_line
from lmbench.config import RescoreConfig
from lmbench.errors import LmbenchError
from lmbench.scoring.nbest import check_references, read_nbest, read_references
from lmbench.scoring.rescoring import Errors, Ranking, Tuned, language_scores, tune
from lmbench.user_folder import expanded

__all__ = ["rescore"]


@dataclass(frozen=True)
class _Row:
    """What one model made of the list."""

    model: str
    runtime: str
    weight: float
    penalty: float
    tuned: Tuned | None
    errors: Errors | None
    seconds: float
    texts: dict[str, str]


@configured(RescoreConfig)
def rescore(
    config: RescoreConfig,
    nbest: str,
    /,
    *,
    session: SessionName = "default",
    json: Json = False,
) -> int:
    """Rank a speech recogniser's hypotheses anew, and say what that does to the word error rate.

    A hypothesis is worth score + weight * log probability + penalty * words. The formats of lists
    are in docs/scoring.md; scores are natural log probabilities, Kaldi's are costs.

    Args:
        nbest: a file of lines `utterance-id score text` or of JSON, or a folder of Kaldi's or
            ESPnet's.
    """
    output = free_place("--output", config.output) if config.output else None
    ranking = _ranking(nbest, config.references, "--references")
    dev = _ranking(config.dev, config.dev_references, "--dev-references") if config.dev else None
    rows = [_rescored(config, one, session, ranking, dev) for one in config.models]
    if output is not None:
        lines = [f"{utterance} {text}".rstrip() for utterance, text in rows[0].texts.items()]
        write_new("--output", output, ("\n".join(lines) + "\n").encode())
    if json:
        print_json(_document(config, ranking, rows))
        return 0
    for row in rows:
        if row.tuned:
            print_line(f"{row.model}: word error rate in % on {config.dev}")
            console().print(_grid(config, row.tuned))
    console().print(_table(config, ranking, rows))
    return 0


def _ranking(nbest: str, references: str | None, flag: str) -> Ranking:
    path = expanded(nbest)
    found = read_nbest(path)
    if references is None:
        return Ranking(found)
    said_path = expanded(references)
    if not said_path.exists() or said_path.is_dir():
        raise LmbenchError(f"{flag} {references}: no such file")
    said = read_references(said_path)
    check_references(found, said, path, said_path)
    return Ranking(found, said)


def _rescored(
    config: RescoreConfig, model: str, session: str, ranking: Ranking, dev: Ranking | None
) -> _Row:
    lm = open_language_model(model, config, session)
    tuned = None
    weight, penalty = config.weight[0], config.penalty[0]
    if dev is not None:
        tuned = tune(dev, language_scores(lm, dev.nbest)[0], config.weight, config.penalty)
        weight, penalty = tuned.best.weight, tuned.best.penalty
    language, seconds = language_scores(lm, ranking.nbest)
    chosen = ranking.best(ranking.total(language, weight, penalty))
    errors = ranking.errors(chosen) if config.references else None
    texts = ranking.texts(chosen)
    return _Row(lm.title, lm.runtime, weight, penalty, tuned, errors, seconds, texts)


def _grid(config: RescoreConfig, tuned: Tuned) -> Table:
    """Weights down, penalties across; the best is marked."""
    table = Table(box=None, pad_edge=False)
    table.add_column("weight", justify="right")
    for penalty in config.penalty:
        table.add_column(f"penalty {penalty:g}", justify="right")
    best = tuned.best
    for weight in config.weight:
        cells = [
            f"{'* ' if trial == best else ''}{100 * trial.errors.rate:.2f}"
            for trial in tuned.trials
            if trial.weight == weight
        ]
        table.add_row(f"{weight:g}", *cells)
    return table


def _table(config: RescoreConfig, ranking: Ranking, rows: list[_Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("ranked by")
    for name in ("runtime", "weight", "penalty", "WER %", "sub", "del", "ins", "seconds"):
        table.add_column(name, justify="left" if name == "runtime" else "right")
    if config.references:
        plain = ranking.errors(ranking.best(ranking.acoustic))
        table.add_row("the list's own scores", "", "", "", *_cells(plain), "")
    for row in rows:
        settings = (f"{row.weight:g}", f"{row.penalty:g}")
        table.add_row(row.model, row.runtime, *settings, *_cells(row.errors), f"{row.seconds:.2f}")
    if config.references:
        table.add_row("the best choice there is", "", "", "", *_cells(ranking.oracle()), "")
    return table


def _cells(errors: Errors | None) -> tuple[str, ...]:
    if errors is None:
        return ("", "", "", "")
    counts = (errors.substitutions, errors.deletions, errors.insertions)
    return (f"{100 * errors.rate:.2f}", *(f"{count:,}" for count in counts))


def _document(config: RescoreConfig, ranking: Ranking, rows: list[_Row]) -> dict[str, Any]:
    own = ranking.best(ranking.acoustic)
    return {
        "utterances": len(ranking.nbest),
        "hypotheses": len(ranking.acoustic),
        "own": _errors_document(ranking.errors(own)) if config.references else None,
        "best_possible": _errors_document(ranking.oracle()) if config.references else None,
        "models": [
            {
                "model": row.model,
                "runtime": row.runtime,
                "weight": row.weight,
                "penalty": row.penalty,
                "grid": _grid_document(row.tuned),
                "errors": _errors_document(row.errors),
                "seconds": row.seconds,
                "texts": row.texts,
            }
            for row in rows
        ],
    }


def _grid_document(tuned: Tuned | None) -> list[dict[str, Any]] | None:
    if tuned is None:
        return None
    return [
        {"weight": one.weight, "penalty": one.penalty, **(_errors_document(one.errors) or {})}
        for one in tuned.trials
    ]


def _errors_document(errors: Errors | None) -> dict[str, Any] | None:
    return None if errors is None else {"wer": errors.rate, **asdict(errors)}
