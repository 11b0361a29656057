"""A small session with every kind of run, made without any training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from live_runs import make_live

from lmbench.config import PruneConfig, QuantizeConfig, TrainConfig
from lmbench.session import EventWriter, Home, Run, Session
from lmbench.session import events as ev
from lmbench.session.store import Corpus
from lmbench.tui.app import Workbench
from lmbench.tui.bench.session_watcher import Watcher
from lmbench.tui.bench.snapshots import Snapshot

# 2026-03-14 12:00 UTC
NOON = 1_773_489_600.0
SHAPES = {
    "encoder.weight": (33278, 200),
    "rnn.weight_ih_l0": (800, 200),
    "rnn.weight_hh_l0": (800, 200),
    "rnn.weight_ih_l1": (800, 200),
    "rnn.weight_hh_l1": (800, 200),
}


def step(number: int, t: float | None = None) -> ev.Step:
    return ev.Step(
        t=float(number) if t is None else t, step=number, epoch=1, batch=number, loss=5.0,
        ppl=148.4, lr=20.0, grad_norm=0.5, tokens_per_s=100.0,
    )  # fmt: skip


STARTED = ev.RunStarted(t=0.0, device="cpu", epochs=2, steps_per_epoch=50, total_steps=100)
"""Of a training of such steps."""


def looked(watcher: Watcher) -> Snapshot:
    """All that there is to show, in as many slices as this machine needs for it."""
    snapshot = watcher.poll()
    while watcher.unread:
        snapshot = watcher.poll() or snapshot
    assert snapshot is not None
    return snapshot


def wobble(step: int) -> float:
    """A noise that is the same on every machine."""
    return 0.06 * math.sin(12.9898 * step) + 0.04 * math.sin(78.233 * step)


def training(
    writer: EventWriter, *, steps: int, of: int, epochs: int, floor: float, t: float, lr: float
) -> None:
    """The events of a training of `of` steps that has come to `steps`."""
    per_epoch = of // epochs
    writer.write(
        ev.RunStarted(
            t=t, device="cpu", threads=2, parameters=7_295_600, epochs=epochs,
            steps_per_epoch=per_epoch, total_steps=of,
        )
    )  # fmt: skip
    best, rate = math.inf, lr
    for step in range(10, steps + 1, 10):
        epoch = (step - 1) // per_epoch + 1
        t += 1.6
        loss = floor + 4.6 * math.exp(-step / (0.12 * of)) + wobble(step)
        writer.write(
            ev.Step(
                t=t, step=step, epoch=epoch, batch=(step - 1) % per_epoch + 1, loss=loss,
                ppl=math.exp(loss), lr=rate, grad_norm=0.4 + abs(wobble(step + 3)),
                tokens_per_s=4400 + 900 * wobble(step), memory=1_288_000_000, utilisation=187.0,
            )
        )  # fmt: skip
        if step % per_epoch == 0:
            valid = floor + 0.25 + 2.2 * math.exp(-epoch / (0.3 * epochs))
            best = min(best, valid)
            t += 4
            writer.write(
                ev.Epoch(
                    t=t, epoch=epoch, step=step, train_loss=loss, valid_loss=valid,
                    valid_ppl=math.exp(valid), best_valid_loss=best, best_epoch=epoch, lr=rate,
                    seconds=1.6 * per_epoch / 10 + 4,
                )
            )  # fmt: skip
            writer.write(ev.Checkpoint(t=t, which="best", step=step, epoch=epoch))
            if epoch * 2 >= epochs:
                rate /= 2


def sparsity(writer: EventWriter, *, upto: int, of: int, t: float) -> None:
    """Pruning steps along AGP's curve, every hundredth step."""
    for step in range(100, upto + 1, 100):
        share = 1 - (1 - step / of) ** 3
        rows, zeros, total = [], 0, 0
        for name, (height, width) in SHAPES.items():
            reached = (0.85 if name.startswith("encoder") else 0.74) * share
            count = height * width
            nnz = round(count * (1 - reached))
            zeros, total = zeros + count - nnz, total + count
            writer.write(
                ev.PruneStep(
                    t=t + step * 0.16, step=step, epoch=step * 6 // of + 1, param=name,
                    target=reached, reached=1 - nnz / count,
                )
            )  # fmt: skip
            rows.append(
                {
                    "name": name, "shape": [height, width], "dense": count, "nnz": nnz,
                    "fine": 100 * (1 - nnz / count), "rows": 0.0, "cols": 0.0,
                    "std": 0.05, "mean": 0.0001, "abs_mean": 0.021,
                }
            )  # fmt: skip
        writer.write(
            ev.Sparsity(
                t=t + step * 0.16, step=step, epoch=step * 6 // of + 1, tensors=tuple(rows),
                parameters=total, nonzero=total - zeros, total=zeros / total,
            )
        )  # fmt: skip


class Opened:
    """A home with one session, as the workbench shows it."""

    home: Home
    session: Session

    def bench(self, session: Session | None = None, **arguments: Any) -> Workbench:
        arguments.setdefault("clock", lambda: NOON + 1600)
        arguments.setdefault("follow", False)
        return Workbench(self.home, session or self.session, **arguments)

    def live(self, run: Run, **record: Any) -> None:
        make_live(run, started=NOON, **record)


class World(Opened):
    """A way to add runs to it, too."""

    def __init__(self, path: Path) -> None:
        self.home = Home(path)
        self.session = self.home.open_session("demo")

    def new(self, kind: str, name: str, parent: Run | None = None, **record: Any) -> Run:
        config = {"train": TrainConfig, "prune": PruneConfig}.get(kind, QuantizeConfig)()
        run = self.session.new_run(config, kind, name=name, parent=parent)  # type: ignore[arg-type]
        run.update(created=NOON, corpus=Corpus(name="wikitext-2", fingerprint="00"), **record)
        return run

    def write(self, run: Run, *events: ev.Event) -> None:
        writer = EventWriter(run.events_path)
        for event in events:
            writer.write(event)
        writer.close()

    def full(self) -> Session:
        """dense (finished) → agp-80 (running) → int8 (queued); dense → int8 (finished)."""
        dense = self.new(
            "train", "dense", status="finished", results={
                "valid_ppl": 124.1, "test_ppl": 118.3, "parameters": 7_295_600,
                "nonzero": 7_295_600, "bytes": 29_321_000, "tokens_per_s": 4410.0,
            },
        )  # fmt: skip
        writer = EventWriter(dense.events_path)
        training(writer, steps=6000, of=6000, epochs=6, floor=4.55, t=NOON, lr=20.0)
        writer.write(
            ev.Finished(t=NOON + 990, status="finished", seconds=990.0, test_loss=4.77,
                        test_ppl=118.3)
        )  # fmt: skip
        writer.close()
        pruned = self.new("prune", "agp-80", dense)
        writer = EventWriter(pruned.events_path)
        training(writer, steps=3660, of=6000, epochs=6, floor=4.6, t=NOON + 1000, lr=10.0)
        sparsity(writer, upto=3600, of=6000, t=NOON + 1000)
        writer.close()
        self.live(pruned)
        self.new(
            "quantize", "int8", dense, status="finished", results={
                "valid_ppl": 124.6, "test_ppl": 118.9, "parameters": 7_295_600,
                "nonzero": 7_295_600, "bytes": 7_400_000, "tokens_per_s": 1633.0,
            },
        )  # fmt: skip
        self.new("quantize", "int8 of agp", pruned)
        return self.session
