"""A working folder with a small corpus, and a small run of each kind that computes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from lmbench.config import (
    Config,
    EvaluateConfig,
    Kind,
    PackConfig,
    PruneConfig,
    QuantizeConfig,
    SensitivityConfig,
    TrainConfig,
)
from lmbench.jobs import launch
from lmbench.jobs.prepare import make_run
from lmbench.session import Home, Run

ONE_CORE: dict[str, Any] = {"threads": 1, "device": "cpu"}
SMALL: dict[str, Any] = ONE_CORE | {
    **{"data": "tiny", "emsize": 16, "nhid": 16, "tied": True, "lr": 2.0, "momentum": 0.5},
    **{"batch_size": 8, "bptt": 10, "precision": "fp32"},
    **{"epochs": 2, "event_interval": 2, "checkpoint_every": 0.001},
}


def pruning_schedule(epochs: int) -> str:
    """AGP over the first `epochs`."""
    return f"""
version: 1
pruners:
  agp:
    class: AutomatedGradualPruner
    initial_sparsity: 0.05
    final_sparsity: 0.7
    weights: [rnn.weight_hh_l0, encoder.weight]
policies:
  - pruner: {{instance_name: agp}}
    starting_epoch: 0
    ending_epoch: {epochs}
    frequency: 1
"""


def quantizing_schedule(epochs: int) -> str:
    """Training with a 4-bit quantizer over the first `epochs`."""
    return f"""
version: 1
quantizers:
  qat:
    class: QuantAwareTrainRangeLinearQuantizer
    bits_weights: 4
    bits_activations: 8
    per_channel_wts: false
policies:
  - quantizer: {{instance_name: qat}}
    starting_epoch: 0
    ending_epoch: {epochs}
    frequency: 1
"""


KINDS: dict[str, tuple[Kind, type[Config], dict[str, Any]]] = {
    "train": ("train", TrainConfig, SMALL),
    "prune": ("prune", PruneConfig, SMALL | {"compress": "pruned.yaml"}),
    "train under a quantizer": ("prune", PruneConfig, SMALL | {"compress": "quantized.yaml"}),
    "quantize": (
        "quantize",
        QuantizeConfig,
        {"preset": "int8-best", "threads": 1, "device": "cpu"},
    ),
    "sensitivity": ("sensitivity", SensitivityConfig, ONE_CORE),
    "pack": ("pack", PackConfig, {"threads": 1}),
    "evaluate": ("evaluate", EvaluateConfig, ONE_CORE),
}


def make_home(folder: Path) -> Home:
    generator = random.Random(5)
    (folder / "data" / "tiny").mkdir(parents=True)
    for split, lines in (("train", 150), ("valid", 30), ("test", 30)):
        text = [
            " ".join(f"w{int(60 * generator.random() ** 3)}" for _ in range(9)) + "\n"
            for _ in range(lines)
        ]
        (folder / "data" / "tiny" / f"{split}.txt").write_text("".join(text), encoding="utf-8")
    (folder / "pruned.yaml").write_text(pruning_schedule(SMALL["epochs"]), encoding="utf-8")
    (folder / "quantized.yaml").write_text(quantizing_schedule(SMALL["epochs"]), encoding="utf-8")
    return Home(folder)


def new_run(home: Home, name: str, session: str = "s", **changes: Any) -> Run:
    """A queued run, with `changes` to its settings."""
    kind, model, settings = KINDS[name]
    place = home.open_session(session)
    parent = None if name == "train" else place.run(1)
    return make_run(place, kind, model(**settings | changes), parent=parent)


def wait(run: Run) -> str:
    """Its status when it has ended."""
    *_, last = launch.follow(run)
    return last.status
