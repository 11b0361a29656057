"""Models for others: ONNX, checked against torch by ONNX Runtime, and safetensors."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from safetensors.torch import save
from torch import Tensor

from lmbench.deploy.export.onnx_model import Bits, build_graph
from lmbench.deploy.export.sherpa import Signature, build_sherpa, largest_difference
from lmbench.deploy.load_model import METADATA, LoadedModel
from lmbench.deploy.runtimes.naive import NaiveRuntime
from lmbench.deploy.runtimes.onnx_runtime import open_session, too_large
from lmbench.errors import LmbenchError
from lmbench.session.files import write_new

__all__ = [
    "LEAST_TOKENS",
    "Check",
    "check_onnx",
    "export_onnx",
    "export_safetensors",
    "export_sherpa",
    "sherpa_file",
]

_CHECKED_ROWS = 20
LEAST_TOKENS = 4
"""Of a check: two windows of two columns."""

# Largest difference of log-probabilities over the tokens checked: fp32 differs by the order of
# its sums, the others by their rounding, whose mean effect is `Check.divergence`.
_TOLERANCE: dict[Bits, float] = {"fp32": 1e-3, "int8": 1.0, "int4": 4.0}


@dataclass(frozen=True)
class Check:
    """An exported model beside the one it came from, on real tokens."""

    tokens: int
    max_difference: float
    """Largest difference of a log-probability, in nats."""

    divergence: float
    """Mean KL divergence of the predictions, in nats a token."""


def export_onnx(loaded: LoadedModel, path: Path, tokens: np.ndarray, bits: Bits = "fp32") -> Check:
    """Write a model as ONNX and prove it.

    Inputs and outputs: `lmbench.deploy.export.onnx_model.build_graph`. In fp32 the graph is of
    standard operators (opset 17); int8 and int4 need ONNX Runtime.

    Args:
        tokens: ids of a real text, [tokens]; a few hundred are enough.

    Raises:
        LmbenchError: the model is larger than a ``.onnx`` file may be, the file cannot be written,
            or ONNX Runtime's predictions are not the model's (then nothing is written).
    """
    _check_size(loaded, bits)
    model = build_graph(loaded.weights, bits)
    _describe(model, loaded)
    onnx.checker.check_model(model)
    data = model.SerializeToString()
    check = check_onnx(loaded, data, tokens)
    _check_difference(path, bits, check.max_difference, check.tokens)
    _write(path, data)
    return check


def export_sherpa(
    loaded: LoadedModel, path: Path, tokens: np.ndarray, bits: Bits = "fp32"
) -> tuple[dict[Path, str], float, int]:
    """Write a model as sherpa-onnx reads it (`lmbench.deploy.export.sherpa`) and prove it.

    Args:
        path: ``NAME.onnx`` stands for ``NAME.offline.onnx`` and ``NAME.streaming.onnx``.
        tokens: ids of a real text, [tokens].

    Returns:
        The files and the signature of each, the largest difference of a log probability from
        torch's (nats), and over how many tokens.

    Raises:
        LmbenchError: as `export_onnx`, or the vocabulary has no ``<eos>``.
    """
    _check_size(loaded, bits)
    models = build_sherpa(loaded, bits)
    for model in models.values():
        _describe(model, loaded)
        onnx.checker.check_model(model)
    data: dict[Signature, bytes] = {
        name: model.SerializeToString() for name, model in models.items()
    }
    difference, checked = largest_difference(loaded, data, tokens)
    _check_difference(path, bits, difference, checked)
    files: dict[Path, str] = {}
    for name, content in data.items():
        file = sherpa_file(path, name)
        _write(file, content)
        files[file] = name
    return files, difference, checked


def sherpa_file(path: Path, signature: Signature) -> Path:
    """Where `export_sherpa` writes the model of this signature."""
    return path.with_name(f"{path.name.removesuffix('.onnx')}.{signature}.onnx")


def _check_size(loaded: LoadedModel, bits: Bits) -> None:
    if reason := too_large(loaded, bits):
        fewer = "--bits int8, or " if bits == "fp32" else ""
        raise LmbenchError(f"{loaded.title}: {reason}; use {fewer}--format safetensors")


def _check_difference(path: Path, bits: Bits, difference: float, tokens: int) -> None:
    if not difference <= _TOLERANCE[bits]:
        raise LmbenchError(
            f"{path}: not written: ONNX Runtime's log-probabilities differ from torch's by up to "
            f"{difference:.3g} over {tokens} tokens (allowed: {_TOLERANCE[bits]:g})"
        )


def check_onnx(loaded: LoadedModel, model: bytes, tokens: np.ndarray) -> Check:
    """Run an ONNX model of ours beside the torch model, over two windows of a real text.

    Raises:
        LmbenchError: fewer than `LEAST_TOKENS`.
    """
    batch = min(4, len(tokens) // 2)
    rows = min(2 * _CHECKED_ROWS, len(tokens) // batch) if batch >= 2 else 0
    if rows < 2:
        raise LmbenchError(
            f"checking an export needs {LEAST_TOKENS} tokens or more, not {len(tokens)}"
        )
    ids = torch.from_numpy(tokens[: rows * batch].astype(np.int64)).view(batch, rows).t()
    session = open_session(model, torch.get_num_threads())
    names = loaded.weights.state_names
    ours = [part.numpy() for part in loaded.weights.zeros(batch)]
    exact = NaiveRuntime(loaded)
    state = exact.initial_state(batch)
    worst, divergence = torch.zeros((), dtype=torch.float64), 0.0
    # Two windows, so that the state's way out and in again is checked too.
    for window in ids.split(-(-rows // 2)):
        feeds = dict(zip(names, ours, strict=True)) | {"ids": window.contiguous().numpy()}
        logits, *ours = session.run(None, feeds)
        for row, other in zip(window, torch.from_numpy(np.asarray(logits)), strict=True):
            expected, state = exact.step(row.to(exact.device), state)
            log_p, log_q = _log_probs(expected), _log_probs(other)
            # Unlike max(), this keeps a NaN, which must fail the check.
            worst = torch.maximum(worst, (log_p - log_q).abs().max())
            divergence += float((log_p.exp() * (log_p - log_q)).sum())
    return Check(rows * batch, float(worst), divergence / (rows * batch))


def _log_probs(logits: Tensor) -> Tensor:
    return logits.cpu().double().log_softmax(-1)


def export_safetensors(loaded: LoadedModel, path: Path) -> None:
    """Write a model's tensors, tied ones once, with its shape and vocabulary as metadata.

    `lmbench.deploy.load_model.load_file` reads it back with nothing else at hand; so does anything
    that reads safetensors, under PyTorch's names of the parameters.

    Raises:
        LmbenchError: the model's modules are wrapped by a quantizer, or the file cannot be written.
    """
    model = loaded.recurrent
    # `named_parameters` gives a tied tensor once.
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.named_parameters()}
    about = {"shape": dict(loaded.shape), "vocabulary": list(loaded.vocabulary)}
    _write(path, save(tensors, {METADATA: json.dumps(about, ensure_ascii=False)}))


def _describe(model: onnx.ModelProto, loaded: LoadedModel) -> None:
    about = {"shape": dict(loaded.shape), "vocabulary": list(loaded.vocabulary)}
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(about, ensure_ascii=False)


def _write(path: Path, data: bytes) -> None:
    try:
        write_new(path, data)
    except FileExistsError:
        raise LmbenchError(f"{path}: is there already; name another place") from None
    except OSError as error:
        reason = error.strerror or os.fspath(path)
        raise LmbenchError(f"{path}: cannot be written ({reason})") from None
