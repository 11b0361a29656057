"""Every setting of every kind of run, once: default, bounds, unit and help.

The command line's flags (`lmbench.cli.flags`), the workbench's forms, `run.json` and
``docs/reference.md`` are made from these models, so nothing about a setting is written twice. No
torch here.
"""

from lmbench.config.machine import MachineConfig, SplitName
from lmbench.config.quantize import QuantizeConfig
from lmbench.config.runs import (
    CONFIGS,
    KINDS,
    BenchmarkConfig,
    EvaluateConfig,
    GenerateConfig,
    Kind,
    ModelConfig,
    PackConfig,
    PruneConfig,
    SensitivityConfig,
    TrainConfig,
    parse_config,
)
from lmbench.config.setting import Config, changed_settings, flag_of, validate

__all__ = [
    "CONFIGS",
    "KINDS",
    "BenchmarkConfig",
    "Config",
    "EvaluateConfig",
    "GenerateConfig",
    "Kind",
    "MachineConfig",
    "ModelConfig",
    "PackConfig",
    "PruneConfig",
    "QuantizeConfig",
    "SensitivityConfig",
    "SplitName",
    "TrainConfig",
    "changed_settings",
    "flag_of",
    "parse_config",
    "validate",
]
