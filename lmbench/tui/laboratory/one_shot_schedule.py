"""The schedule that prunes as the laboratory's slider does: by magnitude, all at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

__all__ = ["one_shot_schedule"]

_MODEL = "model"


def one_shot_schedule(target: str, targets: Sequence[str], level: float) -> str:
    """The text of a schedule that prunes `target` to `level` before the first epoch; of the whole
    model, each matrix of `targets`."""
    tensors = [name for name in targets if name != _MODEL] if target == _MODEL else [target]
    pruner: dict[str, Any] = {
        "class": "SparsityLevelParameterPruner",
        "levels": {name: round(level, 4) for name in tensors},
    }
    policy = {
        "pruner": {"instance_name": "at_once"},
        "starting_epoch": 0,
        "ending_epoch": 1,
        "frequency": 1,
    }
    what = "Each matrix" if target == _MODEL else target
    body = {"version": 1, "pruners": {"at_once": pruner}, "policies": [policy]}
    head = f"# {what} pruned to {100 * level:.0f}% at once, by magnitude; the training follows.\n"
    return head + yaml.safe_dump(body, sort_keys=False)
