"""``lmbench compare`` and ``lmbench report``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.text import Text

from lmbench.cli.flags import free_place, refuse_flags, write_new
from lmbench.cli.output import (
    WIDE,
    Json,
    SessionName,
    complain,
    console,
    print_json,
    print_line,
    write,
)
from lmbench.errors import LmbenchError
from lmbench.report.compare import (
    compare_runs,
    compare_runtimes,
    readable,
    report_session,
)
from lmbench.report.tables import FittingTable
from lmbench.session import Home, Run, Session

__all__ = ["compare", "report"]

# Columns that a narrow terminal does without, the first of them first.
_SPARE = (
    *("kind", "ms_per_token", "nonzero", "test_bits_per_character"),
    *("ms_p95", "peak", "numbers", "score_vs_naive", "step_vs_naive"),
)


def compare(
    *runs: str,
    format: Annotated[
        Literal["table", "markdown", "csv", "latex"], Parameter(help="how to write it")
    ] = "table",
    runtimes: Annotated[
        bool,
        Parameter(negative="", help="a line for each runtime that `lmbench benchmark` measured"),
    ] = False,
    each: Annotated[
        bool,
        Parameter(negative="", help="a line for each run, also where they differ in seed alone"),
    ] = False,
    session: SessionName = "default",
    json: Json = False,
) -> None:
    """Show runs side by side: sparsity, parameters, perplexity, bytes, speed.

    Runs that differ in seed alone are one line: mean, sample standard deviation, and how many.

    With --runtimes: bytes, memory, speed and perplexity in each runtime, by the newest benchmark of
    this machine.

    Args:
        runs: the runs (SESSION/3, 3, @, paths); left out: all of the session that have a
            model, or had one.
    """
    if json:
        refuse_flags("--json is a format of its own", format=format != "table")
    if runtimes:
        refuse_flags("--runtimes has a line for each run in any case", each=each)
    home = Home.find()
    found = [home.find_run(ref, session) for ref in runs]
    if not found:
        kinds = ("train", "prune", "quantize", "pack")
        models = [run for run in _readable(home.session(session)) if run.read().kind in kinds]
        found = [run for run in models if run.has_model or run.read().results]
    comparison = compare_runtimes(found) if runtimes else compare_runs(found, over_seeds=not each)
    if runtimes and not comparison.rows:
        names = shlex.join(run.ref for run in found if run.has_model) or "@"
        raise LmbenchError(f"none of these was measured on this machine: lmbench benchmark {names}")
    if json:
        print_json(list(comparison.rows))
    elif format != "table":
        write(comparison.write(format))
    else:
        sides, keys = comparison.alignment(), [key for key, _ in comparison.columns]
        console(pipe_width=WIDE).print(
            FittingTable(
                [head for _, head in comparison.columns],
                [list(map(Text, row)) for row in comparison.cells()],
                sides,
                cut=keys.index("model" if runtimes else "name"),
                spare=[keys.index(key) for key in _SPARE if key in keys],
                notes=[comparison.note] * bool(comparison.note),
            )
        )


def _readable(session: Session) -> list[Run]:
    """The session's runs; of those whose records cannot be read a complaint."""
    runs, damaged = readable(session.runs())
    for name, problem, _ in damaged:
        complain(f"{name}: {problem}")
    return runs


def report(
    session: Annotated[str, Parameter(help="the session's name")] = "default",
    *,
    output: Annotated[
        Path | None, Parameter(name=("--output", "-o"), help="a file ending in .md or .html")
    ] = None,
    json: Json = False,
) -> None:
    """Write a session as one Markdown or HTML file: its table and commands, in HTML its curves."""
    found = Home.find().session(session)
    if json:
        refuse_flags("the document goes to stdout with --json", output=output)
        print_json(list(compare_runs(_readable(found), over_seeds=True).rows))
        return
    if output is None:
        write(report_session(found, "markdown"))
        return
    if output.suffix not in (".md", ".html"):
        raise LmbenchError(f"{output}: name a file that ends in .md or .html")
    place = free_place("--output", output)
    form = "html" if output.suffix == ".html" else "markdown"
    write_new("--output", place, report_session(found, form).encode())
    print_line(f"wrote {output}")
