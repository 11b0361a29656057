"""The kinds of run, and the settings of each. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from lmbench.config.packing import PackConfig
from lmbench.config.quantize import QuantizeConfig
from lmbench.config.scoring import BenchmarkConfig, EvaluateConfig, SensitivityConfig
from lmbench.config.setting import Config, validate
from lmbench.config.training import PruneConfig, TrainConfig

__all__ = ["CONFIGS", "Kind", "parse_config"]


Kind = Literal["train", "prune", "quantize", "sensitivity", "evaluate", "benchmark", "pack"]

CONFIGS: Mapping[Kind, type[Config]] = {
    "train": TrainConfig,
    "prune": PruneConfig,
    "quantize": QuantizeConfig,
    "sensitivity": SensitivityConfig,
    "evaluate": EvaluateConfig,
    "benchmark": BenchmarkConfig,
    "pack": PackConfig,
}


def parse_config(kind: Kind, values: Mapping[str, Any]) -> Config:
    """The settings of a run of this kind, checked; see `validate`."""
    return validate(CONFIGS[kind], values)
