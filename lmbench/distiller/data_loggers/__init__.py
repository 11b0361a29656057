"""Loggers and collectors of activation statistics, under the original's names."""

from .collector import QuantCalibrationStatsCollector, collect_quant_stats, collector_context
from .logger import CsvLogger, DataLogger, PythonLogger, TensorBoardLogger

__all__ = [
    "CsvLogger",
    "DataLogger",
    "PythonLogger",
    "QuantCalibrationStatsCollector",
    "TensorBoardLogger",
    "collect_quant_stats",
    "collector_context",
]
