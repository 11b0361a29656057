"""What one tensor of a checkpoint holds: its distribution, its zeros, and the same by gate.

Read from the file in slices with numpy, so a large tensor needs little memory and no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from lmbench.errors import LmbenchError

__all__ = ["GATE_NAMES", "Part", "TensorReport", "gates_of", "inspect_tensor"]

GATE_NAMES: dict[str, tuple[str, ...]] = {"LSTM": ("i", "f", "g", "o"), "GRU": ("r", "z", "n")}
"""The gates of each cell in the order in which torch stacks their rows."""

BINS = 512
_SLICE_ELEMENTS = 1 << 18
# Of a module's weights: as floats, as integers, and as floats in a quantized model.
_WEIGHTS = ("weight", "weight_q", "wrapped_module.weight")


@dataclass(frozen=True, eq=False)
class Part:
    """The whole tensor, or the rows of one gate.

    `mean`, `std`, `abs_mean`, `low` and `high` are of the elements that are not zero (and are
    finite), NaN where there are none; `counts` is their histogram between the report's limits,
    shape (`BINS`,).
    """

    name: str
    elements: int
    zeros: int
    bad: int
    """Elements that are not finite."""
    mean: float
    std: float
    abs_mean: float
    low: float
    high: float
    counts: npt.NDArray[np.int64]

    @property
    def sparsity(self) -> float:
        return self.zeros / self.elements if self.elements else 0.0


@dataclass(frozen=True, eq=False)
class TensorReport:
    """`parts` begins with the whole; the gates follow in torch's order, where there are any.
    `limits` are the same for all parts, so that their histograms compare."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    limits: tuple[float, float]
    parts: tuple[Part, ...]
    names: tuple[str, ...] = ()
    """All tensors of the file."""


def gates_of(name: str, shape: Sequence[int], model: str) -> tuple[str, ...]:
    """The gates that a tensor's rows are stacked of; () for one that has none."""
    gates = GATE_NAMES.get(model, ())
    stacked = name.startswith(("rnn.weight_", "rnn.bias_"))
    return gates if gates and stacked and shape and shape[0] % len(gates) == 0 else ()


def inspect_tensor(path: Path, name: str, model: str = "") -> TensorReport:
    """Look at one tensor of a ``.safetensors`` file.

    Args:
        name: the tensor, or a module that has weights, of a quantized model too.
        model: the kind of cell (``LSTM``, …), which says how rows are stacked.

    Raises:
        LmbenchError: no such file or tensor, or numbers that numpy does not know.
    """
    with _open(path) as file:
        names = list(file.keys())
        found = _weights_of(name, names, path)
        if found is None:
            raise LmbenchError(f"{path}: no tensor '{name}' (has {', '.join(sorted(names))})")
        tensor = file.get_slice(found)
        shape = tuple(tensor.get_shape())
        gates = gates_of(found, shape, model)
        rows = shape[0] // len(gates) if gates else 0
        spans = [(gate, i * rows, (i + 1) * rows) for i, gate in enumerate(gates)]
        whole = (0, shape[0]) if shape else (0, 1)
        sums = [_Sums.of(_slices(file, found, shape, a, b)) for _, a, b in spans]
        total = _Sums.joined(sums) if sums else _Sums.of(_slices(file, found, shape, *whole))
        limits = total.limits()
        counted = [_histogram(_slices(file, found, shape, a, b), limits) for _, a, b in spans]
        if not counted:
            counted = [_histogram(_slices(file, found, shape, *whole), limits)]
        parts = [total.part("all", np.sum(counted, axis=0))]
        for (gate, _, _), part, counts in zip(spans, sums, counted, strict=False):
            parts.append(part.part(gate, counts))
        return TensorReport(
            found, shape, str(tensor.get_dtype()), limits, tuple(parts), tuple(sorted(names))
        )


def _weights_of(name: str, names: Sequence[str], path: Path) -> str | None:
    """The tensor of this name, or the one with the weights of this module."""
    candidates = (name, *(f"{name}.{end}" for end in _WEIGHTS))
    found = next((n for n in candidates if n in names), None)
    if found is None:
        shared = _shared(path.with_name("quantization.json"))
        found = next((shared[n] for n in candidates if shared.get(n) in names), None)
    return found


def _shared(path: Path) -> dict[str, Any]:
    """Of tensors that a quantized model holds once for two modules: which stands for which."""
    try:
        shared = json.loads(path.read_bytes()).get("shared")
    except (OSError, ValueError, AttributeError):
        return {}
    return shared if isinstance(shared, dict) else {}


_NUMPY_TYPES = ("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")


def _open(path: Path) -> Any:
    try:
        return safe_open(path, "np")
    except FileNotFoundError:
        raise LmbenchError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise LmbenchError(f"{path}: cannot be read as safetensors ({error})") from None


def _slices(
    file: Any, name: str, shape: Sequence[int], first: int, last: int
) -> Iterator[npt.NDArray[np.float64]]:
    """The rows from `first` to `last` as flat arrays of float64, a few at a time."""
    try:
        if not shape:
            yield np.asarray(file.get_tensor(name), np.float64).ravel()
            return
        step = max(1, _SLICE_ELEMENTS // max(1, math.prod(shape[1:])))
        tensor = file.get_slice(name)
        # numpy knows bfloat16 only where some other package has taught it.
        if tensor.get_dtype() not in _NUMPY_TYPES:
            raise TypeError(tensor.get_dtype())
        for row in range(first, last, step):
            yield np.asarray(tensor[row : min(row + step, last)], np.float64).ravel()
    except (TypeError, SafetensorError) as error:
        raise LmbenchError(f"tensor '{name}' cannot be read with numpy ({error})") from None


@dataclass
class _Sums:
    """What is added up over slices; the moments are of elements that are finite and not zero."""

    elements: int = 0
    zeros: int = 0
    counted: int = 0
    total: float = 0.0
    squares: float = 0.0
    absolute: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    @classmethod
    def of(cls, slices: Iterator[npt.NDArray[np.float64]]) -> _Sums:
        sums = cls()
        for values in slices:
            sums.elements += len(values)
            sums.zeros += len(values) - int(np.count_nonzero(values))
            kept = values[(values != 0) & np.isfinite(values)]
            sums.counted += len(kept)
            if len(kept):
                sums.total += float(kept.sum())
                sums.squares += float(np.dot(kept, kept))
                sums.absolute += float(np.abs(kept).sum())
                sums.low = min(sums.low, float(kept.min()))
                sums.high = max(sums.high, float(kept.max()))
        return sums

    @classmethod
    def joined(cls, parts: Sequence[_Sums]) -> _Sums:
        """The sums over all parts together."""
        added = ("elements", "zeros", "counted", "total", "squares", "absolute")
        sums: dict[str, Any] = {name: sum(getattr(p, name) for p in parts) for name in added}
        return cls(**sums, low=min(p.low for p in parts), high=max(p.high for p in parts))

    def limits(self) -> tuple[float, float]:
        """From the least to the greatest value, never empty."""
        if not self.counted:
            return -1.0, 1.0
        if self.high > self.low:
            return self.low, self.high
        room = 0.5 * abs(self.low)
        return self.low - room, self.high + room

    def part(self, name: str, counts: npt.NDArray[np.int64]) -> Part:
        count = self.counted or math.nan
        mean = self.total / count
        return Part(
            name=name,
            elements=self.elements,
            zeros=self.zeros,
            bad=self.elements - self.zeros - self.counted,
            mean=mean,
            std=math.sqrt(max(self.squares / count - mean * mean, 0.0)) if self.counted else mean,
            abs_mean=self.absolute / count,
            low=self.low if self.counted else math.nan,
            high=self.high if self.counted else math.nan,
            counts=counts,
        )


def _histogram(
    slices: Iterator[npt.NDArray[np.float64]], limits: tuple[float, float]
) -> npt.NDArray[np.int64]:
    counts = np.zeros(BINS, np.int64)
    for values in slices:
        kept = values[(values != 0) & np.isfinite(values)]
        counts += np.histogram(kept, BINS, limits)[0]
    return counts
