"""Loggers and collectors of activation statistics, under the original's names."""

from lmbench.distiller.reports.data_loggers.collector import (
    QuantCalibrationStatsCollector,
    collect_quant_stats,
    collector_context,
)
from lmbench.distiller.reports.data_loggers.logger import (
    CsvLogger,
    DataLogger,
    PythonLogger,
    TensorBoardLogger,
)

__all__ = [
    "CsvLogger",
    "DataLogger",
    "PythonLogger",
    "QuantCalibrationStatsCollector",
    "TensorBoardLogger",
    "collect_quant_stats",
    "collector_context",
]
