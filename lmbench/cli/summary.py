"""``lmbench summary``: the tables of a model."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from lmbench.cli.flags import refuse_flags
from lmbench.cli.output import Json, SessionName, console, print_json, write
from lmbench.cli.progress import corpus_progress
from lmbench.config import TrainConfig
from lmbench.distiller.reports.table import Table
from lmbench.errors import LmbenchError
from lmbench.printable import csv_text
from lmbench.session import Home, Run

__all__ = ["summarise_untrained", "summary"]

Kind = Literal["sparsity", "model", "modules", "percentile", "masks", "quantization"]


def summary(
    run: str = "@",
    /,
    *,
    kind: Annotated[
        Kind | None,
        Parameter(
            help="which table; percentile shows the q of the Baidu pruner, masks what the schedule "
            "of a pruned run has masked at its last checkpoint, quantization each module's "
            "settings and error (SQNR); left out: quantization for a quantize run, else sparsity"
        ),
    ] = None,
    gross: Annotated[
        bool,
        Parameter(negative="", help="count as the original did, tied weights under each name"),
    ] = False,
    checkpoint: Annotated[
        Literal["best", "last"], Parameter(help="which checkpoint of the run")
    ] = "best",
    csv: Annotated[bool, Parameter(negative="", help="comma-separated values on stdout")] = False,
    session: SessionName = "default",
    json: Json = False,
) -> None:
    """Show a table of a run's model.

    Args:
        run: the run (SESSION/3, 3, @, a path).
    """
    from lmbench.report.quantized_modules import quantized_modules

    if json:
        refuse_flags("--json is a format of its own", csv=csv)
    found = Home.find().find_run(run, session, with_model=True)
    kind = kind or ("quantization" if found.read().kind == "quantize" else "sparsity")
    if kind != "sparsity":
        refuse_flags(f"does nothing beside --kind {kind}", gross=gross)
    if kind in ("masks", "quantization"):
        refuse_flags(f"does nothing beside --kind {kind}", checkpoint=checkpoint != "best")
    if kind == "masks":
        table = _masks(found)
    elif kind == "quantization":
        table = quantized_modules(found)
    else:
        from lmbench.deploy.load_model import load_run
        from lmbench.distiller.reports.modules_table import summary_table

        table = summary_table(load_run(found, checkpoint).model, kind, gross)
    _show(table, kind, csv=csv, json=json, run=str(found.path))


def summarise_untrained(config: TrainConfig, kind: str, *, json: bool) -> int:
    """``lmbench train --summary KIND``: the table of the model that would be trained."""
    from lmbench.corpus import open_corpus
    from lmbench.distiller.reports.modules_table import summary_table
    from lmbench.model import build_model

    if kind not in ("sparsity", "model", "modules", "percentile"):
        raise LmbenchError(
            f"--summary {kind}: use sparsity, model, modules or percentile (the original's png "
            "drew a graph; lmbench export --format onnx writes one that viewers open)"
        )
    with corpus_progress() as progress:
        corpus = open_corpus(config.data, Home.find().path, vocab=config.vocab, progress=progress)
    _show(summary_table(build_model(config, corpus.ntokens), kind), kind, json=json)
    return 0


def _masks(run: Run) -> Table:
    """The masks that the trainer of a run has kept.

    Raises:
        LmbenchError: no schedule has pruned the run.
    """
    from lmbench.distiller.reports.sparsity_tables import masks_table
    from lmbench.distiller.schedules.nested_state import join_state
    from lmbench.training.checkpoint import read_checkpoint

    config, folder = run.config(), run.checkpoint("last")
    if not isinstance(config, TrainConfig) or config.compress is None or folder is None:
        raise LmbenchError(
            f"run {run.ref} has no masks, as no schedule has pruned it: name a prune run, or use "
            "--kind sparsity"
        )
    return masks_table(join_state(*read_checkpoint(folder))["scheduler"]["masks_dict"])


def _show(
    table: Table, kind: str, *, csv: bool = False, json: bool = False, run: str | None = None
) -> None:
    if json:
        print_json({"run": run, "kind": kind, **table.to_json()})
    elif csv:
        columns = [column.key for column in table.columns]
        write(csv_text([columns, *table.all_rows]))
    else:
        console().print(table.to_rich())
