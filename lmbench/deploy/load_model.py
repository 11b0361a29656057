"""From a run's folder, or a file of weights, to a model that is ready to run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lmbench.corpus import Corpus
from lmbench.deploy.loaded_model import Loaded, expected_tensors
from lmbench.deploy.packed_file.writing import is_packed, load_packed
from lmbench.deploy.recurrent_weights import GATES
from lmbench.distiller.quantization import restore
from lmbench.errors import LmbenchError
from lmbench.model.rnn import RNNModel, shared_names
from lmbench.session import Run

__all__ = [
    "METADATA",
    "PACKED_NAME",
    "load_file",
    "load_run",
    "with_words_of",
]

_SIZES = ("ntoken", "emsize", "nhid", "nlayers")

PACKED_NAME = "model.lmpack"
"""What a pack run calls its file."""

QUANTIZATION = "quantization.json"
"""What a quantize run keeps beside its tensors: the engine's `export_state`, as JSON."""

METADATA = "lmbench"
"""Key of a safetensors file's metadata under which `export` keeps shape and vocabulary."""


def with_words_of(loaded: Loaded, corpus: Corpus) -> Loaded:
    """The model, speaking a corpus's words.

    Raises:
        LmbenchError: the corpus has another number of words than the model, or the model knows
            words of its own and they are others.
    """
    ntoken = int(loaded.shape["ntoken"])
    if len(corpus.vocabulary) != ntoken:
        raise LmbenchError(
            f"--data: {corpus.name} has {len(corpus.vocabulary):,} words and the model "
            f"{loaded.title} {ntoken:,}: name the corpus that it was trained on"
        )
    if loaded.vocabulary and loaded.vocabulary != corpus.vocabulary:
        raise LmbenchError(
            f"--data: {corpus.name} numbers its words otherwise than the model {loaded.title}, "
            "which holds its own words: leave --data out"
        )
    return replace(loaded, vocabulary=corpus.vocabulary)


def load_run(run: Run, checkpoint: str = "best", device: str | torch.device = "cpu") -> Loaded:
    """The model of a train, prune or quantize run.

    Raises:
        LmbenchError: the run has no such checkpoint yet, its kind has no model of its own, or a
            file is damaged; names the run and what to do.
    """
    record = run.read()
    if record.kind == "pack":
        return load_file(run.path / PACKED_NAME, device, run.ref)
    folder = run.checkpoint(checkpoint)
    if folder is None:
        raise LmbenchError(_no_checkpoint(run, checkpoint))
    build = _BUILDERS.get(record.kind)
    if build is None:
        raise LmbenchError(
            f"run {run.ref} is of kind '{record.kind}', which makes no model: name a run of kind "
            f"{', '.join(_BUILDERS)}"
        )
    model = _ready(build(folder, record.shape), device)
    return Loaded(model, run.vocabulary(record), record.shape, run.ref, folder)


def _no_checkpoint(run: Run, checkpoint: str) -> str:
    other = "last" if checkpoint == "best" else "best"
    line = f"run {run.ref} ({run.status()}) has no checkpoint '{checkpoint}' yet"
    return f"{line}: use --checkpoint {other}" if run.checkpoint(other) else line


def load_file(path: Path, device: str | torch.device = "cpu", title: str | None = None) -> Loaded:
    """The model in a packed file, a ``.safetensors`` file, or a folder's ``model.safetensors``.

    The shape comes from the file's metadata where `export` wrote it, else from the tensors: an
    LSTM and a GRU show by their number of gates. Only such an export knows its vocabulary.

    Raises:
        LmbenchError: no such file, damaged, or not a model of ours; names the file and tensor.
    """
    if is_packed(path):
        return load_packed(path, device, title)
    path = path / "model.safetensors" if path.is_dir() else path
    tensors, metadata = _read(path)
    about = _about(path, metadata)
    shape = about.get("shape") or _shape_of(path, tensors)
    vocabulary = about.get("vocabulary", [])
    model = _ready(_float_model(path, tensors, shape), device)
    if vocabulary and len(vocabulary) != shape["ntoken"]:
        raise LmbenchError(
            f"{path}: its vocabulary has {len(vocabulary):,} words, its tensors {shape['ntoken']:,}"
        )
    return Loaded(model, vocabulary, shape, title or path.name, path)


def _ready(model: nn.Module, device: str | torch.device) -> nn.Module:
    return model.eval().requires_grad_(False).to(device)


def _trained(folder: Path, shape: Mapping[str, Any]) -> nn.Module:
    path = folder / "model.safetensors"
    return _float_model(path, _read(path)[0], shape)


def _quantized(folder: Path, shape: Mapping[str, Any]) -> nn.Module:
    """A model whose modules a quantizer has wrapped, equal to the last bit to the one it kept."""
    weights, settings = folder / "model.safetensors", folder / QUANTIZATION
    tensors, _ = _read(weights)
    try:
        meta = json.loads(settings.read_bytes())
        # Only the structure counts; weights that are drawn on the way must not move the generator.
        with torch.random.fork_rng(devices=()):
            return restore(RNNModel(*_arguments(weights, shape)), tensors, meta)
    except FileNotFoundError:
        raise LmbenchError(f"{settings}: no such file, so how to run {weights} is lost") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LmbenchError(f"{folder}: the quantized model is damaged ({error})") from None


_BUILDERS: Mapping[str, Callable[[Path, Mapping[str, Any]], nn.Module]] = {
    "train": _trained,
    "prune": _trained,
    "quantize": _quantized,
}


def _float_model(path: Path, tensors: dict[str, Tensor], shape: Mapping[str, Any]) -> RNNModel:
    kind, ntoken, emsize, nhid, nlayers, dropout, tied = _arguments(path, shape)
    expected = expected_tensors(kind, ntoken, emsize, nhid, nlayers, tied=tied)
    for name, size in expected.items():
        if name not in tensors:
            raise LmbenchError(f"{path}: tensor '{name}' is missing")
        if tuple(tensors[name].shape) != size:
            raise LmbenchError(
                f"{path}: tensor '{name}' is {list(tensors[name].shape)}, but the model's shape "
                f"says {list(size)}"
            )
    # The weights are about to be replaced: memory for them is not even touched.
    with torch.device("meta"):
        model = RNNModel(kind, ntoken, emsize, nhid, nlayers, dropout, tied)
    given = {name: tensors[name].float() for name in expected}
    given |= {alias: given[kept] for alias, kept in shared_names(model).items()}
    model.load_state_dict(given, assign=True)
    if tied:
        # `assign` gives each name a parameter of its own.
        model.decoder.weight = model.encoder.weight
    return model


def _arguments(path: Path, shape: Mapping[str, Any]) -> tuple[str, int, int, int, int, float, bool]:
    """What `RNNModel` is built with, from a record's or a file's shape."""
    try:
        ntoken, emsize, nhid, nlayers = (int(shape[k]) for k in _SIZES)
        dropout = float(shape.get("dropout", 0.0))
        return str(shape["model"]), ntoken, emsize, nhid, nlayers, dropout, bool(shape["tied"])
    except (KeyError, TypeError, ValueError) as error:
        raise LmbenchError(f"{path}: the model's shape is not told in full ({error})") from None


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except FileNotFoundError:
        raise LmbenchError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise LmbenchError(f"{path}: cannot be read as safetensors ({error})") from None


def _about(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        about = json.loads(metadata.get(METADATA, "{}"))
    except ValueError as error:
        raise LmbenchError(f"{path}: its metadata is damaged ({error})") from None
    words = about.get("vocabulary", []) if isinstance(about, dict) else None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise LmbenchError(f"{path}: its metadata is damaged (no vocabulary can be read from it)")
    return about


def _shape_of(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    try:
        ntoken, emsize = tensors["encoder.weight"].shape
        rows, nhid = tensors["rnn.weight_hh_l0"].shape
    except (KeyError, ValueError):
        raise LmbenchError(
            f"{path}: not a model of lmbench (it needs matrices 'encoder.weight' and "
            "'rnn.weight_hh_l0')"
        ) from None
    kinds = [kind for kind, gates in GATES.items() if gates * nhid == rows]
    if len(kinds) != 1:
        reason = "tanh or relu cannot be told apart" if kinds else "no cell has that many gates"
        raise LmbenchError(
            f"{path}: what kind of cell it holds does not show from the tensors ({reason}); "
            "name the run, or a file that `lmbench export` wrote"
        )
    decoder = tensors.get("decoder.weight")
    return {
        "model": kinds[0],
        "emsize": emsize,
        "nhid": nhid,
        "nlayers": sum(name.startswith("rnn.weight_hh_l") for name in tensors),
        "dropout": 0.0,
        "tied": decoder is None,
        "ntoken": ntoken,
    }
