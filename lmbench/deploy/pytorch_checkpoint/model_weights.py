"""From a checkpoint's tensors to a model of ours: names, kind, sizes, masks, and what is left."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmbench.deploy.pytorch_checkpoint.container import Checkpoint, open_checkpoint, storage_of
from lmbench.deploy.pytorch_checkpoint.pickle_values import ORDERED_DICT, Made, Name
from lmbench.errors import LmbenchError
from lmbench.model.rnn import RNNModel, model_of_tensors
from lmbench.model_shapes import GATES, parameter_shapes
from lmbench.printable import one_line

__all__ = ["ImportedModel", "import_model"]

_STATE_DICTS = ("state_dict", "model_state_dict", "model")
_MASKS = "compression_sched"
"""Where Distiller keeps the state of its scheduler, which is its masks."""
_LONGEST_LIST = 8

# Distiller's LSTM of modules, and the names that torch's layers have for the same weights.
_MODULAR = re.compile(r"rnn\.cells\.(\d{1,3})\.fc_gate_([xh])\.(weight|bias)")
_LAYER = re.compile(r"rnn\.weight_hh_l\d+")

# Whole modules name it, for buffers that they do not save.
_SETS = (Name("builtins", "set"), Name("__builtin__", "set"))


@dataclass(frozen=True)
class ImportedModel:
    """A model from elsewhere, and what is to be said of it."""

    model: RNNModel
    lines: tuple[str, ...]
    """What was taken over, and what was left behind."""


def import_model(path: Path, kind: str | None = None) -> ImportedModel:
    """The model in a ``model.pt`` of PyTorch's word-language-model example, whole or as a state
    dictionary, or in a ``.pth.tar`` of Distiller.

    Args:
        kind: of the recurrent layers, where the file does not say: RNN_TANH or RNN_RELU.

    Raises:
        LmbenchError: not such a file, or of another model; names the file and the tensor.
    """
    checkpoint = open_checkpoint(path)
    values, hints, lines = _state(checkpoint)
    if kind is not None and hints.get("kind", kind) != kind:
        raise LmbenchError(f"--model {kind}: {path} says {hints['kind']}: leave the flag out")
    values = _renamed(path, values)
    tied = _tied(values)
    tensors = checkpoint.tensors(values)
    shape = _shape(path, tensors, kind or hints.get("kind"), tied)
    if tied:
        tensors.pop("decoder.weight", None)
    tensors = {name: _numbers(path, name, tensor) for name, tensor in tensors.items()}
    lines += _mask(checkpoint, tensors)
    shape["dropout"] = hints.get("dropout", 0.0)
    sizes = f"{shape['nlayers']} layers of {shape['nhid']} units, embedding of {shape['emsize']}"
    first = f"{shape['model']}, {sizes}, {shape['ntoken']:,} types" + ", tied" * shape["tied"]
    classes = [name for name in checkpoint.names if not _is_ordinary(name)]
    if classes:
        lines.append(f"classes that are named in it and were not made: {_list(classes)}")
    return ImportedModel(model_of_tensors(shape, tensors), (first, *map(one_line, lines)))


def _is_ordinary(name: Name) -> bool:
    """Is it what every checkpoint names: torch's own, a dictionary, a set?"""
    ours = name in (ORDERED_DICT, *_SETS)
    return ours or name.module == "torch" or name.module.startswith("torch.")


def _state(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """The parameters by name, what else the file says of the model, and lines about the rest."""
    value = checkpoint.value
    if isinstance(value, Made):
        return (
            dict(_parameters(value)),
            _hints(value),
            ["a whole module: its tensors alone are read"],
        )
    if not isinstance(value, dict):
        raise LmbenchError(f"{checkpoint.path}: holds neither a module nor a dictionary of tensors")
    key = next((key for key in _STATE_DICTS if key in value), None)
    if key is None:
        return _tensors_in(value), {}, []
    found = value[key]
    hints = _hints(found) if isinstance(found, Made) else {}
    state = dict(_parameters(found)) if isinstance(found, Made) else _tensors_in(found)
    lines = []
    for name, rest in value.items():
        if not isinstance(name, str) or name in (key, _MASKS):
            continue
        # Python writes no integer of very many digits.
        simple = isinstance(rest, str | float) or (type(rest) is int and abs(rest) < 2**64)
        lines.append(f"left behind: {name}" + (f" ({str(rest)[:60]})" if simple else ""))
    return state, hints, lines


def _tensors_in(state: Any) -> dict[str, Any]:
    if not isinstance(state, dict):
        return {}
    return {k: v for k, v in state.items() if isinstance(k, str) and storage_of(v) is not None}


def _parts(module: Any, which: str) -> dict[Any, Any]:
    """``_modules``, ``_parameters`` or ``_buffers`` of a module that was pickled whole."""
    state = module.state if isinstance(module, Made) else None
    found = state.get(which) if isinstance(state, dict) else None
    return found if isinstance(found, dict) else {}


def _parameters(root: Made) -> Iterator[tuple[str, Any]]:
    """The parameters and buffers of a module that was pickled whole, with their names."""
    waiting, seen = [("", root)], {id(root)}
    while waiting:
        prefix, module = waiting.pop()
        for which in ("_parameters", "_buffers"):
            for name, value in _parts(module, which).items():
                if isinstance(name, str) and storage_of(value) is not None:
                    yield f"{prefix}{name}", value
        for name, child in _parts(module, "_modules").items():
            # A module can be pickled as a part of itself.
            if isinstance(name, str) and isinstance(child, Made) and id(child) not in seen:
                seen.add(id(child))
                waiting.append((f"{prefix}{name}.", child))


def _hints(module: Made) -> dict[str, Any]:
    """What a whole module says of itself: the kind of its layers, and the dropout."""
    children = _parts(module, "_modules")
    module = children.get("module", module)
    children = _parts(module, "_modules")
    rnn = getattr(children.get("rnn"), "state", None)
    drop = getattr(children.get("drop"), "state", None)
    kind = rnn.get("mode") if isinstance(rnn, dict) else None
    dropout = drop.get("p") if isinstance(drop, dict) else None
    hints: dict[str, Any] = {"kind": kind} if isinstance(kind, str) and kind in GATES else {}
    if isinstance(dropout, int | float) and 0 <= dropout < 1:
        hints["dropout"] = float(dropout)
    return hints


def _renamed(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """The same under our names."""
    if not values:
        raise LmbenchError(f"{path}: holds no tensors of a model")
    if any(".wrapped_module." in name or name.endswith("_scale") for name in values):
        raise LmbenchError(
            f"{path}: holds a model that Distiller has quantized; import the one that it was made "
            "of, and quantize that"
        )
    return _by_our_names(path, values)


def _by_our_names(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    renamed: dict[str, Any] = {}
    for name, value in values.items():
        ours = _our_name(name)
        if ours in renamed:
            raise LmbenchError(f"{path}: has two tensors that are '{one_line(ours)[:80]}' here")
        renamed[ours] = value
    return renamed


def _our_name(name: str) -> str:
    name = name.removeprefix("module.")
    found = _MODULAR.fullmatch(name)
    if found is None:
        return name
    layer, gate, part = found.groups()
    return f"rnn.{part}_{'ih' if gate == 'x' else 'hh'}_l{int(layer)}"


def _tied(values: Mapping[str, Any]) -> bool:
    """Do decoder and embedding have one storage?"""
    encoder, decoder = values.get("encoder.weight"), values.get("decoder.weight")
    return decoder is None or storage_of(encoder) == storage_of(decoder)


def _shape(
    path: Path, tensors: Mapping[str, Tensor], kind: str | None, tied: bool
) -> dict[str, Any]:
    """Kind and sizes, as the tensors show them; every tensor has its place in the model.

    Raises:
        LmbenchError: they are of no model of ours; names the first tensor that does not fit.
    """
    encoder, hidden = tensors.get("encoder.weight"), tensors.get("rnn.weight_hh_l0")
    if encoder is None or hidden is None or encoder.dim() != 2 or hidden.dim() != 2:
        raise LmbenchError(
            f"{path}: is no recurrent language model (it needs matrices 'encoder.weight' and "
            f"'rnn.weight_hh_l0', and has {_list(tensors)})"
        )
    (ntoken, emsize), (rows, nhid) = encoder.shape, hidden.shape
    kinds = [name for name, gates in GATES.items() if nhid and gates * nhid == rows]
    if kind is not None and kind not in kinds:
        raise LmbenchError(
            f"{path}: {kind} has {GATES.get(kind, 0)} gates, its 'rnn.weight_hh_l0' is "
            f"{list(hidden.shape)}"
        )
    if kind is None and len(kinds) != 1:
        hint = "say --model RNN_TANH or --model RNN_RELU" if kinds else "no cell has such gates"
        raise LmbenchError(
            f"{path}: what its layers compute does not show from the tensors: {hint}"
        )
    kind = kind or kinds[0]
    nlayers = sum(_LAYER.fullmatch(name) is not None for name in tensors)
    sizes = parameter_shapes(kind, ntoken, emsize, nhid, nlayers, tied=False)
    if tied and emsize == nhid and "decoder.weight" not in tensors:
        del sizes["decoder.weight"]
    for name, size in sizes.items():
        found = tensors.get(name)
        if found is None or tuple(found.shape) != size:
            has = "is missing" if found is None else f"is {list(found.shape)}"
            raise LmbenchError(f"{path}: tensor '{name}' {has}, and should be {list(size)}")
    others = [name for name in tensors if name not in sizes]
    if others:
        raise LmbenchError(
            f"{path}: has tensors that no model of lmbench has, and would compute something else "
            f"without them: {_list(others)}"
        )
    return {"model": kind, "ntoken": ntoken, "emsize": emsize, "nhid": nhid, "nlayers": nlayers,
            "tied": tied}  # fmt: skip


def _numbers(path: Path, name: str, tensor: Tensor) -> Tensor:
    found = tensor.float()
    # Some that fp64 holds are infinite in fp32.
    if not tensor.is_floating_point() or not bool(torch.isfinite(found).all()):
        raise LmbenchError(f"{path}: tensor '{name}' has values that are no numbers in fp32")
    return found


def _mask(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> list[str]:
    """Apply the masks that Distiller's scheduler kept, and say what they leave."""
    scheduler = checkpoint.value.get(_MASKS) if isinstance(checkpoint.value, dict) else None
    found = scheduler.get("masks_dict") if isinstance(scheduler, dict) else None
    if not isinstance(found, dict):
        return []
    masks = _by_our_names(checkpoint.path, _tensors_in(found))
    kept = total = 0
    for name, value in masks.items():
        mask = checkpoint.tensor(value, f"mask of {name}")
        tied = name == "decoder.weight" and name not in tensors
        weight = tensors.get("encoder.weight" if tied else name)
        if weight is None or weight.shape != mask.shape:
            raise LmbenchError(f"{checkpoint.path}: the mask of '{one_line(name)}' fits no tensor")
        weight *= mask != 0
        kept, total = kept + int(torch.count_nonzero(mask)), total + mask.numel()
    line = "left behind: the scheduler that made the masks (its policies are in its YAML file)"
    if not masks:
        return [line]
    return [f"masks of {len(masks)} tensors, which leave {kept:,} of {total:,} weights", line]


def _list(names: Any) -> str:
    shown = [one_line(name)[:80] for name in names]
    more = f" and {len(shown) - _LONGEST_LIST} more" if len(shown) > _LONGEST_LIST else ""
    return ", ".join(shown[:_LONGEST_LIST]) + more if shown else "none"
