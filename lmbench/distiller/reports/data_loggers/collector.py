"""The original's interface to calibration; the work is done in `quantization.calibration`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lmbench.distiller.quantization.calibration import (
    ActivationStats,
    StatsCollector,
    calibrate,
    save_stats,
)
from lmbench.distiller.reports.data_loggers.activation_collectors import (
    ActivationHistogramsCollector,
    ActivationStatsCollector,
    CollectorDirection,
    RawActivationsCollector,
    RecordsActivationStatsCollector,
    SummaryActivationStatsCollector,
)

__all__ = [
    "ActivationHistogramsCollector",
    "ActivationStatsCollector",
    "CollectorDirection",
    "QuantCalibrationStatsCollector",
    "RawActivationsCollector",
    "RecordsActivationStatsCollector",
    "SummaryActivationStatsCollector",
    "collect_histograms",
    "collect_quant_stats",
    "collect_raw_outputs",
    "collector_context",
    "collectors_context",
]

STATS_FILE = "acts_quantization_stats.yaml"


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

    def start(self, modules_list: Iterable[str] | None = None) -> None:
        """Begins to watch: all modules, or those of these names."""
        if modules_list is not None:
            self._names = set(modules_list)
        super().start()

    def save(self, fname: str | Path) -> None:
        """Writes the statistics as YAML."""
        save_stats(self.value(), fname)


Collector = TypeVar("Collector", QuantCalibrationStatsCollector, ActivationStatsCollector)


@contextmanager
def collector_context(
    collector: Collector, modules_list: Iterable[str] | None = None
) -> Iterator[Collector]:
    """Watches for the length of a `with` block: all modules, or those of these names."""
    collector.start(modules_list)
    try:
        yield collector
    finally:
        collector.stop()


@contextmanager
def collectors_context(
    collectors_dict: Mapping[str, ActivationStatsCollector],
) -> Iterator[Mapping[str, ActivationStatsCollector]]:
    """Watches with several collectors for the length of a `with` block."""
    with ExitStack() as stack:
        for collector in collectors_dict.values():
            stack.enter_context(collector_context(collector))
        yield collectors_dict


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
        save_dir: where `acts_quantization_stats.yaml` is written.

    The other arguments are those of `QuantCalibrationStatsCollector`.

    Raises:
        QuantizationError: the model is quantized, or nothing ran through it.
    """
    stats = calibrate(model, lambda m: test_fn(model=m))
    watched = QuantCalibrationStatsCollector(model, classes, modules_to_collect=modules_to_collect)
    names = {name for name, module in model.named_modules() if watched.watches(name, module)}
    stats = {name: entry for name, entry in stats.items() if name in names}
    if save_dir is not None:
        save_stats(stats, Path(save_dir) / STATS_FILE)
    return stats


def collect_histograms(
    model: nn.Module,
    test_fn: Callable[..., Any],
    save_dir: str | Path | None = None,
    activation_stats: Mapping[str, Any] | str | Path | None = None,
    classes: Iterable[type[nn.Module]] | None = None,
    nbins: int = 2048,
    save_hist_imgs: bool = False,
    hist_imgs_ext: str = ".svg",
) -> dict[str, dict[str, Any]]:
    """Runs `test_fn(model=model)` and gathers histograms; see `ActivationHistogramsCollector`.

    Args:
        save_dir: where `acts_histograms.safetensors` is written.
        activation_stats: made by a first pass when left out.
    """
    if activation_stats is None:
        activation_stats = collect_quant_stats(model, test_fn, save_dir, classes)
    collector = ActivationHistogramsCollector(model, activation_stats, classes, nbins)
    return _collect(collector, test_fn, save_dir, "acts_histograms")


def collect_raw_outputs(
    model: nn.Module,
    test_fn: Callable[..., Any],
    save_dir: str | Path | None = None,
    classes: Iterable[type[nn.Module]] | None = None,
) -> dict[str, Tensor]:
    """Runs `test_fn(model=model)` and gathers every output.

    Args:
        save_dir: where `raw_outputs.safetensors` is written.
    """
    return _collect(RawActivationsCollector(model, classes), test_fn, save_dir, "raw_outputs")


def _collect(
    collector: ActivationStatsCollector,
    test_fn: Callable[..., Any],
    save_dir: str | Path | None,
    name: str,
) -> Any:
    with collector_context(collector), torch.no_grad():
        test_fn(model=collector.model)
    if save_dir is not None:
        collector.save(Path(save_dir) / name)
    return collector.value()
