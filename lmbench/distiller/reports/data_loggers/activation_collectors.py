"""Collectors of what passes through a model's modules: a statistic, records, histograms, values."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lmbench.distiller.errors import DistillerError
from lmbench.distiller.quantization.calibration import load_stats

__all__ = [
    "ActivationHistogramsCollector",
    "ActivationStatsCollector",
    "CollectorDirection",
    "RawActivationsCollector",
    "RecordsActivationStatsCollector",
    "SummaryActivationStatsCollector",
]

Classes = Iterable[type[nn.Module]] | None
RELUS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU)


class CollectorDirection(Enum):
    """What of a module a collector looks at."""

    OUT = 0
    IN = 1


class ActivationStatsCollector:
    """Base of the collectors: calls `observe` for each module that runs.

    Args:
        model: any model.
        stat_name: what is collected.
        classes: of the modules that are watched; None for every module without modules inside.
    """

    def __init__(self, model: nn.Module, stat_name: str, classes: Classes = None) -> None:
        self.model = model
        self.stat_name = stat_name
        self.classes = None if classes is None else tuple(classes)
        self._hooks: list[Any] = []

    def observe(self, name: str, inputs: tuple[Any, ...], output: Any) -> None:
        """A module of this name has run."""
        raise NotImplementedError

    def value(self) -> Mapping[str, Any]:
        """What was collected, by module."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget what was collected."""
        raise NotImplementedError

    def save(self, fname: str | Path) -> Path:
        """Write what was collected; returns the file with its ending."""
        raise NotImplementedError

    def start(self, modules_list: Iterable[str] | None = None) -> None:
        """Begin to watch: all modules, or those of these names."""
        wanted = None if modules_list is None else set(modules_list)
        for name, module in self.model.named_modules():
            leaf = next(module.children(), None) is None
            chosen = leaf if self.classes is None else isinstance(module, self.classes)
            if name and chosen and (wanted is None or name in wanted):
                self.start_module(module, name)

    def start_module(self, module: nn.Module, name: str | None = None) -> None:
        """Watch one module."""
        names = {one: path for path, one in self.model.named_modules()}
        known = name or names[module]
        self._hooks.append(
            module.register_forward_hook(lambda _m, inputs, out: self.observe(known, inputs, out))
        )

    def stop(self) -> None:
        """Watch no more; what was collected stays."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


class SummaryActivationStatsCollector(ActivationStatsCollector):
    """The mean over all batches, each weighted by its rows, of one number for each batch.

    Args:
        summary_fn: from a tensor to a number.
        collector_direction: of outputs or inputs.
        inputs_consolidate_func: makes one tensor of several inputs.

    The other arguments are those of `ActivationStatsCollector`.
    """

    def __init__(
        self,
        model: nn.Module,
        stat_name: str,
        summary_fn: Callable[[Tensor], Any],
        classes: Classes = RELUS,
        collector_direction: CollectorDirection = CollectorDirection.OUT,
        inputs_consolidate_func: Callable[..., Tensor] = torch.cat,
    ) -> None:
        super().__init__(model, stat_name, classes)
        self.summary_fn = summary_fn
        self.collector_direction = collector_direction
        self.inputs_func = inputs_consolidate_func
        self._sums: dict[str, tuple[float, int]] = {}

    def observe(self, name: str, inputs: tuple[Any, ...], output: Any) -> None:
        if self.collector_direction is CollectorDirection.OUT:
            tensor = output
        else:
            tensor = inputs[0] if len(inputs) == 1 else self.inputs_func(list(inputs))
        if isinstance(tensor, Tensor):
            total, count = self._sums.get(name, (0.0, 0))
            rows = tensor.shape[0] if tensor.dim() else 1
            value = float(self.summary_fn(tensor.detach()))
            self._sums[name] = (total + value * rows, count + rows)

    def value(self) -> dict[str, float]:
        return {name: total / count for name, (total, count) in self._sums.items() if count}

    def reset(self) -> None:
        self._sums.clear()

    def save(self, fname: str | Path) -> Path:
        rows = [{"module": name, self.stat_name: value} for name, value in self.value().items()]
        return _write_csv(fname, rows)


class RecordsActivationStatsCollector(ActivationStatsCollector):
    """Smallest, largest, mean, deviation and Euclidean norm of every output, by sample."""

    def __init__(self, model: nn.Module, classes: Classes = RELUS) -> None:
        super().__init__(model, "statistics_records", classes)
        self._records: dict[str, dict[str, list[Any]]] = {}

    def observe(self, name: str, inputs: tuple[Any, ...], output: Any) -> None:
        if not isinstance(output, Tensor) or output.dim() < 2:
            return
        samples = output.detach().float().flatten(1)
        columns = {
            "min": samples.amin(1),
            "max": samples.amax(1),
            "mean": samples.mean(1),
            "std": samples.std(1, correction=0),
            "l2": samples.norm(dim=1),
        }
        record = self._records.setdefault(name, {key: [] for key in (*columns, "shape")})
        for key, values in columns.items():
            record[key] += values.tolist()
        record["shape"] += ["x".join(map(str, output.shape))] * len(samples)

    def value(self) -> dict[str, dict[str, list[Any]]]:
        return self._records

    def reset(self) -> None:
        self._records = {}

    def save(self, fname: str | Path) -> Path:
        rows = [
            {"module": name, "sample": number, **dict(zip(record, values, strict=True))}
            for name, record in self._records.items()
            for number, values in enumerate(zip(*record.values(), strict=True))
        ]
        return _write_csv(fname, rows)


class ActivationHistogramsCollector(ActivationStatsCollector):
    """Histograms of inputs and outputs, between the bounds that calibration found.

    Args:
        activation_stats: statistics of `collect_quant_stats`, or their file.
        nbins: of each histogram.
        save_hist_imgs, hist_imgs_ext: accepted; no images are drawn.

    The other arguments are those of `ActivationStatsCollector`.
    """

    def __init__(
        self,
        model: nn.Module,
        activation_stats: Mapping[str, Any] | str | Path,
        classes: Classes = None,
        nbins: int = 2048,
        save_hist_imgs: bool = False,
        hist_imgs_ext: str = ".svg",
    ) -> None:
        super().__init__(model, "histogram", classes)
        self.activation_stats = load_stats(activation_stats)
        self.nbins = nbins
        self._histograms: dict[str, dict[str, Any]] = {}

    def observe(self, name: str, inputs: tuple[Any, ...], output: Any) -> None:
        if name not in self.activation_stats:
            if not isinstance(output, Tensor):
                return  # a calibration knows nothing of it either
            raise DistillerError(f"activation_stats: '{name}' is missing; calibrate this model")
        stats = self.activation_stats[name]
        entry = self._histograms.setdefault(name, {"inputs": {}, "output": {}})
        for index, tensor in enumerate(inputs):
            if isinstance(tensor, Tensor) and index in stats["inputs"]:
                self._add(entry["inputs"].setdefault(index, {}), tensor, stats["inputs"][index])
        if isinstance(output, Tensor):
            self._add(entry["output"], output, stats["output"])

    def _add(self, entry: dict[str, Tensor], tensor: Tensor, bounds: Mapping[str, Any]) -> None:
        low, high = float(bounds["min"]), float(bounds["max"])
        values = tensor.detach().float().cpu().clamp(low, high)
        counts = torch.histc(values, self.nbins, low, high)
        width = (high - low) / self.nbins
        entry["hist"] = entry["hist"] + counts if entry else counts
        entry["bin_centroids"] = low + width * (torch.arange(self.nbins) + 0.5)

    def value(self) -> dict[str, dict[str, Any]]:
        return self._histograms

    def reset(self) -> None:
        self._histograms = {}

    def save(self, fname: str | Path) -> Path:
        tensors = {}
        for name, entry in self._histograms.items():
            parts = {"output": entry["output"]}
            parts |= {f"inputs.{index}": part for index, part in entry["inputs"].items()}
            for part, histogram in parts.items():
                tensors |= {f"{name}.{part}.{key}": value for key, value in histogram.items()}
        path = Path(f"{fname}.safetensors")
        save_file({key: value.contiguous() for key, value in tensors.items()}, path)
        return path


class RawActivationsCollector(ActivationStatsCollector):
    """Every output as it is, one batch after another."""

    def __init__(self, model: nn.Module, classes: Classes = None) -> None:
        super().__init__(model, "raw_acts", classes)
        self._outputs: dict[str, list[Tensor]] = {}

    def observe(self, name: str, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            self._outputs.setdefault(name, []).append(output.detach().cpu().clone())

    def value(self) -> dict[str, Tensor]:
        return {name: torch.cat(outputs) for name, outputs in self._outputs.items()}

    def reset(self) -> None:
        self._outputs = {}

    def save(self, fname: str | Path) -> Path:
        path = Path(f"{fname}.safetensors")
        save_file({name: value.contiguous() for name, value in self.value().items()}, path)
        return path


def _write_csv(fname: str | Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path = Path(f"{fname}.csv")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["module"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path
