"""A schedule that prunes each matrix of a model step by step."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

__all__ = ["gradual_schedule", "pruning_epochs"]


def pruning_epochs(epochs: int) -> tuple[int, int]:
    """Over which epochs a training of so many prunes: it has a third of them left to recover."""
    return 0, max(1, epochs - max(1, epochs // 3))


def gradual_schedule(matrices: Sequence[str], level: float, epochs: int) -> str:
    """The text of a schedule that brings each of `matrices` to the sparsity `level` in a training
    of so many epochs."""
    start, end = pruning_epochs(epochs)
    pruner = {
        "class": "AutomatedGradualPruner",
        "initial_sparsity": min(0.05, level),
        "final_sparsity": level,
        "weights": list(matrices),
    }
    policy = {
        "pruner": {"instance_name": "gradual"},
        "starting_epoch": start,
        "ending_epoch": end,
        "frequency": 1,
    }
    body = {"version": 1, "pruners": {"gradual": pruner}, "policies": [policy]}
    head = f"# Each matrix pruned to {100 * level:.0f}%, step by step.\n"
    return head + yaml.safe_dump(body, sort_keys=False, default_flow_style=None, width=96)
