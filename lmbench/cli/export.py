"""``lmbench export``: a model, or the curves of runs, for other programs."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from lmbench.cli.flags import free_place, refuse_flags, write_new
from lmbench.cli.output import Json, SessionName, print_json, print_line
from lmbench.deploy.export import Bits
from lmbench.errors import LmbenchError
from lmbench.session import Home
from lmbench.user_folder import expanded

__all__ = ["export"]

Format = Literal["onnx", "safetensors", "hub", "csv", "tensorboard", "wandb"]
Checkpoint = Literal["best", "last"]


def export(
    *run: str,
    format: Annotated[
        Format,
        Parameter(
            help="of a model: onnx, checked by ONNX Runtime, safetensors, or hub (a folder as the "
            "Hugging Face Hub has it); of the curves of runs: csv, tensorboard (a folder of event "
            "files) or wandb (a folder of offline runs)"
        ),
    ],
    output: Annotated[
        Path | None,
        Parameter(name=("--output", "-o"), help="the file or folder; left out: named after it"),
    ] = None,
    bits: Annotated[
        Bits,
        Parameter(help="of an ONNX model's weights: fp32 of standard operators, or int8 or int4"),
    ] = "fp32",
    contract: Annotated[
        Literal["sherpa"] | None,
        Parameter(
            help="inputs and outputs as a recogniser's loader reads them: sherpa writes "
            "NAME.offline.onnx and NAME.streaming.onnx for sherpa-onnx"
        ),
    ] = None,
    checkpoint: Annotated[Checkpoint, Parameter(help="which checkpoint of the run")] = "best",
    session: SessionName = "default",
    json: Json = False,
) -> int:
    """Write a model, or the curves of runs, for other programs.

    Args:
        run: SESSION/3, SESSION/003-train, 3, a name, @ for the newest (left out: @), or a folder;
            for curves several; for a model also a packed or safetensors file.
    """
    if bits != "fp32" and format != "onnx":
        raise LmbenchError(
            f"--bits {bits}: only for --format onnx; `lmbench pack` writes small files"
        )
    if contract and format != "onnx":
        raise LmbenchError(f"--contract {contract}: only for --format onnx")
    refs = list(run) or ["@"]
    if format in ("onnx", "safetensors", "hub"):
        if len(refs) > 1:
            raise LmbenchError(f"--format {format} writes one model: name one run")
        from lmbench.cli.export_model import print_exported

        say = print_exported
        if format == "hub":
            reason = "does nothing beside --format hub, which takes the checkpoint that was scored"
            refuse_flags(reason, checkpoint=checkpoint != "best")
            document = _hub(refs[0], session, output)
        else:
            document = _model(refs[0], session, format, output, bits, contract, checkpoint)
    else:
        refuse_flags(f"does nothing beside --format {format}", checkpoint=checkpoint != "best")
        document, say = _curves(refs, session, format, output), _print_curves
    if json:
        print_json(document)
    else:
        say(document)
    return 0


def _model(
    ref: str,
    session: str,
    format: Literal["onnx", "safetensors"],
    output: Path | None,
    bits: Bits,
    contract: Literal["sherpa"] | None,
    checkpoint: Checkpoint,
) -> dict[str, Any]:
    from lmbench.cli.export_model import export_model
    from lmbench.deploy.export.write import sherpa_file
    from lmbench.deploy.load_model import open_model

    loaded, found = open_model(ref, Home.find(), session, checkpoint)
    path = output or Path(f"{found.path.name if found else loaded.path.stem}.{format}")
    path = expanded(path)
    files = [sherpa_file(path, "offline"), sherpa_file(path, "streaming")] if contract else [path]
    for file in files:
        free_place("--output", file)
    return export_model(loaded, found, path, format, bits, contract)


def _hub(ref: str, session: str, output: Path | None) -> dict[str, Any]:
    from lmbench.cli.export_model import export_to_hub

    found = Home.find().find_run(ref, session, with_model=True)
    path = free_place("--output", output or f"{found.path.name}.hub")
    return export_to_hub(found, path)


def _curves(
    refs: list[str],
    session: str,
    format: Literal["csv", "tensorboard", "wandb"],
    output: Path | None,
) -> dict[str, Any]:
    from lmbench.report.curve_files.points import as_csv
    from lmbench.report.curve_files.tensorboard_events import write_tensorboard
    from lmbench.report.curve_files.wandb_runs import write_wandb

    home = Home.find()
    runs = list(dict.fromkeys(home.find_run(ref, session) for ref in refs))
    for ref, number in Counter(run.ref for run in runs).items():
        if number > 1:
            raise LmbenchError(
                f"{number} runs of several working folders are {ref}: export each alone"
            )
    path = output or Path(f"{runs[0].path.name if len(runs) == 1 else 'curves'}.{format}")
    path = free_place("--output", path)
    match format:
        case "csv":
            write_new("--output", path, as_csv(runs).encode())
        case "tensorboard":
            write_tensorboard(runs, path)
        case "wandb":
            write_wandb(runs, path)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {
        "runs": [str(found.path) for found in runs],
        "format": format,
        "file": str(path),
        "bytes": sum(file.stat().st_size for file in files),
    }


_OPEN_WITH = {"tensorboard": "tensorboard --logdir {}", "wandb": "wandb sync {}/offline-run-*"}


def _print_curves(document: dict[str, Any]) -> None:
    of = ", ".join(Path(run).name for run in document["runs"])
    line = f"{document['file']}: the curves of {of}, {document['bytes']:,} bytes"
    then = _OPEN_WITH.get(document["format"], "").format(shlex.quote(document["file"]))
    print_line(f"{line}; {then} reads it" if then else line)
