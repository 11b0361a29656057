"""A packed file's metadata: shape, tensor layouts, origin; written and checked here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from lmbench.deploy.packed_file.stored_tensor import Layout, Spec, ValueType
from lmbench.errors import LmbenchError
from lmbench.model_shapes import GATES

__all__ = [
    "VOCABULARY",
    "About",
    "PackedInfo",
    "TensorInfo",
    "checked_about",
    "checked_shape",
    "checked_spec",
    "expansion_limit",
]

VOCABULARY = "vocabulary"
"""The name under which the words stand beside the tensors."""

# Nothing that a model holds compresses further than this; a part that would is stored plain. So a
# reader can refuse, before it allocates, a small file that claims to unpack into a huge one.
_MAX_EXPANSION = 64
_SLACK = 4096
_MAX_WIDTH, _MAX_LAYERS, _MAX_WORDS = 65536, 64, 1 << 26


@dataclass(frozen=True)
class About:
    """Where a model comes from: what is stored beside its weights; all JSON-able."""

    title: str = ""
    lineage: tuple[str, ...] = ()
    """References of the runs it came from, oldest first."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    """Perplexities of the packed model as it runs, and by which runtime."""
    corpus: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorInfo:
    """How one tensor is stored; `stored` is its bytes in the file, after compression."""

    name: str
    spec: Spec
    stored: int
    nonzero: int

    @property
    def fp32(self) -> int:
        return 4 * math.prod(self.spec.shape)


@dataclass(frozen=True)
class PackedInfo:
    """What `write_packed` wrote. Sizes in bytes; tied weights count once."""

    bytes: int
    """The whole file."""
    vocabulary: int
    """Of the file: the words."""
    tensors: tuple[TensorInfo, ...]

    @property
    def fp32(self) -> int:
        """The same tensors in fp32, without the vocabulary."""
        return sum(tensor.fp32 for tensor in self.tensors)

    @property
    def ratio(self) -> float:
        """How much smaller the file is, vocabulary and all, than the bare tensors in fp32."""
        return self.fp32 / self.bytes


def expansion_limit(compressed: int) -> int:
    return _SLACK + _MAX_EXPANSION * compressed


def checked_shape(path: Path, shape: Any) -> dict[str, Any]:
    limits = {
        "emsize": _MAX_WIDTH,
        "nhid": _MAX_WIDTH,
        "nlayers": _MAX_LAYERS,
        "ntoken": _MAX_WORDS,
    }
    if not isinstance(shape, dict) or shape.get("model") not in list(GATES):
        raise LmbenchError(f"{path}: damaged: its model's type is missing or unknown")
    for name, limit in limits.items():
        if type(shape.get(name)) is not int or not 0 < shape[name] <= limit:
            raise LmbenchError(f"{path}: damaged: its model's '{name}' is missing or impossible")
    dropout = shape.get("dropout")
    if type(dropout) not in (int, float) or not 0 <= cast(float, dropout) < 1:
        raise LmbenchError(f"{path}: damaged: its model's 'dropout' is missing or impossible")
    # Earlier files say nothing of it.
    tied, projection = shape.get("tied"), shape.get("projection", False)
    if type(projection) is not bool:
        raise LmbenchError(f"{path}: damaged: its model's 'projection' is impossible")
    alike = projection or shape["emsize"] == shape["nhid"]
    if type(tied) is not bool or (tied and not alike):
        raise LmbenchError(f"{path}: damaged: its model's 'tied' is missing or impossible")
    names = ("model", "emsize", "nhid", "nlayers", "dropout", "tied", "ntoken")
    return {**{name: shape[name] for name in names}, "projection": projection}


def checked_spec(path: Path, name: str, entry: Any) -> Spec:
    damaged = LmbenchError(f"{path}: damaged: tensor {name[:80]!r} is not described in full")
    if not isinstance(entry, dict):
        raise damaged
    shape, block, group = entry.get("shape"), entry.get("block"), entry.get("group")
    if entry.get("layout") not in get_args(Layout) or entry.get("values") not in get_args(
        ValueType
    ):
        raise damaged
    if not isinstance(shape, list) or not all(type(n) is int and 0 < n < 2**40 for n in shape):
        raise damaged
    if group is not None and (type(group) is not int or not 0 < group <= _MAX_WIDTH):
        raise damaged
    if block is not None and (
        entry["layout"] != "block"
        or not isinstance(block, list)
        or [type(side) for side in block] != [int, int]
    ):
        raise damaged
    pair = None if block is None else (block[0], block[1])
    scale = entry.get("scale", "fp16")
    if scale not in ("fp16", "fp32"):
        raise damaged
    spec = Spec(entry["layout"], entry["values"], tuple(shape), pair, group, scale)
    try:
        spec.parts()
    except (ValueError, TypeError) as error:
        raise LmbenchError(f"{path}: damaged: tensor {name[:80]!r}: {error}") from None
    if not isinstance(entry.get("parts"), dict):
        raise damaged
    return spec


def checked_about(path: Path, about: Any) -> About:
    kinds: Mapping[str, type] = {
        "title": str,
        "lineage": list,
        "settings": dict,
        "scores": dict,
        "corpus": dict,
    }
    if not isinstance(about, dict):
        raise LmbenchError(f"{path}: damaged: its origin ('about') is missing")
    for name, kind in kinds.items():
        if not isinstance(about.get(name), kind):
            raise LmbenchError(f"{path}: damaged: its '{name}' is missing or of a wrong type")
    if not all(isinstance(item, str) for item in about["lineage"]):
        raise LmbenchError(f"{path}: damaged: its 'lineage' is missing or of a wrong type")
    values = {name: about[name] for name in kinds}
    return About(**{**values, "lineage": tuple(about["lineage"])})
