"""From a model with simulated quantization back to a plain one on the same grid, for packing.

The weights keep the values that their integers stand for. What the simulation does to activations
is left behind: the packed file's kernels quantize those themselves, anew for each vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lmbench.deploy.packed_file.metadata import PackedInfo
from lmbench.deploy.packed_file.nibbles import GROUP
from lmbench.deploy.packed_file.stored_tensor import ValueType, code_bits
from lmbench.deploy.packed_file.writing import packed_bytes
from lmbench.errors import LmbenchError
from lmbench.model.rnn import RNNModel
from lmbench.model_shapes import parameter_shapes

__all__ = [
    "CODES",
    "Dequantized",
    "code_group",
    "dequantized",
    "dequantized_bytes",
    "weight_places",
]

CODES: Mapping[int, ValueType] = {1: "code1", 2: "code2", 3: "code3", 4: "code4"}


@dataclass(frozen=True)
class Dequantized:
    """A plain model, and what `write_packed` needs to keep its integers."""

    model: RNNModel
    values: Mapping[str, ValueType]
    """By parameter: codes, int4, int8, or fp16 and fp32 where it was left in floats."""
    grids: Mapping[str, Tensor]
    """By parameter: scales, [R] (int8), [R, groups] (int4) or [bits, R, groups] (codes)."""
    groups: Mapping[str, int]
    """By parameter: the columns that share scales, of codes."""
    renewed: tuple[str, ...]
    """Parameters whose grid a packed file cannot hold (asymmetric, or other groups): these are
    rounded anew, to a symmetric grid of 8 bits, or of 4 where they had no more."""

    def joined(self, info: PackedInfo) -> list[str]:
        """Parameters of 4 bits in groups that a file has, being sparse, in int8 with one scale a
        row: these are rounded anew, too."""
        return [
            tensor.name
            for tensor in info.tensors
            if tensor.spec.values == "int8"
            and self.values.get(tensor.name) == "int4"
            and (grid := self.grids.get(tensor.name)) is not None
            and bool((grid != grid[:, :1]).any())
        ]


def dequantized(model: nn.Module, shape: Mapping[str, Any]) -> Dequantized:
    """Take a quantized model apart.

    Args:
        model: from `lmbench.distiller.quantization`.
        shape: as in a run's record.

    Raises:
        LmbenchError: its modules are not those of a recurrent language model.
    """
    kind = str(shape["model"])
    ntoken, emsize, nhid, nlayers = (
        int(shape[key]) for key in ("ntoken", "emsize", "nhid", "nlayers")
    )
    projection = bool(shape.get("projection"))
    expected = parameter_shapes(
        kind, ntoken, emsize, nhid, nlayers, tied=False, projection=projection
    )
    weights: dict[str, Tensor] = {}
    values: dict[str, ValueType] = {}
    grids: dict[str, Tensor] = {}
    groups: dict[str, int] = {}
    renewed: list[str] = []
    for name, module in _modules(model, nlayers, projection).items():
        weights[name], bias = _numbers(module)
        if bias is not None:
            weights[_bias_of(name)] = bias
        values[name] = _value_type(module)
        if code_bits(values[name]):
            groups[name] = code_group(getattr(module, "group_size", None), weights[name].shape[1])
        grid = _grid(module, values[name])
        if grid is not None:
            grids[name] = grid
        elif values[name] in ("int8", "int4"):
            renewed.append(name)
    for name, size in expected.items():
        if name not in weights or tuple(weights[name].shape) != size:
            raise LmbenchError(f"the quantized model has no tensor '{name}' of {list(size)}")
    tied = bool(shape["tied"]) and _alike(weights, values, grids)
    dropout = float(shape.get("dropout", 0.0))
    plain = RNNModel(kind, ntoken, emsize, nhid, nlayers, dropout, tied, projection)
    plain.load_state_dict(weights)
    plain = plain.eval().requires_grad_(False)
    return Dequantized(plain, values, grids, groups, tuple(renewed))


def dequantized_bytes(model: nn.Module, shape: Mapping[str, Any], vocabulary: Sequence[str]) -> int:
    """About the bytes of the file that packing a quantized model gives: its weights in 8 bits, in 4
    where it has no more, or as codes, zeros left out where that is smaller, and the words.

    Raises:
        LmbenchError: its modules are not those of a recurrent language model.
    """
    taken = dequantized(model, shape)
    return packed_bytes(
        taken.model, vocabulary, taken.values, taken.groups, taken.grids, thinned=False
    )


def _modules(model: nn.Module, nlayers: int, projection: bool) -> dict[str, nn.Module]:
    """The modules that hold weights, by the parameter names of a plain model."""
    try:
        places = weight_places(nlayers, projection).items()
        return {name: model.get_submodule(place) for name, place in places}
    except AttributeError as error:
        raise LmbenchError(f"the quantized model is not as expected ({error})") from None


def weight_places(nlayers: int, projection: bool) -> dict[str, str]:
    """Where a model whose layers are modular has its weights, by the names of a plain model."""
    places = {"encoder.weight": "encoder", "decoder.weight": "decoder"}
    if projection:
        places["projection.weight"] = "projection"
    for i in range(nlayers):
        places[f"rnn.weight_ih_l{i}"] = f"rnn.cells.{i}.fc_gate_x"
        places[f"rnn.weight_hh_l{i}"] = f"rnn.cells.{i}.fc_gate_h"
    return places


def code_group(size: int | None, columns: int) -> int:
    """The columns of a matrix of codes that share scales; the whole row's filled up to bytes."""
    whole = -(-columns // 8) * 8
    return whole if size is None or size >= columns else size


def _bias_of(weight: str) -> str:
    if weight.startswith("rnn.weight_"):
        return weight.replace("weight_", "bias_")
    return weight.replace(".weight", ".bias")


def _numbers(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight and bias in fp32, of a quantized module or of one that stayed in floats."""
    inner = module if hasattr(module, "weight_q") else getattr(module, "wrapped_module", module)
    bias = getattr(inner, "bias", None)
    weight: Any = inner.weight
    return weight.detach().float(), None if bias is None else bias.detach().float()


def _value_type(module: nn.Module) -> ValueType:
    if hasattr(module, "w_steps"):
        return CODES[len(module.get_buffer("w_steps"))]
    if hasattr(module, "weight_q"):
        return "int4" if int(getattr(module, "num_bits_params", 8)) <= 4 else "int8"
    half = any(p.dtype == torch.float16 for p in module.parameters())
    return "fp16" if half else "fp32"


def _grid(module: nn.Module, values: ValueType) -> Tensor | None:
    """The scales of a symmetric grid that the packed file can hold, else None."""
    steps: Any = getattr(module, "w_scale", None)  # steps per unit
    zero: Any = getattr(module, "w_zero_point", None)
    if code_bits(values):
        return module.get_buffer("w_steps") / torch.as_tensor(steps)
    if steps is None or int(getattr(module, "num_bits_params", 8)) > 8:
        return None
    if zero is not None and bool(torch.as_tensor(zero).any()):
        return None
    levels = module.get_buffer("weight_q")
    # Unsigned ones have a zero point of 0 where no weight is below zero.
    if int(levels.max()) > (7 if values == "int4" else 127):
        return None
    rows, columns = levels.shape
    full = (1.0 / torch.as_tensor(steps).float()).expand(
        (rows, columns) if torch.as_tensor(steps).dim() == 2 else (rows, 1)
    )
    if values == "int8":
        row = full[:, :1]
        return row[:, 0].clone() if bool((full == row).all()) else None
    groups = -(-columns // GROUP)
    starts = full[:, ::GROUP] if full.shape[1] == columns else full.expand(rows, groups)
    whole = starts.repeat_interleave(GROUP, 1)[:, :columns]
    return starts.clone() if bool((full == whole).all()) else None


def _alike(
    weights: Mapping[str, Tensor], values: Mapping[str, ValueType], grids: Mapping[str, Tensor]
) -> bool:
    """Do embedding and decoder still hold the same numbers, so that one is enough?"""
    first, second = "encoder.weight", "decoder.weight"
    if values[first] != values[second] or (first in grids) != (second in grids):
        return False
    return torch.equal(weights[first], weights[second])
