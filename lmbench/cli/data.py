"""``lmbench data``: the corpora there are."""

from __future__ import annotations

from dataclasses import asdict

from cyclopts import App
from rich.table import Table

from lmbench.cli.output import Json, console, pairs_table, print_json, print_line
from lmbench.cli.progress import corpus_progress
from lmbench.corpus import data_get, data_info, data_list
from lmbench.session import Home

__all__ = ["app"]

app = App(name="data", help="List, fetch and describe corpora.")


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
    if json:
        print_json({"name": name, "path": str(folder)})
    else:
        print_line(f"{name} is in {folder}")


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
    console().print(pairs_table((key, _shown(value)) for key, value in document.items()))


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "   ".join(f"{key} {_shown(item)}" for key, item in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
