"""``lmbench reproduce``: the published tables beside ours."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.table import Table

from lmbench.cli.derived import work_through_all
from lmbench.cli.flags import Whole, refuse_flags
from lmbench.cli.output import Json, console, print_json
from lmbench.cli.progress import corpus_progress
from lmbench.jobs.reproduce import Reproduction, begin, compared, make_runs, plan
from lmbench.session import Home

__all__ = ["reproduce"]


def reproduce(
    table: Annotated[
        Literal["training", "pruning", "quantization", "cache"], Parameter(help="which table")
    ],
    /,
    *,
    scale: Annotated[
        Literal["small", "large"],
        Parameter(help="small: 2x200 and 6 epochs; large: as published, 40 epochs, for a GPU"),
    ] = "small",
    model: Annotated[
        str | None, Parameter(help="of the table `cache`: take this run, and train none")
    ] = None,
    data: Annotated[str, Parameter(help="the corpus; the figures are WikiText-2's")] = "wikitext-2",
    device: Annotated[str, Parameter(help="where to compute")] = "auto",
    threads: Annotated[Whole, Parameter(help="CPU threads; 0 takes one for each core")] = 0,
    session: Annotated[
        str, Parameter(name="--session", help="the session that holds the runs")
    ] = "reproduce",
    detach: Annotated[
        bool, Parameter(negative="", help="queue the runs and come back at once")
    ] = False,
    json: Json = False,
) -> int:
    """Make the runs of a published table, and show it beside ours.

    Runs that the session has already count: called again, it goes on where it stopped, and shows
    the table where all is done. The tables: `training` (PyTorch's example and Distiller's
    baselines), `pruning` (AGP from scratch at several levels), `quantization` (after training),
    `cache` (test with a neural cache and by dynamic evaluation, tuned on valid).
    """
    if table != "cache":
        refuse_flags("is for the table `cache`; the others train their models", model=model)
    given = {"data": data, "device": device, "threads": threads}
    changes = {key: value for key, value in given.items() if value not in ("auto", 0)}
    reproduction = plan(table, scale, changes)
    home = Home.find()
    taken = home.find_run(model, session, with_model=True) if model else None
    with corpus_progress() as progress:
        runs = make_runs(home.open_session(session), reproduction, progress, taken)
    code = 0
    if detach:
        for run in runs:
            begin(run, queue=True)
    else:
        code = work_through_all(runs, json=json)
    rows = compared(reproduction, runs)
    if json:
        print_json({"table": table, "scale": scale, "data": data, "rows": rows})
    else:
        console().print(_table(reproduction, rows))
    return code


def _table(reproduction: Reproduction, rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("run", "row"):
        table.add_column(head)
    for head in ("sparsity", "published valid", "ours", "published test", "ours", "status"):
        table.add_column(head, justify="right" if head != "status" else "left")
    for row in rows:
        cells = [_figure(row, key) for key in _COLUMNS]
        sparsity = row["sparsity"]
        share = "" if sparsity is None else f"{sparsity:.1%}"
        done = "" if row["status"] == "finished" else row["status"]
        table.add_row(row["run"], row["name"], share, *cells, done)
    if reproduction.note:
        table.caption = reproduction.note
        table.caption_justify = "left"
    return table


_COLUMNS = ("published_valid", "valid", "published_test", "test")


def _figure(row: dict[str, Any], key: str) -> str:
    """A perplexity, and its change against the first row where the table is about that."""
    value, change = row[f"{key}_ppl"], row.get(f"{key}_change")
    if value is None:
        return "–"
    return f"{value:.2f}" + ("" if not change else f" {change:+.1%}")
