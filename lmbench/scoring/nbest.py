"""N-best lists of a speech recogniser, in the formats that recognisers write. No torch here.

========== ===================================================================================
lines      a file: ``utterance-id score text``, a hypothesis a line; an utterance's lines
           share its id
JSON lines a file ``*.jsonl`` or ``*.json``: ``{"id": …, "score": …, "text": …}`` a line, or
           ``{"id": …, "nbest": [{"score": …, "text": …}, …]}``
Kaldi      a folder as its RNNLM rescoring makes it: ``words_text`` and ``acwt``, whose ids are
           the utterance's and ``-N``; ``lmwt.nolm`` is added to the costs where it is there
ESPnet     a folder with ``1best_recog``, ``2best_recog`` …, in each ``text`` and ``score``
========== ===================================================================================

Scores are natural log probabilities, better where they are higher. Kaldi's costs are taken with
their sign turned.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmbench.corpus.ids import decoded_pieces
from lmbench.errors import LmbenchError

__all__ = ["Hypothesis", "NBest", "check_references", "read_nbest", "read_references"]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One of an utterance's possible texts, and the recogniser's score of it."""

    score: float
    words: tuple[str, ...]


NBest = dict[str, list[Hypothesis]]
"""The hypotheses of each utterance, in the order of the list."""

_BEST = re.compile(r"(\d+)best_recog")
_TENSOR = re.compile(r"tensor\(([^,)]+).*\)")
_SHOWN = 3


def read_nbest(path: Path) -> NBest:
    """The list in a file or a folder; which format it has shows from its name and content.

    Raises:
        LmbenchError: there is none, a line is not as the format has it, or two files of it do not
            have the same ids; names file, line and what to do.
    """
    if not path.exists():
        raise LmbenchError(f"{path}: no such file or folder")
    if not path.is_dir():
        rows = _json_rows(path) if _is_json(path) else _line_rows(path)
    elif (path / "words_text").is_file():
        rows = _kaldi_rows(path)
    elif any(_BEST.fullmatch(entry.name) for entry in path.iterdir()):
        rows = _espnet_rows(path)
    else:
        raise LmbenchError(
            f"{path} holds no n-best list: it needs words_text and acwt (Kaldi), or 1best_recog "
            "with text and score (ESPnet)"
        )
    found: NBest = {}
    for utterance, hypothesis in rows:
        found.setdefault(utterance, []).append(hypothesis)
    if not found:
        raise LmbenchError(f"{path} is empty: it must hold hypotheses")
    return found


def read_references(path: Path) -> dict[str, tuple[str, ...]]:
    """What was said in each utterance: lines ``utterance-id text``, or JSON lines with ``id`` and
    ``text``.

    Raises:
        LmbenchError: no such file, not text, an id twice, or JSON without these.
    """
    rows: Iterator[tuple[str, tuple[str, ...]]]
    if _is_json(path):
        rows = (
            (_field(path, n, row, "id", str), tuple(_field(path, n, row, "text", str).split()))
            for n, row in _json_lines(path)
        )
    else:
        rows = ((words[0], tuple(words[1:])) for _, words in _lines(path))
    found: dict[str, tuple[str, ...]] = {}
    for utterance, words in rows:
        if utterance in found:
            raise LmbenchError(f"{path}: utterance '{utterance}' is there twice; leave one out")
        found[utterance] = words
    return found


def check_references(
    nbest: NBest, references: Mapping[str, tuple[str, ...]], list_path: Path, path: Path
) -> None:
    """See that both are of the same utterances.

    Raises:
        LmbenchError: an utterance has no reference, or a reference no hypotheses; names some.
    """
    for have, lacks, what, where in (
        (nbest, references, "no reference", path),
        (references, nbest, "no hypotheses", list_path),
    ):
        missing = [utterance for utterance in have if utterance not in lacks]
        if missing:
            raise LmbenchError(
                f"{where}: {what} for {_some(missing)}; list and references must be of the same "
                "utterances"
            )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_SHOWN]) + more


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The words of each line that has some, and its number."""
    for number, line in _text_lines(path):
        words = line.split()
        if words:
            yield number, words


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    if not path.exists() or path.is_dir():
        raise LmbenchError(f"{path}: no such file")
    with path.open("rb") as file:
        text = "".join(piece for _, piece in decoded_pieces(file, str(path)))
    if "\0" in text:
        raise LmbenchError(f"{path} holds NUL bytes: it is no text")
    yield from enumerate(text.removeprefix("\ufeff").split("\n"), 1)


def _is_json(path: Path) -> bool:
    return path.suffix in (".jsonl", ".json")


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _text_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise LmbenchError(f"{path}: line {number} is no JSON ({error})") from None
        if not isinstance(row, dict):
            raise LmbenchError(f"{path}: line {number} is no JSON object")
        yield number, row


def _field(path: Path, number: int, row: Mapping[str, Any], name: str, kind: type) -> Any:
    value = row.get(name) if isinstance(row, Mapping) else None
    if kind is float and type(value) is int:
        with contextlib.suppress(OverflowError):
            value = float(value)
    if not isinstance(value, kind) or (isinstance(value, float) and not math.isfinite(value)):
        what = "a text" if kind is str else "a number" if kind is float else "a list"
        raise LmbenchError(f"{path}: line {number}: '{name}' is missing or not {what}")
    # Half a surrogate pair, which JSON can escape, has no UTF-8.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _json_rows(path: Path) -> Iterator[tuple[str, Hypothesis]]:
    for number, row in _json_lines(path):
        utterance = _field(path, number, row, "id", str)
        hypotheses = _field(path, number, row, "nbest", list) if "nbest" in row else [row]
        if not hypotheses:
            raise LmbenchError(f"{path}: line {number}: 'nbest' of '{utterance}' is empty")
        for one in hypotheses:
            score = _field(path, number, one, "score", float)
            words = tuple(_field(path, number, one, "text", str).split())
            yield utterance, Hypothesis(score, words)


def _line_rows(path: Path) -> Iterator[tuple[str, Hypothesis]]:
    for number, words in _lines(path):
        if len(words) < 2:
            raise LmbenchError(
                f"{path}: line {number} has no score: a line is `utterance-id score text`"
            )
        yield words[0], Hypothesis(_number(path, number, words[1]), tuple(words[2:]))


def _number(path: Path, number: int, text: str) -> float:
    """A score; ESPnet writes some as ``tensor(-1.5)``."""
    found = _TENSOR.fullmatch(text)
    try:
        value = float(found[1] if found else text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise LmbenchError(f"{path}: line {number}: the score '{text}' is no number")
    return value


def _table(path: Path) -> dict[str, tuple[int, list[str]]]:
    """A file of Kaldi's: from ids to line numbers and what stands after the id."""
    table: dict[str, tuple[int, list[str]]] = {}
    for number, words in _lines(path):
        if words[0] in table:
            raise LmbenchError(
                f"{path}: line {number}: '{words[0]}' is there twice (line {table[words[0]][0]}); "
                "leave one out"
            )
        table[words[0]] = number, words[1:]
    return table


def _scores(path: Path, ids: Mapping[str, Any], ids_path: Path) -> dict[str, float]:
    """A file of scores by id, which must be of exactly these ids."""
    table = _table(path)
    for have, lacks, where in ((ids, table, path), (table, ids, ids_path)):
        missing = [one for one in have if one not in lacks]
        if missing:
            raise LmbenchError(
                f"{where} lacks {_some(missing)}, which its neighbour has: both must have the "
                "same ids"
            )
    return {one: _number(path, number, " ".join(rest)) for one, (number, rest) in table.items()}


def _kaldi_rows(folder: Path) -> Iterator[tuple[str, Hypothesis]]:
    texts = _table(folder / "words_text")
    costs = [_scores(folder / "acwt", texts, folder / "words_text")]
    if (folder / "lmwt.nolm").is_file():
        costs.append(_scores(folder / "lmwt.nolm", texts, folder / "words_text"))
    for name, (number, words) in texts.items():
        utterance, dash, rank = name.rpartition("-")
        if not dash or not rank.isdigit():
            raise LmbenchError(
                f"{folder / 'words_text'}: line {number}: '{name}' is no utterance-id and -N"
            )
        yield utterance, Hypothesis(-sum(cost[name] for cost in costs), tuple(words))


def _espnet_rows(folder: Path) -> Iterator[tuple[str, Hypothesis]]:
    ranks = [(int(m[1]), entry) for entry in folder.iterdir() if (m := _BEST.fullmatch(entry.name))]
    for _, entry in sorted(ranks):
        texts = _table(entry / "text")
        scores = _scores(entry / "score", texts, entry / "text")
        for utterance, (_, words) in texts.items():
            yield utterance, Hypothesis(scores[utterance], tuple(words))
