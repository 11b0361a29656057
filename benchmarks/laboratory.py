"""How long the laboratory takes to evaluate a setting.

    python benchmarks/laboratory.py RUN [--tokens N] [--threads N] [--quick] [--json]

RUN is a trained run, as `lmbench` names it. The laboratory's own code answers, in this process:
setting up, the model as it is, each preset, and the pruning slider at three places. Each evaluation
has the seconds that it took, as the workbench gets them.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch

from lmbench.jobs.hosts.laboratory import Laboratory
from lmbench.jobs.hosts.laboratory_messages import (
    SAMPLE_TOKENS,
    Evaluate,
    Evaluated,
    Message,
    OpenModel,
    Prune,
    Ready,
    Refused,
)
from lmbench.session import Home

LEVELS = (0.5, 0.8, 0.9)
QUICK_PRESETS = 3


class OpenedModel:
    """A laboratory whose answers are waited for."""

    def __init__(self) -> None:
        self._answers: list[Message] = []
        self._laboratory = Laboratory(self._answers.append)

    def ask(self, request: Message) -> Message:
        """The final answer to a request.

        Raises:
            SystemExit: the laboratory refused it.
        """
        self._answers.clear()
        self._laboratory.handle(request)
        answer = self._answers[-1]
        if isinstance(answer, Refused):
            raise SystemExit(f"the laboratory refused: {answer.reason}")
        return answer

    def evaluate(self, request: Message) -> Evaluated:
        answer = self.ask(request)
        assert isinstance(answer, Evaluated)
        return answer


def measure(folder: str, tokens: int, threads: int, quick: bool) -> dict[str, Any]:
    model = OpenedModel()
    began = time.perf_counter()
    ready = model.ask(OpenModel(id=1, run=folder, tokens=tokens, threads=threads))
    assert isinstance(ready, Ready)
    seconds = time.perf_counter() - began
    presets = ready.presets[:QUICK_PRESETS] if quick else ready.presets
    rows: dict[str, Evaluated] = {"as it is": model.evaluate(Evaluate(id=2))}
    for preset in presets:
        rows[preset.name] = model.evaluate(Evaluate(id=3, settings=preset.settings))
    for level in LEVELS[:1] if quick else LEVELS:
        rows[f"pruned {level:.0%}"] = model.evaluate(Prune(id=4, target="model", level=level))
    return {
        "benchmark": "laboratory",
        "run": folder,
        "tokens": ready.tokens,
        "threads": torch.get_num_threads(),
        "setting_up_s": seconds,
        "evaluations": {
            name: {"seconds": row.seconds, "ppl": row.ppl, "loss": row.loss}
            for name, row in rows.items()
        },
        "slowest_s": max(row.seconds for row in rows.values()),
        "machine": {"processor": platform.machine(), "torch": torch.__version__},
    }


def show(result: Mapping[str, Any]) -> None:
    print(f"{result['tokens']:,} tokens, {result['threads']} threads")
    print(
        f"setting up, with calibration where it was not done before: {result['setting_up_s']:.1f} s"
    )
    for name, row in result["evaluations"].items():
        print(f"{name:30}{row['seconds']:8.2f} s   ppl {row['ppl']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the laboratory's evaluations.")
    parser.add_argument("run", help="a trained run: SESSION/3, or a folder")
    parser.add_argument("--tokens", type=int, default=SAMPLE_TOKENS, help="of the sample")
    parser.add_argument("--threads", type=int, default=0, help="0 takes one for each core")
    parser.add_argument("--quick", action="store_true", help="fewer settings, under 50 seconds")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args()
    run = Home.find().find_run(options.run, "default", with_model=True)
    result = measure(str(run.path), options.tokens, options.threads, options.quick)
    if options.json:
        json.dump(result, sys.stdout, indent=2)
        print()
    else:
        show(result)


if __name__ == "__main__":
    main()
