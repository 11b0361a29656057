"""``lmbench doctor``."""

from __future__ import annotations

from dataclasses import asdict

from rich.table import Table
from rich.text import Text

from lmbench.cli.flags import configured
from lmbench.cli.output import Json, console, print_json
from lmbench.config import TrainConfig
from lmbench.session import Home

__all__ = ["doctor"]


@configured(TrainConfig)
def doctor(config: TrainConfig, *, json: Json = False) -> None:
    """What this machine has, and what would make a training with these settings faster."""
    from lmbench.jobs.places import PLACES
    from lmbench.training.doctor import Finding, advice, bf16_speedup, examine

    found = Home.find()
    home = found.path
    speedup = bf16_speedup()
    findings = examine(home, speedup)
    for place in PLACES.values():
        refusal = place.refusal(found)
        value = refusal or place.describe()
        findings.append(Finding(f"place {place.name}", value, None if refusal else True))
    lines = advice(home, config, speedup)
    if json:
        print_json({"findings": [asdict(finding) for finding in findings], "advice": lines})
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        sign, style = {True: ("✓", "green"), False: ("!", "yellow"), None: (" ", "")}[finding.good]
        table.add_row(Text(sign, style), finding.what, finding.value)
    out = console()
    out.print(table)
    for line in lines:
        out.print(f"• {line}", soft_wrap=True)
