"""``lmbench export``: a model as ONNX or safetensors."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from cyclopts import Parameter

from lmbench.cli.output import Json, SessionName, print_json, print_line
from lmbench.corpus import open_corpus
from lmbench.deploy.export.onnx_model import Bits
from lmbench.deploy.export.write import export_onnx, export_safetensors, export_sherpa
from lmbench.deploy.load_model import LoadedModel, load_run, open_model
from lmbench.deploy.packed_file.dequantize import dequantized
from lmbench.errors import LmbenchError
from lmbench.session import Home, Run

__all__ = ["export", "export_run"]

Format = Literal["onnx", "safetensors"]
Contract = Literal["sherpa"]

# What the check reads of the test split.
_TOKENS = 400


def export(
    run: str = "@",
    /,
    *,
    format: Annotated[Format, Parameter(help="onnx, checked by ONNX Runtime; or safetensors")],
    output: Annotated[
        Path | None,
        Parameter(name=("--output", "-o"), help="the file; left out: named after the run"),
    ] = None,
    bits: Annotated[
        Bits,
        Parameter(help="of an ONNX model's weights: fp32 of standard operators, or int8 or int4"),
    ] = "fp32",
    contract: Annotated[
        Contract | None,
        Parameter(
            help="inputs and outputs as a recogniser's loader reads them: sherpa writes "
            "NAME.offline.onnx and NAME.streaming.onnx for sherpa-onnx"
        ),
    ] = None,
    checkpoint: Annotated[
        Literal["best", "last"], Parameter(help="which checkpoint of the run")
    ] = "best",
    session: SessionName = "default",
    json: Json = False,
) -> int:
    """Write a model for other programs.

    Args:
        run: SESSION/3, SESSION/003-train, 3, a name, @ for the newest, a folder, or a packed or
            safetensors file.
    """
    if bits != "fp32" and format != "onnx":
        raise LmbenchError(
            f"--bits {bits}: only for --format onnx; `lmbench pack` writes small files"
        )
    if contract and format != "onnx":
        raise LmbenchError(f"--contract {contract}: only for --format onnx")
    loaded, found = open_model(run, Home.find(), session, checkpoint)
    path = output or Path(f"{found.path.name if found else loaded.path.stem}.{format}")
    document = _export(loaded, found, path, format, bits, contract)
    if json:
        print_json(document)
    else:
        _print(document)
    return 0


def export_run(
    run: Run, path: Path, *, format: Format, bits: Bits = "fp32", quiet: bool
) -> dict[str, Any]:
    """Export a run's model to `path`: the best checkpoint, or the last where it has no best.

    Args:
        quiet: print nothing; the document that is returned says the same.
    """
    checkpoint = "best" if run.checkpoint("best") else "last"
    document = _export(load_run(run, checkpoint), run, path, format, bits)
    if not quiet:
        _print(document)
    return document


def _export(
    loaded: LoadedModel,
    run: Run | None,
    path: Path,
    format: Format,
    bits: Bits,
    contract: Contract | None = None,
) -> dict[str, Any]:
    path = path.expanduser()
    document: dict[str, Any] = {"run": loaded.title, "format": format, "file": str(path)}
    if not loaded.plain:
        # Its weights keep the values of their integers; activations are no part of a float model.
        plain = dequantized(loaded.model, loaded.shape).model
        shape = {**loaded.shape, "tied": plain.tied}
        loaded = dataclasses.replace(loaded, model=plain, shape=shape)
        document["activations"] = "floats: quantizing them is not part of an exported model"
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
    return {**document, "bytes": path.stat().st_size}


def _real_tokens(loaded: LoadedModel, run: Run | None) -> tuple[np.ndarray, str]:
    """A piece of the test split that the model was trained for, and what it is.

    Where that corpus is not at hand (a file of weights, a session from elsewhere), the model's
    ids in a fixed order of chance stand in: the check is of arithmetic.
    """
    record = run.read() if run else None
    if record and record.corpus:
        known = record.corpus
        spec = known.origin if Path(known.origin).is_dir() else known.name
        try:
            corpus = open_corpus(spec, Home.find().path, vocab=known.vocab, may_fetch=False)
        except LmbenchError:
            corpus = None
        if corpus and corpus.fingerprint == known.fingerprint:
            return corpus.split("test")[:_TOKENS], f"test of {corpus.name}"
    ids = np.random.default_rng(0).integers(int(loaded.shape["ntoken"]), size=_TOKENS)
    return ids, "random words (its corpus is not at hand)"


def _print(document: dict[str, Any]) -> None:
    line = f"{', '.join(document.get('files', [document['file']]))}: {document['bytes']:,} bytes"
    if document["format"] == "onnx":
        line += (
            f"; ONNX Runtime agrees with torch to {document['max_difference']:.2g} nats over "
            f"{document['tokens']} tokens ({document['checked_on']})"
        )
    if "activations" in document:
        line += f"; activations in {document['activations']}"
    print_line(line)
