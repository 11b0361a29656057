"""The original's interface to calibration; the work is done in `quantization.calibration`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from lmbench.distiller.quantization.calibration import (
    ActivationStats,
    StatsCollector,
    calibrate,
    save_stats,
)

__all__ = ["QuantCalibrationStatsCollector", "collect_quant_stats", "collector_context"]


class QuantCalibrationStatsCollector(StatsCollector):
    """Statistics of inputs and outputs, for quantization.

    Args:
        model: any model.
        classes: watch only leaves of these types.
        inplace_runtime_check, disable_inplace_attrs, inplace_attr_names: accepted and not needed:
            values are copied before anything can overwrite them.
        modules_to_collect: watch only these, by name.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: Iterable[type[nn.Module]] | None = None,
        inplace_runtime_check: bool = False,
        disable_inplace_attrs: bool = False,
        inplace_attr_names: Iterable[str] = ("inplace",),
        modules_to_collect: Iterable[str] | None = None,
    ) -> None:
        super().__init__(model, classes, modules_to_collect)

    def save(self, path: str | Path) -> None:
        """Writes the statistics as YAML."""
        save_stats(self.value(), path)


@contextmanager
def collector_context(collector: StatsCollector) -> Iterator[StatsCollector]:
    """Watches for the length of a `with` block."""
    collector.start()
    try:
        yield collector
    finally:
        collector.stop()


def collect_quant_stats(
    model: nn.Module,
    test_fn: Callable[..., Any],
    save_dir: str | Path | None = None,
    classes: Iterable[type[nn.Module]] | None = None,
    inplace_runtime_check: bool = False,
    disable_inplace_attrs: bool = False,
    inplace_attr_names: Iterable[str] = ("inplace",),
    modules_to_collect: Iterable[str] | None = None,
) -> ActivationStats:
    """Runs `test_fn(model=model)` and gathers statistics of every leaf.

    Args:
        save_dir: where `quant_stats.yaml` is written.

    The other arguments are those of `QuantCalibrationStatsCollector`.

    Raises:
        QuantizationError: the model is quantized, or nothing ran through it.
    """
    stats = calibrate(model, lambda m: test_fn(model=m))
    watched = QuantCalibrationStatsCollector(model, classes, modules_to_collect=modules_to_collect)
    names = {name for name, module in model.named_modules() if watched.watches(name, module)}
    stats = {name: entry for name, entry in stats.items() if name in names}
    if save_dir is not None:
        save_stats(stats, Path(save_dir) / "quant_stats.yaml")
    return stats
