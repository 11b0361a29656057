"""Runs and sessions as documents and tables."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from lmbench.errors import LmbenchError
from lmbench.printable import printable
from lmbench.report import numbers
from lmbench.report.run_command import run_command
from lmbench.session.attempts import last_sign_of_life
from lmbench.session.store import Run

__all__ = [
    "AS_PACKED",
    "OF_A_PART",
    "PART_SIGN",
    "FittingTable",
    "run_document",
    "runs_table",
    "sessions_table",
]

_RESULTS = (
    *("valid_ppl", "test_ppl", "test_cache_ppl", "test_dynamic_ppl", "test_cache_dynamic_ppl"),
    *("parameters", "nonzero", "bytes", "packed_bytes"),
    *("tokens_per_s", "seconds"),
)
_STYLES = {
    "queued": "dim",
    "running": "green",
    "paused": "yellow",
    "finished": "",
    "stopped": "yellow",
    "stopped early": "yellow",
    "failed": "red",
    "lost": "red",
    "damaged": "red",
}
AS_PACKED = "≈ as it would be packed: the run itself keeps each of its numbers as a float"
"""What the sign of such a size means, for a line under a table."""


PART_SIGN = "*"
OF_A_PART = "* of the first tokens of the split only: compares with no other perplexity"
"""What `PART_SIGN` after a perplexity means, for a line under a table."""


# Of a column whose texts are cut where there is no room.
_LEAST = 12
_GAP = 2


@dataclass(frozen=True)
class FittingTable:
    """A table that cuts no figure: where it is too wide it leaves columns out, and says which.

    Attributes:
        headings, rows: of all columns.
        sides: for each column ``l`` (words) or ``r`` (numbers).
        cut: the column whose texts may be cut.
        spare: columns that may be left out, the first of them first.
        notes: what must be said under it.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[Text]]
    sides: str
    cut: int
    spare: Sequence[int]
    notes: Sequence[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        kept, left_out = list(range(len(self.headings))), list[str]()

        def room() -> int:
            return options.max_width - sum(needed[k] + _GAP for k in kept) + _GAP

        needed = self._widths([[heading] for heading in self.headings])
        if room() < 0:
            # A heading may be broken between its words.
            needed = self._widths([heading.split() for heading in self.headings])
        whole, needed[self.cut] = needed[self.cut], min(needed[self.cut], _LEAST)
        for at in self.spare:
            if room() >= 0:
                break
            kept.remove(at)
            left_out.append(self.headings[at])
        needed[self.cut] += max(0, min(room(), whole - needed[self.cut]))
        table = Table(box=None, pad_edge=False, header_style="bold")
        for k in kept:
            justify = "left" if self.sides[k] == "l" else "right"
            cut = k == self.cut
            table.add_column(self.headings[k], width=needed[k], justify=justify, no_wrap=cut)
        for row in self.rows:
            table.add_row(*(row[k] for k in kept))
        yield table
        told = ["without " + ", ".join(left_out) + ": the terminal is too narrow"] * bool(left_out)
        if self.notes or told:
            yield Text("\n".join((*self.notes, *told)), "dim")

    def _widths(self, headings: Iterable[list[str]]) -> list[int]:
        needed = [max(map(cell_len, parts)) for parts in headings]
        for row in self.rows:
            needed = [max(n, cell.cell_len) for n, cell in zip(needed, row, strict=True)]
        return needed


def run_document(run: Run) -> dict[str, Any]:
    """All that is known of a run, as every command's ``--json`` gives it.

    `run` is its folder. `valid_ppl`, `test_ppl`, those of test with a neural cache and by dynamic
    evaluation (`test_cache_ppl` and so on), `parameters`, `nonzero`, `bytes` (of the model's
    file), `packed_bytes` (about those of the file that packing a pruned or quantized model would
    give), `tokens_per_s` and `seconds` are None where they are not known (yet). `part_tokens` says
    of how many tokens the perplexities are, where they are of a part of a split only;
    `early_stopping` what that of its sweep made of it (`lmbench.session.records`). Of a run
    whose record is missing or damaged, `status` is ``damaged`` and `problem` says what is wrong.
    """
    try:
        record = run.read()
    except LmbenchError as error:
        known = {"run": str(run.path), "ref": run.ref, "id": run.id}
        return {**known, "status": "damaged", "problem": error.message}
    return {
        "run": str(run.path),
        "ref": run.ref,
        # The folder's: one that was copied by hand holds the other run's record.
        "id": run.id or record.id,
        "name": record.name,
        "kind": record.kind,
        "status": run.status(record),
        **{key: record.results.get(key) for key in _RESULTS},
        "part_tokens": record.part_tokens,
        "reason": record.reason,
        "early_stopping": record.early_stopping,
        "parent": record.parent,
        "device": record.device,
        "place": record.place,
        "job": record.job,
        "host": record.host,
        "attempt": record.attempt,
        "created": record.created,
        "started": record.started,
        "ended": record.ended,
        "exit_code": record.exit_code,
        "command": run_command(run, record),
        "corpus": record.corpus.model_dump(mode="json") if record.corpus else None,
        "config": record.config,
        "versions": record.versions,
        "results": record.results,
    }


def runs_table(runs: Iterable[Run]) -> FittingTable:
    """The runs, a line each; one whose record cannot be read is called damaged."""
    headings = (
        *("run", "name", "status", "valid ppl", "test ppl"),
        *("parameters", "sparsity", "size", "tok/s", "time", "parent"),
    )
    rows = [_run_cells(run) for run in runs]
    cells = [cell.plain for row in rows for cell in row[3:]]
    notes = [AS_PACKED] * any(cell.startswith("≈") for cell in cells)
    notes += [OF_A_PART] * any(cell.endswith(PART_SIGN) for cell in cells)
    spare = [headings.index(it) for it in ("parent", "time", "tok/s", "parameters", "sparsity")]
    return FittingTable(headings, rows, "lllrrrrrrrl", headings.index("name"), spare, notes)


def _run_cells(run: Run) -> list[Text]:
    record = run.read_if_readable()
    if record is None:
        return [Text(run.ref), Text(), Text("damaged", _STYLES["damaged"]), *[Text()] * 8]
    status = run.status(record)
    results = record.results
    part = PART_SIGN if record.part_tokens else ""
    sparsity = results.get("sparsity")
    seconds = results.get("seconds")
    if seconds is None and record.started and status != "queued":
        seen = last_sign_of_life(run.path, record) if status == "lost" else time.time()
        seconds = (record.ended or seen) - record.started
    texts = [
        _number(results.get("valid_ppl"), "{:.2f}" + part),
        _number(results.get("test_ppl"), "{:.2f}" + part),
        numbers.count(results.get("parameters")),
        _number(None if sparsity is None else 100 * sparsity, "{:.1f}%"),
        numbers.size(*record.size),
        _number(results.get("tokens_per_s"), "{:,.0f}"),
        numbers.duration(seconds),
        printable(record.parent or ""),
    ]
    word = "stopped early" if status == "stopped" and record.stopped_early else status
    shown = Text(word, _STYLES.get(word, ""))
    return [Text(run.ref), Text(printable(record.name)), shown, *map(Text, texts)]


def sessions_table(rows: Iterable[dict[str, Any]]) -> Table:
    """Sessions, a line each, from the documents that ``lmbench sessions list --json`` gives."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("session", no_wrap=True)
    for heading in ("runs", "live", "queued", "size"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("created", "corpus", "notes"):
        table.add_column(heading)
    for row in rows:
        table.add_row(
            Text(row["name"]),
            str(row["runs"]),
            str(row["live"]),
            str(row["queued"]),
            numbers.size(row["bytes"]),
            ""
            if row["created"] is None
            else time.strftime("%F %R", time.localtime(row["created"])),
            Text(printable(row["corpus"] or "")),
            Text(printable(row["problem"] or row["notes"])),
        )
    return table


def _number(value: Any, form: str) -> str:
    return form.format(value) if isinstance(value, int | float) else ""
