"""From what a user names (a run, a packed file, a file of weights) to a model ready to run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lmbench.corpus import Corpus
from lmbench.deploy.packed_file.metadata import checked_shape
from lmbench.deploy.packed_file.reading import PackedFile, is_packed, open_packed
from lmbench.deploy.recurrent_weights import RecurrentWeights
from lmbench.distiller.quantization.storage import restore
from lmbench.errors import LmbenchError
from lmbench.model.rnn import RNNModel, model_of_shape, model_of_tensors
from lmbench.model_shapes import GATES, shapes_of
from lmbench.session import Home, Run

__all__ = [
    "METADATA",
    "PACKED_NAME",
    "QUANTIZATION",
    "LoadedModel",
    "PackedModel",
    "load_file",
    "load_packed",
    "load_run",
    "open_model",
    "with_words_of",
]

PACKED_NAME = "model.lmpack"
"""What a pack run calls its file."""

QUANTIZATION = "quantization.json"
"""What a quantize run keeps beside its tensors: the engine's `export_state`, as JSON."""

METADATA = "lmbench"
"""Key of a safetensors file's metadata under which `export` keeps shape and vocabulary."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, and its vocabulary."""

    model: nn.Module
    """In eval mode, on the device that was asked for; no parameter requires a gradient."""

    vocabulary: list[str]
    """Words in order of id; empty for a bare file of weights, which has none."""

    shape: Mapping[str, Any]
    """As in a run's record: model, emsize, nhid, nlayers, dropout, tied, projection, ntoken."""

    title: str
    """What to call it on screen: ``SESSION/003-train`` or a file's name."""

    path: Path
    """The folder of the checkpoint, or the file."""

    @property
    def plain(self) -> bool:
        """Is it an ordinary float model, whose weights a runtime may take and lay out anew?

        A model whose modules a quantizer has wrapped has to be run as it is.
        """
        model = self.model
        return (
            type(model) is RNNModel
            and type(model.encoder) is nn.Embedding
            and type(model.rnn) in (nn.LSTM, nn.GRU, nn.RNN)
            and type(model.decoder) is nn.Linear
            and type(model.projection) in (nn.Linear, type(None))
        )

    @property
    def corpus(self) -> Mapping[str, Any]:
        """What its file tells of its corpus, as `About.corpus`."""
        return {}

    @property
    def device(self) -> torch.device:
        tensors = (*self.model.parameters(), *self.model.buffers())
        return tensors[0].device if tensors else torch.device("cpu")

    @property
    def recurrent(self) -> RNNModel:
        """The model, where it is a plain one."""
        if not isinstance(self.model, RNNModel) or not self.plain:
            raise LmbenchError(
                f"{self.title} is a quantized model, whose weights are not plain floats: name the "
                "run that it was made from"
            )
        return self.model

    @cached_property
    def weights(self) -> RecurrentWeights:
        """The tensors of a plain model."""
        return RecurrentWeights.of(self.recurrent)

    @property
    def numel(self) -> int:
        """Parameters of a plain model, tied ones once."""
        return sum(p.numel() for p in self.recurrent.parameters())


class PackedModel(LoadedModel):
    """A packed file as a model, whose fp32 weights are made only when a runtime asks for them.

    The compiled runtimes take the stored tensors from `packed` and never need them.
    """

    packed: PackedFile

    def __init__(
        self, packed: PackedFile, device: str | torch.device = "cpu", title: str | None = None
    ) -> None:
        values = {
            "packed": packed,
            "vocabulary": packed.vocabulary,
            "shape": packed.shape,
            "title": title or packed.path.name,
            "path": packed.path,
            "_device": device,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @cached_property
    def model(self) -> nn.Module:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.packed.to_model().to(self._device)

    @property
    def plain(self) -> bool:
        return True

    @property
    def integers(self) -> bool:
        """Are there matrices in it that its own runtimes compute with as integers?"""
        matrices = (spec for spec in self.packed.specs.values() if len(spec.shape) > 1)
        return any(spec.values not in ("fp32", "fp16") for spec in matrices)

    @property
    def corpus(self) -> Mapping[str, Any]:
        return self.packed.about.corpus

    @property
    def device(self) -> torch.device:
        return torch.device(self._device)

    @property
    def numel(self) -> int:
        return self.packed.numel

    _device: str | torch.device


def open_model(
    ref: str,
    home: Home,
    session: str,
    checkpoint: str = "best",
    device: str | torch.device = "cpu",
) -> tuple[LoadedModel, Run | None]:
    """Load what `ref` names, with its run where it is one.

    Args:
        ref: a run as `Home.find_run` reads it, a packed file, a ``.safetensors`` file, or a folder
            that holds a ``model.safetensors``.

    Raises:
        LmbenchError: there is no such model, or its files are damaged.
    """
    if (path := home.file_of(ref, session)) is not None:
        _refuse_choice(checkpoint, path.name)
        return load_file(path, device), None
    run = home.find_run(ref, session, with_model=True)
    if run.read().kind == "pack":
        _refuse_choice(checkpoint, run.ref)
    return load_run(run, checkpoint, device), run


def _refuse_choice(checkpoint: str, what: str) -> None:
    """Raises LmbenchError where a checkpoint is chosen of what has one model."""
    if checkpoint != "best":
        raise LmbenchError(f"--checkpoint {checkpoint}: {what} holds one model; leave it out")


def load_run(
    run: Run,
    checkpoint: str = "best",
    device: str | torch.device = "cpu",
    title: str | None = None,
) -> LoadedModel:
    """The model of a train, prune, quantize or pack run.

    Args:
        title: what to call it on screen; left out, ``SESSION/003-train``.

    Raises:
        LmbenchError: the run has no such checkpoint yet, its kind has no model of its own, or a
            file is damaged; names the run and what to do.
    """
    record = run.read()
    if record.kind == "pack":
        return load_file(run.path / PACKED_NAME, device, title or run.ref)
    build = _BUILDERS.get(record.kind)
    if build is None:
        raise LmbenchError(
            f"run {run.ref} is of kind '{record.kind}', which makes no model: name a run of kind "
            f"{', '.join(_BUILDERS)}"
        )
    folder = run.checkpoint(checkpoint)
    if folder is None:
        raise LmbenchError(_no_checkpoint(run, checkpoint))
    model = _ready(build(folder, record.shape), device)
    return LoadedModel(model, run.vocabulary(record), record.shape, title or run.ref, folder)


def _no_checkpoint(run: Run, checkpoint: str) -> str:
    other = "last" if checkpoint == "best" else "best"
    line = f"run {run.ref} ({run.status()}) has no checkpoint '{checkpoint}' yet"
    if run.checkpoint(other) is None:
        return line
    resume = "resume it, or " if run.status() in ("stopped", "lost", "failed") else ""
    return f"{line}: {resume}give --checkpoint {other} to a command that takes it"


def load_file(
    path: Path, device: str | torch.device = "cpu", title: str | None = None
) -> LoadedModel:
    """The model in a packed file, a ``.safetensors`` file, or a folder's ``model.safetensors``.

    The shape comes from the file's metadata where `export` wrote it, else from the tensors: an
    LSTM and a GRU differ in their number of gates. Only such an export holds its vocabulary.

    Args:
        title: what to call it on screen; left out, the file's name.

    Raises:
        LmbenchError: no such file, damaged, or not a model of ours; names the file and tensor.
    """
    if is_packed(path):
        return load_packed(path, device, title)
    path = path / "model.safetensors" if path.is_dir() else path
    tensors, metadata = _read(path)
    about = _about(path, metadata)
    shape = _checked_shape(path, about.get("shape") or _shape_from(path, tensors))
    vocabulary = about.get("vocabulary", [])
    model = _ready(_float_model(path, tensors, shape), device)
    known = {*shapes_of(shape), "decoder.weight"} if shape["tied"] else {*shapes_of(shape)}
    if others := tensors.keys() - known:
        raise LmbenchError(
            f"{path}: tensor '{min(others)}' has no place in a model of lmbench, which would "
            "compute something else without it"
        )
    if vocabulary and len(vocabulary) != shape["ntoken"]:
        raise LmbenchError(
            f"{path}: its vocabulary has {len(vocabulary):,} words, its tensors {shape['ntoken']:,}"
        )
    return LoadedModel(model, vocabulary, shape, title or path.name, path)


def load_packed(
    path: Path, device: str | torch.device = "cpu", title: str | None = None
) -> PackedModel:
    """The model in a packed file.

    Raises:
        LmbenchError: see `open_packed`.
    """
    return PackedModel(open_packed(path), device, title)


def with_words_of(loaded: LoadedModel, corpus: Corpus) -> LoadedModel:
    """The model with a corpus's words as its vocabulary.

    Raises:
        LmbenchError: the corpus has another number of words than the model, or the model has a
            vocabulary of its own and it is another.
    """
    ntoken = int(loaded.shape["ntoken"])
    if len(corpus.vocabulary) != ntoken:
        raise LmbenchError(
            f"--data: {corpus.name} has {len(corpus.vocabulary):,} words and the model "
            f"{loaded.title} {ntoken:,}: name the corpus that it was trained on"
        )
    if not loaded.vocabulary:
        return replace(loaded, vocabulary=corpus.vocabulary)
    if loaded.vocabulary != corpus.vocabulary:
        raise LmbenchError(
            f"--data: {corpus.name} numbers its words otherwise than the model {loaded.title}, "
            "which holds its own words: leave --data out"
        )
    return loaded


def _ready(model: nn.Module, device: str | torch.device) -> nn.Module:
    return model.eval().requires_grad_(False).to(device)


def _trained(folder: Path, shape: Mapping[str, Any]) -> nn.Module:
    path = folder / "model.safetensors"
    return _float_model(path, _read(path)[0], _checked_shape(path, shape))


def _quantized(folder: Path, shape: Mapping[str, Any]) -> nn.Module:
    """A model whose modules a quantizer has wrapped, equal to the last bit to the one it kept."""
    weights, settings = folder / "model.safetensors", folder / QUANTIZATION
    tensors, _ = _read(weights)
    s = _checked_shape(weights, shape)
    # Whatever its bits, a weight is kept in its own shape; no memory is taken for another.
    held = {tuple(tensor.shape) for tensor in tensors.values()}
    for name, size in shapes_of(s).items():
        if len(size) == 2 and size not in held:
            raise LmbenchError(f"{weights}: '{name}' is missing: no tensor is {list(size)}")
    try:
        meta = json.loads(settings.read_bytes())
        # Only the structure counts; weights that are drawn on the way must not move the generator.
        with torch.random.fork_rng(devices=()):
            return restore(model_of_shape(s), tensors, meta)
    except FileNotFoundError:
        raise LmbenchError(f"{settings}: no such file, so how to run {weights} is lost") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LmbenchError(f"{folder}: the quantized model is damaged ({error})") from None


_BUILDERS: Mapping[str, Callable[[Path, Mapping[str, Any]], nn.Module]] = {
    "train": _trained,
    "prune": _trained,
    "quantize": _quantized,
}


def _float_model(path: Path, tensors: Mapping[str, Tensor], shape: Mapping[str, Any]) -> RNNModel:
    expected = shapes_of(shape)
    for name, size in expected.items():
        if name not in tensors:
            raise LmbenchError(f"{path}: tensor '{name}' is missing")
        if tuple(tensors[name].shape) != size:
            raise LmbenchError(
                f"{path}: tensor '{name}' is {list(tensors[name].shape)}, but the model's shape "
                f"says {list(size)}"
            )
    return model_of_tensors(shape, {name: tensors[name].float() for name in expected})


def _checked_shape(path: Path, shape: Any) -> dict[str, Any]:
    """A record's or a file's shape, in which every size is one that a model can have."""
    return checked_shape(path, {"dropout": 0.0, **shape} if isinstance(shape, dict) else shape)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except FileNotFoundError:
        raise LmbenchError(f"{path}: no such file") from None
    except (OSError, RuntimeError, SafetensorError) as error:
        # Torch maps the file, and calls what the system says to that a RuntimeError.
        raise LmbenchError(f"{path}: cannot be read as safetensors ({error})") from None


def _about(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        about = json.loads(metadata.get(METADATA, "{}"))
    except (ValueError, RecursionError) as error:
        raise LmbenchError(f"{path}: its metadata is damaged ({error})") from None
    words = about.get("vocabulary", []) if isinstance(about, dict) else None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise LmbenchError(f"{path}: its metadata is damaged (no vocabulary can be read from it)")
    return about


def _shape_from(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
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
    return {
        "model": kinds[0],
        "emsize": emsize,
        "nhid": nhid,
        "nlayers": sum(name.startswith("rnn.weight_hh_l") for name in tensors),
        "dropout": 0.0,
        "tied": "decoder.weight" not in tensors,
        "projection": "projection.weight" in tensors,
        "ntoken": ntoken,
    }
