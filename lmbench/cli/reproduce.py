"""``lmbench reproduce``: the published tables beside ours."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from lmbench.cli.flags import Whole, refuse_flags
from lmbench.cli.output import Json, console, print_json
from lmbench.cli.progress import corpus_progress
from lmbench.cli.start_run import was_deleted, work_through_all
from lmbench.config import TrainConfig
from lmbench.config.training import ModelConfig
from lmbench.errors import LmbenchError
from lmbench.jobs.launch import leave_queue
from lmbench.jobs.published_tables import Reproduction, Row, Scale, TableName, plan
from lmbench.jobs.reproduce import begin, check_rows, compared, make_runs, over_seeds
from lmbench.report.compare import OVER_SEEDS
from lmbench.report.numbers import size
from lmbench.report.published_figures import CORPUS
from lmbench.report.seeds import Spread
from lmbench.session import Home, Run
from lmbench.session.store import check_session_name

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
    data: Annotated[
        str | None, Parameter(help=f"the corpus; left out: {CORPUS}, which the figures are of")
    ] = None,
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
    home = Home.find()
    taken = home.find_run(model, session, with_model=True) if model is not None else None
    if taken is not None:
        refuse_flags("--model is scored on its own corpus", data=data)
        if taken.home.path != home.path:
            raise LmbenchError(f"--model {model}: name a run of this working folder, {home.path}")
        corpus = taken.read().corpus
        data = corpus.name if corpus else None
    data = data or CORPUS
    given = {"data": data, "device": device, "threads": threads}
    changes = {key: value for key, value in given.items() if value not in ("auto", 0)}
    first = TrainConfig.model_fields["seed"].default
    # The published figures beside a model are those of its shape.
    changes |= _shape_of(taken)
    plans = [plan(table, scale, {**changes, "seed": first + n}) for n in range(seeds)]
    check_session_name(session)
    text = None
    if taken is None:
        with corpus_progress() as progress:
            text = check_rows(plans[0], home, progress)
    opened = home.open_session(session)
    there = opened.runs()
    try:
        made = [make_runs(opened, one, taken, text) for one in plans]
    except (KeyboardInterrupt, OSError, LmbenchError):
        leave_queue([run for run in opened.runs() if run not in there])
        raise
    runs = [run for of_seed in made for run in of_seed if run != taken]
    code = 0
    if detach:
        for run in runs:
            begin(run)
    else:
        code = work_through_all(runs, json=json)
        if any(was_deleted(run) for run in runs):
            raise LmbenchError("a row's run was deleted: the same command again makes it anew")
    rows = over_seeds([compared(one, of_seed) for one, of_seed in zip(plans, made, strict=True)])
    if json:
        named = [
            _by_figure(of_plan, row) for of_plan, row in zip(plans[0].shown, rows, strict=True)
        ]
        print_json({"table": table, "scale": scale, "data": data, "seeds": seeds, "rows": named})
    else:
        drawn = _table_of_ways if table == "cache" else _table
        console().print(_annotated(drawn(plans[0], rows, session), plans[0], rows))
    return code


def _shape_of(model: Run | None) -> dict[str, Any]:
    """Of a run's model, as settings."""
    shape = model.read().shape if model is not None else {}
    return {name: value for name, value in shape.items() if name in ModelConfig.model_fields}


def _table(reproduction: Reproduction, rows: list[dict[str, Any]], session: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("run", "row"):
        table.add_column(head)
    published = any(row.published.valid or row.published.test for row in reproduction.rows)
    figures = _FIGURES if published else {"valid": "valid", "test": "test"}
    for head in ("sparsity", *figures.values(), *["size", "tokens/s"] * reproduction.sized):
        table.add_column(head, justify="right")
    open_ones = any(row["status"] != "finished" for row in rows)
    if open_ones:
        table.add_column("status")
    for row, of_plan in zip(rows, reproduction.shown, strict=True):
        mark = reproduction.mark(of_plan)
        cells = [_figure(row, key, mark) for key in figures]
        unpublished = all(row[f"published_{key}_ppl"] is None for key in ("valid", "test"))
        sparsity = row["sparsity"]
        share = "" if sparsity is None else f"{sparsity:.1%}"
        name = row["name"] + (mark if unpublished else "")
        rate = f"{row['tokens_per_s']:,.0f}" if row["tokens_per_s"] else ""
        table.add_row(
            ", ".join(_names(row, session)),
            name,
            share,
            *cells,
            *[size(row["bytes"]), rate] * reproduction.sized,
            *[row["status"]] * open_ones,
        )
    return table


def _table_of_ways(reproduction: Reproduction, rows: list[dict[str, Any]], session: str) -> Table:
    """A column for each way to score one model, as such figures do not compare."""
    table = Table("test perplexity", box=None, pad_edge=False, header_style="bold")
    marks = [reproduction.mark(row) for row in reproduction.shown]
    for row, mark in zip(rows, marks, strict=True):
        known = row["published_test_ppl"] is not None
        table.add_column(row["name"] + ("" if known else mark), justify="right")
    for head, key in (("published", "published_test"), ("ours", "test")):
        table.add_row(
            head, *(_figure(row, key, mark) for row, mark in zip(rows, marks, strict=True))
        )
    table.add_row("run", *("\n".join(_names(row, session)) for row in rows))
    if any(row["status"] != "finished" for row in rows):
        table.add_row("status", *(row["status"] for row in rows))
    return table


def _names(row: dict[str, Any], session: str) -> list[str]:
    """The runs of a row, as they are called within the session."""
    return [ref.removeprefix(f"{session}/") for ref in row.get("runs", [row["run"]])]


def _by_figure(of_plan: Row, row: dict[str, Any]) -> dict[str, Any]:
    """A row of JSON, in which a perplexity with a cache or of dynamic evaluation is called so."""
    return {key.replace("test_ppl", of_plan.figure): value for key, value in row.items()}


def _annotated(table: Table, reproduction: Reproduction, rows: list[dict[str, Any]]) -> Table:
    notes = [reproduction.note] if reproduction.note else []
    notes += ["tokens/s: scoring test with the packed file"] if reproduction.sized else []
    notes += [OVER_SEEDS] if any(row.get("n") for row in rows) else []
    if notes:
        table.caption = "\n".join(notes)
        table.caption_justify = "left"
    return table


_FIGURES = {
    "published_valid": "published valid",
    "valid": "ours",
    "published_test": "published test",
    "test": "ours",
}


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
