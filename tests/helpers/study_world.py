"""A session with a sweep at work, made without any training."""

from __future__ import annotations

import math
from typing import Any

from sweep_world import write_sweep
from workbench_world import NOON, Opened

from lmbench.jobs.sweeps import control
from lmbench.session import EventWriter, Home, Run
from lmbench.session import events as ev

STUDY = """version: 1
name: lr and sparsity
seeds: 2
early_stopping: true
stages:
  - kind: train
    settings: {data: tiny, emsize: 8, nhid: 8, nlayers: 1, tied: true, epochs: 6, threads: 1}
    axes:
      lr: [1.0, 5.0, 20.0]
  - kind: prune
    axes:
      compress: [levels/agp-50.yaml, levels/agp-80.yaml]
"""
PPL = {1.0: 96.0, 5.0: 83.0, 20.0: 131.0}
SHARE = {"50": 0.5, "80": 0.8}
REASON = "stopped early at rung 1 (epoch 2): valid ppl 131.40, had to beat 96.40"


class StudyWorld(Opened):
    """`text` is the sweep's file; its runs are made and wait."""

    def __init__(self, home: Home, text: str = STUDY) -> None:
        self.home = home
        file = write_sweep(home.path.parent / "files", text)
        self.session, runs = control.start(control.prepare(file, home), home)
        self.runs = {run.id: run for run in runs}

    def finish(self, run: Run) -> None:
        """With the figures that a training of its settings might have come to."""
        record = run.read()
        config, seed = record.config, record.config.get("seed", 1111)
        share = SHARE.get(str(config.get("compress", ""))[-7:-5], 0.0)
        ppl = PPL[config.get("lr", 20.0)] * (1 + 0.4 * share**3) + 0.8 * (seed - 1111)
        results = {
            "valid_ppl": ppl, "test_ppl": ppl - 4.0, "parameters": 1000,
            "nonzero": round(1000 * (1 - share)), "sparsity": share, "rungs": {"2": ppl + 9.0},
            "packed_bytes" if share else "bytes": round(5400 * (1 - share) + 600),
        }  # fmt: skip
        self.course(run, ppl, 6)
        run.update(status="finished", created=NOON, results=results)

    def course(self, run: Run, ppl: float, epochs: int) -> None:
        """The events of so many epochs."""
        writer = EventWriter(run.events_path)
        writer.write(
            ev.RunStarted(t=NOON, device="cpu", epochs=6, steps_per_epoch=50, total_steps=300)
        )
        for epoch in range(1, epochs + 1):
            loss = math.log(ppl) + 2.0 * math.exp(-epoch)
            writer.write(
                ev.Epoch(
                    t=NOON + epoch, epoch=epoch, step=50 * epoch, train_loss=loss, valid_loss=loss,
                    valid_ppl=math.exp(loss), best_valid_loss=loss, best_epoch=epoch, lr=1.0,
                    seconds=1.0,
                )
            )  # fmt: skip
        writer.close()

    def full(self) -> StudyWorld:
        """Of three learning rates one stopped early, with its prunings; of the other prunings some
        are finished, one is at work, one failed, one waits."""
        for number in (1, 2, 4, 5, 7, 8, 9, 10, 13):
            self.finish(self.runs[number])
        for number in (3, 6):
            self.course(self.runs[number], 131.4, 2)
            results = {"valid_ppl": 131.4, "rungs": {"2": 131.4}}
            self.stop_early(self.runs[number], REASON, results=results)
        for number in (11, 12, 17, 18):
            self.stop_early(self.runs[number], "not begun: its parent was stopped early")
        self.course(self.runs[14], 99.0, 3)
        self.live(self.runs[14])
        self.runs[15].update(status="failed", reason="the loss is not finite")
        return self

    def stop_early(self, run: Run, reason: str, **record: Any) -> None:
        run.update(status="stopped", early_stopping="stopped", reason=reason, **record)
