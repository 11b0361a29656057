"""The grid of weights that a training-time quantizer put there, found again in their values.

Such a weight is an integer times a step, which no checkpoint names: the step is one for a matrix or
a row, depending on the quantizer. Here each row gets the largest step of which all of its values
are multiples, so that packing them rounds nothing. Codes are kept as codes, by the scales that the
checkpoint has of them, also where pruning put zeros among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lmbench.deploy.packed_file.dequantize import CODES, code_group, weight_places
from lmbench.deploy.packed_file.stored_tensor import Array, ValueType
from lmbench.deploy.packed_file.writing import packed_bytes
from lmbench.distiller.quantization.codes import nearest_levels
from lmbench.distiller.quantization.trained_codes import CODE_BUFFERS
from lmbench.model.rnn import RNNModel, shared_names

__all__ = ["TrainedGrids", "trained_grids"]

_MOST_LEVELS = 128
# How far a value may be from a multiple, in steps: the rounding of an fp32 division, many times.
_TOLERANCE = 1e-4
_SAMPLE = 32


@dataclass(frozen=True)
class TrainedGrids:
    """What `write_packed` needs to keep a trained model's integers."""

    values: Mapping[str, ValueType] = field(default_factory=dict)
    """By parameter: codes, int4 or int8 where it lies on a grid; the others are floats."""
    grids: Mapping[str, Tensor] = field(default_factory=dict)
    """By parameter: scales, [R, 1], of codes [bits, R, groups]."""
    groups: Mapping[str, int] = field(default_factory=dict)
    """By parameter: the columns that share scales."""

    def packed_bytes(self, model: RNNModel, vocabulary: Sequence[str]) -> int:
        """About the bytes of the file that packing a model of these weights gives."""
        # Codes of a few columns each keep all units, as `pack` does.
        state = model.state_dict()
        whole_rows = all(group >= state[n].shape[1] for n, group in self.groups.items())
        return packed_bytes(
            model, vocabulary, self.values, self.groups, self.grids, thinned=whole_rows
        )


def trained_grids(model: RNNModel, trained: Mapping[str, Tensor]) -> TrainedGrids:
    """The grids of the matrices that lie on one; tied ones once.

    Args:
        model: with the quantized values as its weights.
        trained: parameters and buffers of the model that trained; none where it was the model
            itself, which lies on no grid.
    """
    if not trained:
        return TrainedGrids()
    values: dict[str, ValueType] = {}
    grids: dict[str, Tensor] = {}
    groups: dict[str, int] = {}
    tied, places = shared_names(model), weight_places(model.nlayers, model.projection is not None)
    for name, tensor in model.state_dict().items():
        if tensor.dim() != 2 or name in tied:
            continue
        weight = tensor.detach().cpu().float()
        codes = _codes(weight, trained, places[name])
        if codes is not None:
            grids[name], groups[name] = codes
            values[name] = CODES[len(grids[name])]
            continue
        found = _grid(weight.numpy())
        if found is not None:
            values[name], grids[name] = found[0], torch.from_numpy(found[1])
            groups[name] = code_group(None, tensor.shape[1])
    return TrainedGrids(values, grids, groups)


def _codes(weight: Tensor, trained: Mapping[str, Tensor], place: str) -> tuple[Tensor, int] | None:
    """The scales [bits, R, groups] and the group of codes; None where the weight is not all codes.

    A decoder's are those of its tied encoder.
    """
    held = [trained.get(f"{place}.{buffer}") for buffer in CODE_BUFFERS]
    if any(buffer is None for buffer in held):
        return None
    unit, steps, group = (buffer.cpu() for buffer in held if buffer is not None)
    steps, columns = steps[: int(steps.any(2).any(1).sum())], int(group)
    if not len(steps) or not any(
        torch.equal(nearest_levels(weight, unit, steps, columns, pruned=pruned) * unit, weight)
        for pruned in (False, True)
    ):
        return None
    return steps * unit, code_group(columns, weight.shape[1])


def _grid(weight: Array) -> tuple[ValueType, Array] | None:
    """The value type, and a scale for each row [R, 1]; None where some row is on no grid."""
    levels = _largest_levels(weight)
    if not levels.all():
        return None
    largest = np.take_along_axis(weight, np.abs(weight).argmax(1)[:, None], 1)  # [R, 1]
    # One level more is there on the negative side: where a row needs it, its scale takes the sign.
    scale = np.abs(largest) / levels[:, None]
    widths: tuple[tuple[ValueType, int], ...] = (("int4", 7), ("int8", 127))
    for kind, most in widths:
        signed = np.where(levels[:, None] > most, -np.sign(largest), 1.0) * scale
        signed = signed.astype(np.float32)
        rounded = np.rint(np.divide(weight, signed, out=np.zeros_like(weight), where=signed != 0))
        if rounded.min() >= -most - 1 and rounded.max() <= most:
            return kind, signed
    return None


def _largest_levels(weight: Array) -> Array:
    """Of each row the smallest n for which all values are multiples of its maximum / n; else 0."""
    top = np.abs(weight).max(1)
    found = np.where(top == 0, 1, 0)
    for n in range(1, _MOST_LEVELS + 1):
        open_rows = np.flatnonzero(found == 0)
        if not len(open_rows):
            break
        # A few columns rule most rows out; the others are looked at whole.
        for columns in (slice(_SAMPLE), slice(None)):
            steps = weight[open_rows, columns] * (n / top[open_rows, None])
            open_rows = open_rows[(np.abs(steps - np.rint(steps)) < _TOLERANCE).all(1)]
        found[open_rows] = n
    return found
