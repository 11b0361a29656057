"""Loggers and collectors of activation statistics, under the original's names."""

from lmbench.distiller.reports.data_loggers.collector import (
    ActivationHistogramsCollector,
    ActivationStatsCollector,
    CollectorDirection,
    QuantCalibrationStatsCollector,
    RawActivationsCollector,
    RecordsActivationStatsCollector,
    SummaryActivationStatsCollector,
    collect_histograms,
    collect_quant_stats,
    collect_raw_outputs,
    collector_context,
    collectors_context,
)
from lmbench.distiller.reports.data_loggers.logger import (
    CsvLogger,
    DataLogger,
    NullLogger,
    PythonLogger,
    TensorBoardLogger,
)

__all__ = [
    "ActivationHistogramsCollector",
    "ActivationStatsCollector",
    "CollectorDirection",
    "CsvLogger",
    "DataLogger",
    "NullLogger",
    "PythonLogger",
    "QuantCalibrationStatsCollector",
    "RawActivationsCollector",
    "RecordsActivationStatsCollector",
    "SummaryActivationStatsCollector",
    "TensorBoardLogger",
    "collect_histograms",
    "collect_quant_stats",
    "collect_raw_outputs",
    "collector_context",
    "collectors_context",
]
