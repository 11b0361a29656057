"""The combinations that a search by TPE has proposed so far, which its session keeps, and the next.

No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from lmbench.errors import LmbenchError
from lmbench.jobs.sweeps.kept_file import Made, made_records, sweep_of
from lmbench.jobs.sweeps.plan import Combination, Plan, plan_of, planned_runs
from lmbench.jobs.sweeps.sweep_file import Sweep
from lmbench.jobs.sweeps.tpe import propose
from lmbench.session.files import locked, read_json, write_json
from lmbench.session.store import RunRecord, Session

__all__ = ["add_proposal", "hold_proposals", "kept_plan", "proposals_path", "to_propose"]

_SIZES = frozenset({"compress", "emsize", "model", "nhid", "nlayers", "tied", "projection"})
"""Settings of a training that change the size of its model, as those of a quantization do."""
_VERSION = 1


def proposals_path(session: Session) -> Path:
    return session.path / "proposals.json"


def kept_plan(session: Session) -> Plan:
    """The plan of a session's sweep; of a search by TPE as far as it has come.

    Raises:
        LmbenchError: it has no sweep, or what is kept of it is damaged.
    """
    sweep = sweep_of(session)
    return plan_of(sweep, _proposals(session, sweep)[0])


def _proposals(session: Session, sweep: Sweep) -> tuple[list[Combination], bool]:
    """What was proposed, and whether nothing more is to be, since the sweep was stopped."""
    path = proposals_path(session)
    if sweep.search != "tpe" or not path.is_file():
        return [], False
    lengths = [len(values) for stage in sweep.stages for values in stage.axes.values()]

    def is_one(given: Any) -> bool:
        return (
            isinstance(given, list)
            and len(given) == len(lengths)
            and all(
                isinstance(place, int) and 0 <= place < length
                for place, length in zip(given, lengths, strict=True)
            )
        )

    document = read_json(path, version=_VERSION)
    found = document.get("proposals")
    if not isinstance(found, list) or not all(map(is_one, found)):
        raise LmbenchError(f"{path}: field 'proposals': are not combinations of the sweep's axes")
    return [tuple(given) for given in found], document.get("held") is True


def hold_proposals(session: Session, hold: bool) -> None:
    """Have a search by TPE propose nothing more, or go on proposing."""
    sweep, path = sweep_of(session), proposals_path(session)
    if sweep.search != "tpe" or not (hold or path.is_file()):
        return
    with locked(session.path / ".advance.lock"):
        _write(session, _proposals(session, sweep)[0], held=hold)


def _write(session: Session, proposals: Sequence[Combination], *, held: bool = False) -> None:
    document = {"version": _VERSION, "proposals": [list(one) for one in proposals]}
    write_json(proposals_path(session), document | ({"held": True} if held else {}))


def to_propose(plan: Plan) -> int:
    """How many combinations are still to be proposed; 0 where all runs are known beforehand."""
    sweep = plan.sweep
    return (sweep.runs or 0) - len(plan.proposals) if sweep.search == "tpe" else 0


def add_proposal(session: Session) -> None:
    """Propose one more combination, where all runs of those before have ended.

    Raises:
        LmbenchError: the sweep cannot be read, what it starts from is gone, or Optuna is not
            installed.
    """
    sweep = sweep_of(session)
    proposals, held = _proposals(session, sweep)
    plan = plan_of(sweep, proposals)
    made = made_records(session)
    ended = all(
        point.key in made and made[point.key][1].status in ("finished", "failed")
        for point in plan.points
    )
    if not ended or to_propose(plan) <= 0 or held:
        return

    # What is wrong with those that there are (a source that was deleted) is wrong with any.
    planned_runs(plan, session.path, session.home, session.name)

    def fits(combination: Combination) -> bool:
        tried = plan_of(plan.sweep, [*plan.proposals, combination])
        try:
            planned_runs(tried, session.path, session.home, session.name)
        except LmbenchError:
            return False
        return True

    results = [(one, _objectives(plan, one, made)) for one in plan.proposals]
    proposed = propose([values for _, _, values in plan.axes], results, plan.sweep.seed, fits)
    if proposed is None:
        return
    _write(session, [*plan.proposals, proposed])


def _objectives(plan: Plan, combination: Combination, made: Made) -> tuple[float, ...] | None:
    """Validation perplexity and, where an axis changes it, size: means over the seeds of the last
    stage; None where none of them has both."""
    taken = tuple(enumerate(combination))
    last = len(plan.sweep.stages) - 1
    records = [
        made[point.key][1] for point in plan.points if (point.stage, point.taken) == (last, taken)
    ]
    found = [_of_record(record) for record in records if record.status == "finished"]
    known = [(ppl, size) for ppl, size in found if math.isfinite(ppl) and size is not None]
    if not known:
        return None
    perplexities, sizes = zip(*known, strict=True)
    by_size = any(
        setting in _SIZES or plan.sweep.stages[stage].kind == "quantize"
        for stage, setting, _ in plan.axes
    )
    return (fmean(perplexities), fmean(sizes)) if by_size else (fmean(perplexities),)


def _of_record(record: RunRecord) -> tuple[float, int | None]:
    ppl = record.results.get("valid_ppl")
    return math.inf if ppl is None else ppl, record.size.bytes
