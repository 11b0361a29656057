"""Statistics of every module's inputs and output, gathered in one pass over the data.

For each tensor: min, max; avg_min, avg_max, the mean over samples (slices along dimension 0) of
their extremes; mean, std; b, the mean distance from the mean (the scale of a Laplace
distribution); the shape of the first call; the number of elements; and a histogram. All are right
for any division into batches: means over samples weight each sample alike, which the original's
collector does not. The YAML of the original loads into this one and the other way round; it
merely has no histogram.

Small outputs, of which a recurrent model has dozens a step, are buffered and counted together.
Histograms of very large ones (the logits) count every n-th element, about 65,000 a call; the
moments and extremes are of all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from lmbench.distiller.quantization.errors import QuantizationError
from lmbench.distiller.quantization.histogram import Histogram
from lmbench.distiller.quantization.wrappers import check_unquantized
from lmbench.distiller.yaml_values import read_yaml

__all__ = [
    "ActivationStats",
    "CalibrationRun",
    "StatsCollector",
    "calibrate",
    "load_stats",
    "run_calibration",
    "save_stats",
    "stats_for",
]

ActivationStats = dict[str, dict[str, Any]]
"""{module: {"inputs": {0: {statistic: value}, …}, "output": {statistic: value}}}"""

CalibrationRun = Callable[[nn.Module], Any] | Iterable[Callable[[nn.Module], Any]]
"""A function that runs the model over all data, or several, one a batch."""

_BUFFER = 1 << 16
_HISTOGRAM_SAMPLE = 1 << 16

# A histogram has thousands of numbers for each input and output of each module.
_LARGEST_STATS = 100_000_000
_LARGEST_NUMBER = 1e300


class _Accumulator:
    """The running statistics of one tensor; `place` names it."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.shape = ""
        self.samples = 0
        self.numel = 0
        self.min = math.inf
        self.max = -math.inf
        self.sum_min = self.sum_max = 0.0
        self.sum = self.sum_squares = 0.0
        self.histogram: Histogram | None = None
        self._waiting: list[Tensor] = []
        self._waiting_numel = 0

    def add(self, value: Tensor) -> None:
        if not self.shape:
            self.shape = str(tuple(value.shape))
        if value.numel() == 0:
            return
        rows = value.detach().reshape(value.shape[0] if value.dim() else 1, -1)
        if self._waiting and self._waiting[0].shape[1] != rows.shape[1]:
            self.flush()
        # an in-place operation later on must not change what waits
        self._waiting.append(rows.float() if rows.dtype != torch.float32 else rows.clone())
        self._waiting_numel += rows.numel()
        if self._waiting_numel >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        if not self._waiting:
            return
        rows = torch.cat(self._waiting) if len(self._waiting) > 1 else self._waiting[0]
        self._waiting, self._waiting_numel = [], 0
        low, high = rows.amin(1), rows.amax(1)
        least, most = float(low.min()), float(high.max())
        if not math.isfinite(most - least):
            raise QuantizationError(
                f"{self.place} is infinite or not a number on the calibration data: nothing can be "
                "calibrated by it; use a model that did not diverge"
            )
        self.min, self.max = min(self.min, least), max(self.max, most)
        self.sum_min += float(low.double().sum())
        self.sum_max += float(high.double().sum())
        self.samples += rows.shape[0]
        self.numel += rows.numel()
        # sums of a row are short enough for float32, sums of rows are not
        self.sum += float(rows.sum(1).double().sum())
        self.sum_squares += float(rows.square().sum(1).double().sum())
        # an odd stride, so that it does not keep to the same columns
        stride = (rows.numel() // _HISTOGRAM_SAMPLE) | 1
        sample = rows.reshape(-1)[::stride]
        self.histogram = (
            Histogram.of(sample) if self.histogram is None else self.histogram.add(sample)
        )

    def value(self) -> dict[str, Any]:
        self.flush()
        if self.histogram is None:
            return {}
        mean = self.sum / self.numel
        variance = (self.sum_squares - self.numel * mean**2) / max(self.numel - 1, 1)
        return {
            "min": self.min,
            "max": self.max,
            "avg_min": self.sum_min / self.samples,
            "avg_max": self.sum_max / self.samples,
            "mean": mean,
            "std": math.sqrt(max(variance, 0.0)),
            "b": self.histogram.mean_deviation(mean),
            "shape": self.shape,
            "total_numel": self.numel,
            "histogram": self.histogram.to_dict(),
        }


class StatsCollector:
    """Watches the leaves of a model while it runs.

    Args:
        model: any model; one whose recurrent layers are modular shows every gate.
        classes: watch only leaves of these types.
        modules: watch only these, by name.

    Raises:
        QuantizationError: the model is quantized already.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: Iterable[type[nn.Module]] | None = None,
        modules: Iterable[str] | None = None,
    ) -> None:
        self.model = model
        self._classes = None if classes is None else tuple(classes)
        self._names = None if modules is None else set(modules)
        self._hooks: list[Any] = []
        self._inputs: dict[str, dict[int, _Accumulator]] = {}
        self._outputs: dict[str, _Accumulator] = {}

    def start(self) -> None:
        """Begins to watch."""
        check_unquantized(self.model, "calibrate")
        for name, module in self.model.named_modules():
            if self.watches(name, module):
                self._hooks.append(module.register_forward_hook(self._hook(name)))

    def stop(self) -> None:
        """Stops watching; what was gathered stays."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def reset(self) -> None:
        """Forgets what was gathered."""
        self._inputs.clear()
        self._outputs.clear()

    def value(self) -> ActivationStats:
        """The statistics so far, modules in the order of their first call."""
        return {
            name: {
                "inputs": {i: acc.value() for i, acc in self._inputs[name].items()},
                "output": output.value(),
            }
            for name, output in self._outputs.items()
        }

    def watches(self, name: str, module: nn.Module) -> bool:
        """Whether a module's statistics are gathered."""
        if next(module.children(), None) is not None or not name:
            return False
        if self._names is not None and name not in self._names:
            return False
        return self._classes is None or isinstance(module, self._classes)

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def observe(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            seen = self._inputs.setdefault(name, {})
            for index, value in enumerate(inputs):
                _add(seen, index, value, f"input {index} of {name}")
            _add(self._outputs, name, output, f"the output of {name}")

        return observe


def _add(accumulators: dict[Any, _Accumulator], key: Any, value: Any, place: str) -> None:
    if isinstance(value, Tensor):
        if key not in accumulators:
            accumulators[key] = _Accumulator(place)
        accumulators[key].add(value)


def run_calibration(
    model: nn.Module, run: CalibrationRun, progress: Callable[[int], None] | None
) -> None:
    """Runs the model over the calibration data in evaluation mode, without gradients; its mode is
    restored. `progress` is called after each step with how many have run."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for count, step in enumerate((run,) if callable(run) else run, start=1):
                step(model)
                if progress is not None:
                    progress(count)
    finally:
        model.train(was_training)


def calibrate(
    model: nn.Module,
    run: CalibrationRun,
    progress: Callable[[int], None] | None = None,
) -> ActivationStats:
    """Gathers statistics while the model runs over the calibration data.

    Args:
        model: its recurrent layers should be modular (`convert_model_to_modular`), or their gates
            are not seen. It runs in evaluation mode, without gradients; its mode is restored.
        run: what runs the model over the data.
        progress: called after each of them with how many have run.

    Raises:
        QuantizationError: the model is quantized already, nothing ran through it, or what did was
            infinite or not a number.
    """
    collector = StatsCollector(model)
    collector.start()
    try:
        run_calibration(model, run, progress)
    finally:
        collector.stop()
    stats = collector.value()
    if not any(entry["output"] for entry in stats.values()):
        raise QuantizationError(
            "the calibration set is empty: no batch ran through the model, "
            "use a split with at least one batch"
        )
    return stats


def save_stats(stats: Mapping[str, Any], path: str | Path) -> None:
    """Writes statistics as YAML, the original's layout."""
    plain = {
        name: {"inputs": dict(entry["inputs"]), "output": dict(entry["output"])}
        for name, entry in stats.items()
    }
    text = yaml.dump(plain, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False)
    Path(path).write_text(text, encoding="utf-8")


def load_stats(source: str | Path | Mapping[str, Any]) -> ActivationStats:
    """Reads statistics from a file of ours or of the original, or takes them as they are.

    Raises:
        QuantizationError: no such file, or not statistics.
    """
    if isinstance(source, Mapping):
        raw: Any = source
        where = "model_activation_stats"
    else:
        where = str(source)
        try:
            text = Path(source).read_bytes()
        except OSError as error:
            raise QuantizationError(f"{where}: cannot be read: {error.strerror}") from None
        raw = read_yaml(
            text,
            where,
            kind="statistics",
            error=QuantizationError,
            most_bytes=_LARGEST_STATS,
            most_values=_LARGEST_STATS,
            loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader),
        )
    if not isinstance(raw, Mapping):
        raise QuantizationError(f"{where}: expected a mapping of modules to their statistics")
    stats: ActivationStats = {}
    for name, entry in raw.items():
        if not isinstance(entry, Mapping) or "output" not in entry:
            raise QuantizationError(f"{where}: {name}: expected 'inputs' and 'output'")
        try:
            inputs = {int(i): dict(values) for i, values in (entry.get("inputs") or {}).items()}
            output = dict(entry["output"] or {})
        except (TypeError, ValueError, AttributeError, OverflowError):
            raise QuantizationError(
                f"{where}: {name}: expected a mapping of statistics for the output and for each "
                "input by its number"
            ) from None
        for place, values in (
            *((f"inputs: {i}", v) for i, v in inputs.items()),
            ("output", output),
        ):
            # What was calibrated here, or read before, is not looked through at each quantization.
            wrong = None if raw is source else _wrong_statistic(values)
            if wrong is not None:
                raise QuantizationError(f"{where}: {name}: {place}: {wrong}")
        stats[str(name)] = {"inputs": inputs, "output": output}
    return stats


_NUMBERS = ("min", "max", "avg_min", "avg_max", "mean", "std", "b")
_COUNTS = re.compile(r"\d{1,18}(?: \d{1,18})*", re.ASCII)


def _wrong_statistic(values: Mapping[Any, Any]) -> str | None:
    """What is wrong in one tensor's statistics, if anything is; what is missing is not."""
    for name in _NUMBERS:
        if values.get(name) is not None and not _is_finite(values[name]):
            return f"{name}: {str(values[name])[:40]!r} is no number"
    histogram = values.get("histogram")
    if histogram is not None and not (
        isinstance(histogram, Mapping)
        and _is_finite(histogram.get("low"))
        and _is_finite(histogram.get("width"))
        and histogram["width"] > 0
        and _COUNTS.fullmatch(str(histogram.get("counts")))
    ):
        return "histogram: expected the numbers low and width, and counts in one line"
    return None


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < _LARGEST_NUMBER


def stats_for(stats: ActivationStats, name: str, module: nn.Module | None = None) -> dict[str, Any]:
    """One module's statistics.

    Args:
        module: the module itself, whose width must be theirs.

    Raises:
        QuantizationError: the statistics know no such module, or one of another width, so are of
            another model.
    """
    if name not in stats or not stats[name]["output"]:
        known = ", ".join(list(stats)[:4])
        raise QuantizationError(
            f"the statistics are of another model: they lack {name!r} (they hold {known}, …); "
            "calibrate this model"
        )
    seen = re.findall(r"\d+", str(stats[name]["output"].get("shape", "")))
    width = module.embedding_dim if isinstance(module, nn.Embedding) else None
    width = module.out_features if isinstance(module, nn.Linear) else width
    if width is not None and seen and int(seen[-1]) != width:
        raise QuantizationError(
            f"the statistics are of another model: {name!r} gave {seen[-1]} values there and gives "
            f"{width} here; calibrate this model"
        )
    return stats[name]
