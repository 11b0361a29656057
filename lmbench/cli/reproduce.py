"""``lmbench reproduce``: the published tables beside ours."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from lmbench.cli.flags import Whole, refuse_flags
from lmbench.cli.output import Json, console, print_json
from lmbench.cli.progress import corpus_progress
from lmbench.cli.start_run import work_through_all
from lmbench.config import TrainConfig
from lmbench.errors import LmbenchError
from lmbench.jobs.published_tables import Reproduction, Scale, TableName, plan
from lmbench.jobs.reproduce import begin, compared, make_runs, over_seeds
from lmbench.report.compare import OVER_SEEDS
from lmbench.report.numbers import size
from lmbench.report.published_figures import CORPUS
from lmbench.report.seeds import Spread
from lmbench.session import Home

__all__ = ["reproduce"]


def reproduce(
    table: Annotated[TableName, Parameter(help="which table")],
    /,
    *,
    scale: Annotated[
        Scale,
        Parameter(
            help="small: 2x200 and 6 epochs; medium: 2x200 and 40 epochs; large: as published, up "
            "to 2x1500 and 40 epochs, for a GPU"
        ),
    ] = "small",
    seeds: Annotated[Whole, Parameter(help="make each run with so many seeds, from 1111 on")] = 1,
    model: Annotated[
        str | None, Parameter(help="of the table `cache`: take this run, and train none")
    ] = None,
    data: Annotated[str, Parameter(help="the corpus; the figures are WikiText-2's")] = CORPUS,
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
    `cache` (test with a neural cache and by dynamic evaluation, tuned on valid), `bits` (the dense
    model and the one of 80%, packed in 8 to 2 bits), `structure` (fewer hidden units, packed).
    """
    if table != "cache":
        refuse_flags("is for the table `cache`; the others train their models", model=model)
    if not seeds or seeds < 1:
        raise LmbenchError(f"--seeds {seeds}: give at least 1")
    if model is not None and seeds > 1:
        raise LmbenchError("--seeds: --model is of one seed; leave one of them out")
    given = {"data": data, "device": device, "threads": threads}
    changes = {key: value for key, value in given.items() if value not in ("auto", 0)}
    first = TrainConfig.model_fields["seed"].default
    plans = [plan(table, scale, {**changes, "seed": first + n}) for n in range(seeds)]
    home = Home.find()
    taken = home.find_run(model, session, with_model=True) if model else None
    with corpus_progress() as progress:
        opened = home.open_session(session)
        made = [make_runs(opened, one, progress, taken) for one in plans]
    runs = [run for of_seed in made for run in of_seed]
    code = 0
    if detach:
        for run in runs:
            begin(run, queue=True)
    else:
        code = work_through_all(runs, json=json)
    rows = over_seeds([compared(one, of_seed) for one, of_seed in zip(plans, made, strict=True)])
    if json:
        print_json({"table": table, "scale": scale, "data": data, "seeds": seeds, "rows": rows})
    else:
        console().print(_table(plans[0], rows))
    return code


def _table(reproduction: Reproduction, rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("run", "row"):
        table.add_column(head)
    heads = ["sparsity", "published valid", "ours", "published test", "ours"]
    for head in (*heads, *["size"] * reproduction.sized):
        table.add_column(head, justify="right")
    table.add_column("status")
    shown = [row for row in reproduction.rows if row.shown]
    for row, of_plan in zip(rows, shown, strict=True):
        mark = reproduction.mark(of_plan)
        cells = [_figure(row, key, mark) for key in _COLUMNS]
        unpublished = all(row[f"published_{key}_ppl"] is None for key in ("valid", "test"))
        sparsity = row["sparsity"]
        share = "" if sparsity is None else f"{sparsity:.1%}"
        done = "" if row["status"] == "finished" else row["status"]
        name = row["name"] + (mark if unpublished else "")
        table.add_row(
            ", ".join(row.get("runs", [row["run"]])),
            name,
            share,
            *cells,
            *[size(row["bytes"])] * reproduction.sized,
            done,
        )
    notes = [reproduction.note] if reproduction.note else []
    notes += [OVER_SEEDS] if any(row.get("n") for row in rows) else []
    if notes:
        table.caption = "\n".join(notes)
        table.caption_justify = "left"
    return table


_COLUMNS = ("published_valid", "valid", "published_test", "test")


def _figure(row: dict[str, Any], key: str, mark: str) -> str:
    """A perplexity, of several seeds with its spread, and its change against the first row where
    the table is about that."""
    value, change = row[f"{key}_ppl"], row.get(f"{key}_change")
    if value is None:
        return "–"
    text = f"{value:.2f}"
    if key.startswith("published"):
        text += mark
    elif row.get("n"):
        spread = Spread(value, row[f"{key}_ppl_deviation"], row[f"{key}_ppl_n"])
        text = spread.text(2)
    return text + ("" if not change else f" {change:+.1%}")
