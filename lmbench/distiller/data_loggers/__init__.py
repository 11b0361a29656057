"""Collectors of activation statistics, under the original's names."""

from .collector import QuantCalibrationStatsCollector, collect_quant_stats, collector_context

__all__ = ["QuantCalibrationStatsCollector", "collect_quant_stats", "collector_context"]
