"""Runs that differ in seed alone, as one setting: mean, standard deviation and how many. No torch.

A figure of one seed says little of a setting. Runs belong together where kind and settings are the
same but for the seed, and so are those of the runs that they came from, all the way up.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lmbench.session.store import Run, RunRecord

__all__ = ["Spread", "inside_spread", "one_setting", "spread_of"]


@dataclass(frozen=True)
class Spread:
    """The mean of a figure over `n` seeds, and the sample standard deviation (that divides by
    n - 1), None for one seed."""

    mean: float
    deviation: float | None
    n: int

    def text(self, digits: int = 1) -> str:
        """``83.4 ± 0.6, n = 3``; of one seed the figure alone."""
        if self.deviation is None:
            return f"{self.mean:,.{digits}f}"
        return f"{self.mean:,.{digits}f} ± {self.deviation:,.{digits}f}, n = {self.n}"


def spread_of(values: Iterable[float | None]) -> Spread | None:
    """Of the finite figures among `values`; None where there is none."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return Spread(statistics.fmean(known), deviation, len(known))


def inside_spread(a: Spread, b: Spread) -> bool:
    """Is the difference of two means no larger than the standard deviation of the difference of two
    such figures, √(s² + t²)? False where either is of one seed: of that no spread is known."""
    if a.deviation is None or b.deviation is None:
        return False
    return abs(a.mean - b.mean) <= math.hypot(a.deviation, b.deviation)


def one_setting(
    runs: Sequence[Run], records: Mapping[str, RunRecord] | None = None
) -> list[list[Run]]:
    """The runs in groups that differ in seed alone, in the order of each group's first run.

    A run whose seeds are in its group already, or whose corpus is another one of the same name, is
    no further sample of the setting: it begins a group of its own.

    Args:
        records: those that were read already, by the runs' names.

    Raises:
        LmbenchError: a run's record is damaged.
    """
    chains = _Chains(records or {})
    groups: list[tuple[list[Run], set[tuple[str, ...]], str | None]] = []
    of_setting: dict[str, list[int]] = {}
    for run in runs:
        chain = chains.of(run)
        candidates = of_setting.setdefault(chain.setting, [])
        for number in candidates:
            members, seeds, corpus = groups[number]
            if chain.seeds not in seeds and (
                chain.corpus == corpus or None in (chain.corpus, corpus)
            ):
                members.append(run)
                seeds.add(chain.seeds)
                groups[number] = (members, seeds, corpus or chain.corpus)
                break
        else:
            candidates.append(len(groups))
            groups.append(([run], {chain.seeds}, chain.corpus))
    return [members for members, _, _ in groups]


@dataclass(frozen=True)
class _Chain:
    """A run and all that it came from: a hash of the settings without seeds, the seeds, the
    corpus."""

    setting: str = ""
    seeds: tuple[str, ...] = ()
    corpus: str | None = None


class _Chains:
    """Each run's chain, its record read once however many runs came from it."""

    def __init__(self, records: Mapping[str, RunRecord]) -> None:
        self._records = records
        self._known: dict[tuple[Path, str], _Chain] = {}

    def of(self, run: Run) -> _Chain:
        way: dict[str, tuple[Run, RunRecord]] = {}
        ref: str | None = run.ref
        before = _Chain()
        while ref is not None:
            if (run.home.path, ref) in self._known:
                before = self._known[run.home.path, ref]
                break
            # A chain that leads back to itself is nobody's but a forger's.
            kin = None if ref in way else run if ref == run.ref else run.home.run_of(ref)
            record = kin and self._records.get(ref)
            if kin and record is None:
                record = run.read() if kin is run else kin.read_if_readable()
            if kin is None or record is None:
                # It is gone; its name still tells it from others.
                before = _Chain(ref)
                break
            way[ref] = kin, record
            ref = record.parent
        for ref, (kin, record) in reversed(way.items()):
            before = self._known[run.home.path, ref] = _after(before, kin, record)
        return before


def _after(before: _Chain, run: Run, record: RunRecord) -> _Chain:
    settings = {key: value for key, value in record.config.items() if key != "seed"}
    # Of a model from a file nothing tells how it was trained.
    text = json.dumps([record.kind, settings, before.setting, record.imported], sort_keys=True)
    setting = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for name in ("schedule.yaml", "quantization.yaml"):
        # The run's own copy: the file that the settings name may have been edited since.
        with suppress(OSError):
            setting.update(name.encode() + (run.path / name).read_bytes())
    return _Chain(
        setting.hexdigest(),
        (json.dumps(record.config.get("seed")), *before.seeds),
        record.corpus.fingerprint if record.corpus else None,
    )
