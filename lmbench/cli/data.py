"""``lmbench data``: the corpora there are."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.table import Table

from lmbench.cli.flags import configured, refuse_flags, whole
from lmbench.cli.output import (
    Json,
    answer,
    console,
    note,
    pairs_table,
    print_json,
    print_line,
    write,
)
from lmbench.cli.progress import corpus_progress
from lmbench.config import DataMakeConfig
from lmbench.corpus import data_get, data_info, data_list
from lmbench.corpus.making.card import Card, read_card
from lmbench.corpus.making.make import data_make, data_preview
from lmbench.errors import LmbenchError
from lmbench.session import Home
from lmbench.user_folder import expanded

__all__ = ["app"]

app = App(name="data")


@app.command(name="list")
def list_(*, json: Json = False) -> None:
    """The corpora that --data takes by name, and whether they are here."""
    entries = data_list(Home.find().path)
    if json:
        print_json(
            [{**asdict(e), "path": e.path and str(e.path), "here": e.is_here} for e in entries]
        )
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("corpus", "here", "what it is"):
        table.add_column(heading)
    for entry in entries:
        table.add_row(entry.name, "yes" if entry.is_here else "no", entry.about)
    console().print(table)


@app.command
def get(name: str, *, json: Json = False) -> None:
    """Fetch a corpus by name, checked against its checksum.

    Args:
        name: wikitext-2, wikitext-103 or pydoc.
    """
    with corpus_progress() as progress:
        folder = data_get(name, Home.find().path, progress)
    answer({"name": name, "path": str(folder)}, f"{name} is in {folder}", json=json)


@app.command
def info(corpus: str | None = None, *, json: Json = False) -> None:
    """Tokens, types and unknown words of a corpus.

    Args:
        corpus: a name or a folder; left out: the one that training would take.
    """
    with corpus_progress() as progress:
        document = data_info(corpus, Home.find().path, progress)
    if json:
        print_json(document)
        return
    made = document.pop("made")
    console().print(pairs_table((key, _shown(value)) for key, value in document.items()))
    card = read_card(Path(document["path"])) if made else None
    if card:
        _print_card(card)


_PREVIEWED = 30
_COLUMNS = ("documents", "sentences", "words", "characters", "unknown", "repeated")


@app.command
@configured(DataMakeConfig)
def make(
    config: DataMakeConfig,
    name: str,
    /,
    *files: str,
    preview: Annotated[
        int | None,
        Parameter(converter=whole, help="show the words of this many sentences, and make nothing"),
    ] = None,
    replace: Annotated[
        bool, Parameter(negative="", help="in place of a corpus of this name that was made so")
    ] = False,
    json: Json = False,
) -> None:
    """Make a corpus of text of your own.

    Args:
        name: what --data is to know it by; it is put into the working folder's data.
        files: text, JSON lines or parquet, as they are or as .gz or .zst, and folders of them.
    """
    if not files:
        raise LmbenchError(f"{name}: made of what? name files or folders after it")
    if preview is not None and preview < 1:
        raise LmbenchError(f"--preview {preview}: give how many sentences to show, at least 1")
    paths = [expanded(file) for file in files]
    if preview is not None:
        refuse_flags("does nothing with --preview", replace=replace)
        sentences = data_preview(paths, config, preview)
        if json:
            print_json({"sentences": sentences})
            return
        for words in sentences:
            more = " …" if len(words) > _PREVIEWED else ""
            write(" ".join(words[:_PREVIEWED]) + more + "\n")
        return
    home = Home.find().path
    with corpus_progress() as progress:
        card = data_make(name, paths, home, config, replace=replace, progress=progress)
    folder = home / "data" / name
    if json:
        print_json({"path": str(folder), **card.document()})
        return
    _print_card(card)
    # A folder of that name would come first.
    known_as = folder if Path(name).exists() or (home / name).exists() else name
    note(f"{name} is in {folder}: lmbench train --data {shlex.quote(str(known_as))}")


def _print_card(card: Card) -> None:
    """What a corpus was made of, and what is in it."""
    table = Table(box=None, pad_edge=False)
    table.add_column("split")
    for column in (*_COLUMNS, "unknown %"):
        table.add_column(column, justify="right")
    for split, counts in card.splits.items():
        shown = [_shown(getattr(counts, column)) for column in _COLUMNS]
        table.add_row(split, *shown, f"{100 * counts.unknown_share:.2f}")
    console().print(table)
    print_line(
        f"{card.about}; {card.vocabulary.types:,} types; repeated: left out, as another split "
        "nearly has them"
    )


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "   ".join(f"{key} {_shown(item)}" for key, item in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
