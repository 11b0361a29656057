"""The packed file, ``*.lmpack``: one small file with all that generating and scoring need.

It holds the model's tensors (each in a layout of `stored_tensor`, tied weights once), the
vocabulary, and a document: the shape, the settings and lineage of the run, and its scores.
Reading one needs no session. ``docs/internals/packed-format.md`` describes every byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray
from torch import Tensor

from lmbench.config import PackConfig
from lmbench.deploy.packed_file.code_planes import interleave
from lmbench.deploy.packed_file.header import open_container, write_container
from lmbench.deploy.packed_file.mask_coding import code_mask
from lmbench.deploy.packed_file.metadata import (
    VOCABULARY,
    About,
    PackedInfo,
    TensorInfo,
    expansion_limit,
)
from lmbench.deploy.packed_file.nibbles import GROUP
from lmbench.deploy.packed_file.reading import PackedFile
from lmbench.deploy.packed_file.stored_tensor import Encoded, Spec, ValueType, code_bits
from lmbench.deploy.packed_file.tensor_encoding import beside_zeros, encode, stored_bytes
from lmbench.distiller import thin
from lmbench.errors import LmbenchError
from lmbench.model.rnn import RNNModel, shape_of, shared_names

__all__ = ["packed_bytes", "rewrite_about", "write_packed"]

# Weights have no repetitions to find: all of the gain is entropy coding, which level 9 has in full
# at a twentieth of the time of level 19. Words have beginnings and ends in common.
_ZSTD_LEVEL, _WORDS_LEVEL = 9, 19

# A coded mask takes longer to read, and a newer program.
_WORTH_CODING = 0.98


def packed_bytes(
    model: RNNModel,
    vocabulary: Sequence[str],
    values: ValueType | Mapping[str, ValueType] = "fp32",
    groups: Mapping[str, int] | None = None,
    grids: Mapping[str, Tensor] | None = None,
    *,
    thinned: bool = True,
) -> int:
    """About the bytes that `write_packed` would write with its defaults: matrices dense or as a
    bitmask, whichever is smaller, tied ones once, and the words; not the file's header.

    Args:
        values, groups, grids: as `auto`, `groups` and `grids` of `write_packed`; of grids only
            those of codes count.
        thinned: without the hidden units that nothing reads, which packing leaves out of a model
            that is not quantized.
    """
    kept_rows: dict[str, Tensor] = {}
    small = thin(model, kept_rows=kept_rows) if thinned else model
    total, groups, grids = len(_words(vocabulary)), groups or {}, grids or {}
    for name, tensor in _tensors(small).items():
        kind = values if isinstance(values, str) else values.get(name, "fp32")
        group, masked = groups.get(name, GROUP), False
        if code_bits(kind):
            scale = grids[name].cpu()
            if (rows := kept_rows.get(name)) is not None:
                scale = scale.index_select(-2, rows.cpu())
            masked = beside_zeros(tensor, scale.numpy(), group)
        left = int(np.count_nonzero(tensor))
        total += stored_bytes(tensor.shape, left, kind, group, masked=masked)
    return total


def write_packed(
    model: RNNModel,
    vocabulary: Sequence[str],
    path: Path,
    config: PackConfig | None = None,
    *,
    about: About | None = None,
    grids: Mapping[str, Tensor] | None = None,
    groups: Mapping[str, int] | None = None,
    auto: ValueType | Mapping[str, ValueType] = "fp32",
    exact: bool = False,
    staging: Path | None = None,
) -> PackedInfo:
    """Write a model and its words into one file.

    Args:
        model: its tied weights are stored once.
        vocabulary: the words in order of id, without line feeds in them.
        config: value type, sparse layouts and compression.
        about: where the model comes from.
        grids: scales of weights that post-training quantization put on a grid, by parameter
            name, [R] or [R, 1] (int8), [R, groups of 64] (int4) or [bits, R, groups] (codes), so
            that packing rounds nothing anew; the other weights get scales of their own.
        groups: the columns that share scales, by parameter name, of codes.
        auto: the value type that ``weights="auto"`` stands for, what the run computes with: for
            all weights, or by parameter name with fp32 for the rest.
        exact: keep grids of a scale a row to the last bit, as those of training.
        staging: where the file is written first; None for beside `path`.

    Raises:
        LmbenchError: a weight that is not finite, a vocabulary of another size, or a file that
            cannot be written.
    """
    config = config or PackConfig()
    if len(vocabulary) != model.ntoken:
        raise LmbenchError(
            f"{path.name}: the vocabulary has {len(vocabulary):,} words, the model {model.ntoken:,}"
        )
    grids = grids or {}
    tensors: dict[str, Encoded] = {}
    for name, tensor in _tensors(model).items():
        own = auto if isinstance(auto, str) else auto.get(name, "fp32")
        values = own if config.weights == "auto" else config.weights
        # A grid is one of the run's own value type, and means nothing to another.
        on_grid = name in grids and values == own
        scale = grids[name].detach().cpu().numpy() if on_grid else None
        try:
            tensors[name] = encode(
                tensor,
                values,
                config.sparse,
                group=(groups or {}).get(name, GROUP) if on_grid else GROUP,
                scale=scale,
                exact=exact,
                biases=config.biases,
            )
        except ValueError as error:
            raise LmbenchError(f"{path.name}: tensor '{name}' {error}") from None
    shape, about = shape_of(model), about or About()
    return _write(path, shape, tensors, vocabulary, about, zstd=config.zstd, staging=staging)


def _write(
    path: Path,
    shape: Mapping[str, Any],
    tensors: Mapping[str, Encoded],
    vocabulary: Sequence[str],
    about: About,
    *,
    zstd: bool,
    staging: Path | None,
) -> PackedInfo:
    arrays: dict[str, NDArray[Any]] = {}
    layout: dict[str, Any] = {}
    infos: list[TensorInfo] = []
    for name, encoded in tensors.items():
        spec = encoded.spec
        described, parts = _store(name, encoded.parts, spec, zstd=zstd)
        layout[name] = {
            "layout": spec.layout,
            "values": spec.values,
            "shape": list(spec.shape),
            **({"block": list(spec.block)} if spec.block else {}),
            **({"group": spec.group} if spec.group else {}),
            **({"scale": spec.scale} if spec.scale != "fp16" else {}),
            "parts": described,
        }
        arrays |= parts
        stored = sum(part.nbytes for part in parts.values())
        infos.append(TensorInfo(name, spec, stored, encoded.nonzero))
    words = np.frombuffer(_words(vocabulary), np.uint8)
    described, parts = _store(VOCABULARY, {"words": words}, zstd=zstd)
    arrays |= parts
    metadata = {
        "shape": dict(shape),
        "tensors": layout,
        "vocabulary": described,
        "about": asdict(about),
    }
    size = write_container(path, arrays, metadata, staging)
    return PackedInfo(size, sum(p.nbytes for p in parts.values()), tuple(infos))


def _words(vocabulary: Sequence[str]) -> bytes:
    return "\n".join(vocabulary).encode()


def _tensors(model: RNNModel) -> dict[str, NDArray[np.float32]]:
    tied = shared_names(model)
    return {
        name: tensor.detach().cpu().float().numpy()
        for name, tensor in model.state_dict().items()
        if name not in tied
    }


def _store(
    name: str, parts: Mapping[str, NDArray[Any]], spec: Spec | None = None, *, zstd: bool
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The parts as arrays of the file, and their entries in the document.

    A compressed part is uint8 and its document holds the shape and type that it unpacks to. Those
    of codes are interleaved before; a mask is entropy coded where that is smaller.
    """
    described: dict[str, Any] = {}
    arrays: dict[str, NDArray[Any]] = {}
    level = _ZSTD_LEVEL if spec else _WORDS_LEVEL
    compressor = zstandard.ZstdCompressor(level=level) if zstd else None
    for part, array in parts.items():
        entry: dict[str, Any] = {"shape": list(array.shape), "zstd": False}
        arrays[f"{name}/{part}"] = array
        if compressor and array.nbytes:
            interleaved = spec is not None and spec.code_bits > 0 and part != "mask"
            whole = (interleave(array) if interleaved else np.ascontiguousarray(array)).tobytes()
            squeezed = compressor.compress(whole)
            if len(squeezed) < array.nbytes and len(whole) <= expansion_limit(len(squeezed)):
                arrays[f"{name}/{part}"] = np.frombuffer(squeezed, np.uint8)
                entry |= {"zstd": True, **({"interleaved": True} if interleaved else {})}
            if spec is not None and part == "mask":
                coded = code_mask(array, *spec.grid())
                if len(coded) < _WORTH_CODING * arrays[f"{name}/mask"].nbytes:
                    arrays[f"{name}/mask"] = np.frombuffer(coded, np.uint8)
                    entry |= {"zstd": False, "coded": True}
        described[part] = entry
    return described, arrays


def rewrite_about(path: Path, change: Callable[[About], About], staging: Path | None = None) -> int:
    """Rewrite a packed file's `About`, its tensors untouched; returns the file's new size.
    `staging` is that of `write_packed`."""
    container = open_container(path)
    packed = PackedFile(container)
    arrays = {name: np.array(container.array(name)) for name in container.names()}
    document = {**container.metadata, "about": asdict(change(packed.about))}
    return write_container(path, arrays, document, staging)
