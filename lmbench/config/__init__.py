"""Every setting of every kind of run, once: default, bounds, unit and help.

The command line's flags (`lmbench.cli.flags`), the workbench's forms, `run.json` and
``docs/reference.md`` are made from these models, so nothing about a setting is written twice. No
torch here.

To read top to bottom: `setting` (what a setting is), `machine` (where a run computes), then a file
for each thing that a run does (`training`, `quantize`, `scoring`, `packing`, `generation`) and
`corpus_making`, and `kinds`, the table of them.
"""

from lmbench.config.corpus_making import DataMakeConfig
from lmbench.config.generation import WORKBENCH_GENERATION, GenerateConfig
from lmbench.config.kinds import CONFIGS, Kind, parse_config
from lmbench.config.machine import MachineConfig, SplitName
from lmbench.config.packing import PackConfig
from lmbench.config.quantize import QuantizeConfig
from lmbench.config.scoring import (
    BenchmarkConfig,
    EvaluateConfig,
    RescoreConfig,
    ScoreConfig,
    SensitivityConfig,
)
from lmbench.config.setting import Config, changed_settings, flag_of, validate
from lmbench.config.training import ModelConfig, PruneConfig, TrainConfig

__all__ = [
    "CONFIGS",
    "WORKBENCH_GENERATION",
    "BenchmarkConfig",
    "Config",
    "DataMakeConfig",
    "EvaluateConfig",
    "GenerateConfig",
    "Kind",
    "MachineConfig",
    "ModelConfig",
    "PackConfig",
    "PruneConfig",
    "QuantizeConfig",
    "RescoreConfig",
    "ScoreConfig",
    "SensitivityConfig",
    "SplitName",
    "TrainConfig",
    "changed_settings",
    "flag_of",
    "parse_config",
    "validate",
]
