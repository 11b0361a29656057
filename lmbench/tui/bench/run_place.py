"""Where a run is worked on, where that is not this machine."""

from __future__ import annotations

import platform

from lmbench.printable import one_line
from lmbench.tui.bench.snapshots import RunView

__all__ = ["where_of"]


def where_of(view: RunView) -> str:
    """Place, host and device of a run, `slurm node3 cuda`; "" for one of this machine."""
    record = view.record
    if record is None:
        return ""
    begun = record.started is not None
    if record.place == "local" and (not begun or record.host == platform.node()):
        return ""
    place = "" if record.place == "local" else record.place
    device = view.started.device if view.started else record.device
    return one_line(" ".join(filter(None, (place, *((record.host, device) if begun else ())))))
