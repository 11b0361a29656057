"""A model as ONNX or safetensors, and what is said of it."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lmbench.cli.output import print_line
from lmbench.deploy.export import Bits
from lmbench.deploy.export.hub import export_hub
from lmbench.deploy.export.write import (
    LEAST_TOKENS,
    export_onnx,
    export_safetensors,
    export_sherpa,
)
from lmbench.deploy.load_model import LoadedModel, PackedModel, load_run
from lmbench.deploy.packed_file.dequantize import dequantized
from lmbench.errors import LmbenchError
from lmbench.jobs.scoring_text import corpus_of, corpus_of_file
from lmbench.report.model_card import model_card, shown_checkpoint
from lmbench.session import Home, Run

__all__ = ["Contract", "export_model", "export_to_hub", "print_exported"]

Contract = Literal["sherpa"]

# What the check reads of the test split.
_TOKENS = 400


def export_model(
    loaded: LoadedModel,
    run: Run | None,
    path: Path,
    format: Literal["onnx", "safetensors"],
    bits: Bits = "fp32",
    contract: Contract | None = None,
) -> dict[str, Any]:
    """Write a model to `path`; the document says what was written and how it was checked.

    Args:
        run: whose model it is, None for one from a file.

    Raises:
        LmbenchError: see `lmbench.deploy.export.write`.
    """
    document: dict[str, Any] = {"run": loaded.title, "format": format}
    loaded, activations = _in_floats(loaded)
    document |= activations
    if format == "safetensors":
        export_safetensors(loaded, path)
    elif contract:
        tokens, source = _real_tokens(loaded, run)
        files, difference, count = export_sherpa(loaded, path, tokens, bits)
        document |= {"bits": bits, "contract": contract, "checked_on": source, "tokens": count}
        document |= {"max_difference": difference, "files": list(map(str, files))}
        return {**document, "bytes": sum(file.stat().st_size for file in files)}
    else:
        tokens, source = _real_tokens(loaded, run)
        check = export_onnx(loaded, path, tokens, bits)
        document |= {"bits": bits, "checked_on": source, **asdict(check)}
    return {**document, "file": str(path), "bytes": path.stat().st_size}


def export_to_hub(run: Run, folder: Path) -> dict[str, Any]:
    """Write a run's model, of the checkpoint that its test score is of, as a folder for the Hub.

    Raises:
        LmbenchError: the run has no model yet, or its files are damaged.
    """
    loaded = load_run(run, shown_checkpoint(run))
    plain, activations = _in_floats(loaded)
    export_hub(plain, folder, lambda size: model_card(run, size, bool(activations)))
    files = sorted(folder.iterdir())
    document = {"run": loaded.title, "format": "hub", "file": str(folder), **activations}
    return {**document, "bytes": sum(file.stat().st_size for file in files)}


def _in_floats(loaded: LoadedModel) -> tuple[LoadedModel, dict[str, Any]]:
    """A model as one of plain floats, and what is to be said of it where it was quantized: its
    weights keep the values of their integers, activations are no part of a float model."""
    note = {"activations": "floats: quantizing them is not part of an exported model"}
    if loaded.plain:
        return loaded, note if isinstance(loaded, PackedModel) and loaded.integers else {}
    plain = dequantized(loaded.model, loaded.shape).model
    shape = {**loaded.shape, "tied": plain.tied}
    return dataclasses.replace(loaded, model=plain, shape=shape), note


def _real_tokens(loaded: LoadedModel, run: Run | None) -> tuple[np.ndarray, str]:
    """A piece of the test split that the model was trained for, and what it is.

    Where that corpus is not at hand (a file of weights, a session from elsewhere), the model's
    ids in a fixed order of chance stand in: the check is of arithmetic.
    """
    home, corpus = Home.find().path, None
    with suppress(LmbenchError):
        corpus = (
            corpus_of(run.read().corpus, home, run.ref)
            if run
            else corpus_of_file(loaded.corpus, home)
        )
    if corpus and len(tokens := corpus.split("test")[:_TOKENS]) >= LEAST_TOKENS:
        return tokens, f"test of {corpus.name}"
    ids = np.random.default_rng(0).integers(int(loaded.shape["ntoken"]), size=_TOKENS)
    return ids, "random words (its corpus is not at hand)"


def print_exported(document: dict[str, Any]) -> None:
    """The same in a line."""
    files = document.get("files") or [document["file"]]
    line = f"{', '.join(files)}: {document['bytes']:,} bytes"
    if document["format"] == "onnx":
        line += (
            f"; ONNX Runtime agrees with torch to {document['max_difference']:.2g} nats over "
            f"{document['tokens']} tokens ({document['checked_on']})"
        )
    if "activations" in document:
        line += f"; activations in {document['activations']}"
    print_line(line)
