"""Generation and scoring in each runtime, and the sizes of packed files.

A model is taken dense, pruned by magnitude to 80% (each matrix alone, no retraining), and pruned
so in blocks of 16x4 and 8x8, packed, and run by every runtime that can, in interleaved rounds,
against torch's own nn.LSTM and against the fastest dense fp32 runtime. Without --model its weights
are random: sizes and speeds are those of a trained model, perplexities are left out.

On a GPU the dense model is run by the runtimes that a GPU has, against each other.

    python benchmarks/inference.py --nhid 650
    python benchmarks/inference.py --nhid 650 --device cuda
    python benchmarks/inference.py --model model.safetensors --data data/wikitext-2
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmbench.config import GenerateConfig, PackConfig, validate
from lmbench.corpus import open_corpus
from lmbench.deploy.benchmark import Entrant, benchmark, entrants
from lmbench.deploy.load_model import LoadedModel, load_file, load_packed
from lmbench.deploy.native import why_unavailable
from lmbench.deploy.packed_file.metadata import PackedInfo
from lmbench.deploy.packed_file.writing import write_packed
from lmbench.deploy.runtimes.table import RUNTIMES
from lmbench.errors import LmbenchError
from lmbench.model.device import choose_device
from lmbench.model.rnn import RNNModel
from lmbench.report.compare import runtime_table
from lmbench.training.precision import machine_key
from lmbench.training.process_setup import prepare_worker

SPARSITY, NTOKEN, LAYERS, SEED = 0.8, 33_278, 2, 1111
BASELINES = ("naive", "torch", "onnx")
# Which runtimes are worth a turn on which form of the model; the baselines run on the dense one.
FORMS: Mapping[str, tuple[str, ...]] = {
    "dense": (*BASELINES, "fp16", "bf16", "int8", "int4", "native-int8"),
    "int8": ("native-int8",),
    "int4": ("native-int4",),
    "80%": ("sparse-int8",),
    "80% in 16x4": ("block-int8",),
    "80% in 8x8": ("block-int8", "bsr"),
}
CUDA_FORMS: Mapping[str, tuple[str, ...]] = {"dense": ("naive", "torch", "cuda")}


def dense_model(args: argparse.Namespace) -> tuple[RNNModel, list[str] | None, str]:
    """The model, its words where they are known, and what to say of its weights."""
    if args.model:
        loaded = load_file(args.model)
        assert isinstance(loaded.model, RNNModel)
        return loaded.model, loaded.vocabulary or None, f"weights of {args.model.name}"
    torch.manual_seed(SEED)
    model = RNNModel("LSTM", NTOKEN, args.nhid, args.nhid, LAYERS, 0.0, tie_weights=True)
    model.eval().requires_grad_(False)
    for parameter in model.parameters():
        # Trained weights are bell-shaped; the uniform ones of the start would, once pruned, leave
        # a narrow band of values that compresses better than is true.
        parameter.normal_(std=0.1)
    return model, None, "random weights"


@torch.no_grad()
def pruned(model: RNNModel, block: tuple[int, int] = (1, 1)) -> RNNModel:
    """A copy with the given share of each matrix's blocks at zero, those of least L1 norm."""
    copied = copy.deepcopy(model)
    for parameter in copied.parameters():
        if parameter.dim() == 2:
            parameter.mul_(_mask(parameter, block))
    return copied


def _mask(weight: Tensor, block: tuple[int, int]) -> Tensor:
    (rows, columns), (height, width) = weight.shape, block
    padded = nn.functional.pad(weight.abs(), (0, -columns % width, 0, -rows % height))
    cells = padded.view(padded.shape[0] // height, height, padded.shape[1] // width, width)
    norms = cells.sum(dim=(1, 3))
    keep = (norms > norms.flatten().kthvalue(int(SPARSITY * norms.numel())).values).float()
    return keep.repeat_interleave(height, 0).repeat_interleave(width, 1)[:rows, :columns]


def packed_forms(
    model: RNNModel, words: list[str], folder: Path
) -> tuple[dict[str, Path], list[dict[str, Any]]]:
    """Pack every form; the files to run, and the size of each with and without zstd."""
    sparse = pruned(model)
    forms: dict[str, tuple[RNNModel, PackConfig]] = {
        "int8": (model, PackConfig(weights="int8")),
        "int4": (model, PackConfig(weights="int4")),
        "80% fp32": (sparse, PackConfig(weights="fp32")),
        "80%": (sparse, PackConfig(weights="int8")),
        "80% in 16x4": (pruned(model, (16, 4)), PackConfig(weights="int8")),
        "80% in 8x8": (pruned(model, (8, 8)), PackConfig(weights="int8")),
    }
    paths, sizes = {}, []
    base = 4 * sum(parameter.numel() for parameter in model.parameters())
    for name, (form, config) in forms.items():
        path = folder / f"{name.replace(' ', '-').replace('%', '')}.lmpack"
        plain = write_packed(form, words, path, config)
        compressed = config.model_copy(update={"zstd": True})
        squeezed = write_packed(form, words, folder / "squeezed.lmpack", compressed)
        paths[name] = path
        sizes.append(_size(name, base, plain, squeezed))
    return paths, sizes


def _size(name: str, base: int, plain: PackedInfo, squeezed: PackedInfo) -> dict[str, Any]:
    return {
        "form": name,
        "fp32": base,
        "bytes": plain.bytes,
        "ratio": base / plain.bytes,
        "zstd_bytes": squeezed.bytes,
        "zstd_ratio": base / squeezed.bytes,
        "vocabulary": plain.vocabulary,
        "nonzero": sum(tensor.nonzero for tensor in plain.tensors),
    }


def contestants(
    dense: LoadedModel, paths: Mapping[str, Path], only: list[str] | None
) -> tuple[list[Entrant], list[str]]:
    """Each form in its runtimes, and the runtimes that are missing here, with the reason."""
    found: list[Entrant] = []
    missing: list[str] = []
    forms = CUDA_FORMS if dense.device.type == "cuda" else FORMS
    for form, names in forms.items():
        loaded = dense if form == "dense" else load_packed(paths[form])
        if form != "dense":
            object.__setattr__(loaded, "title", form)
        for name in names:
            if only and name not in (*only, "naive", "torch"):
                continue
            reason = RUNTIMES[name].refusal(loaded)
            if reason:
                missing.append(f"{name} on {form}: {reason}")
                continue
            found += [e for e in entrants([loaded], [name]) if e.runtime.name == name]
    return found, missing


def against_dense(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ratios of every row to the dense model's baselines."""
    dense = {row["runtime"]: row for row in rows if row["model"] == "dense"}
    fp32 = [dense[name] for name in ("torch", "onnx") if name in dense]
    quickest = min(row["ms"] for row in fp32)
    fullest = max(row["tokens_per_s"] for row in fp32)
    return [
        {
            **row,
            "step_vs_naive": dense["naive"]["ms"] / row["ms"],
            "step_vs_fp32": quickest / row["ms"],
            "score_vs_naive": row["tokens_per_s"] / dense["naive"]["tokens_per_s"],
            "score_vs_fp32": row["tokens_per_s"] / fullest,
        }
        for row in rows
    ]


def main() -> int:
    args = _arguments()
    try:
        device = choose_device(validate(GenerateConfig, {"device": args.device}))
    except LmbenchError as error:
        print(error, file=sys.stderr)
        return 2
    prepare_worker(threads=args.threads, device=str(device))
    model, words, about = dense_model(args)
    corpus = open_corpus(args.data, Path.cwd(), may_fetch=False) if args.data else None
    split_tokens = None
    if corpus is not None and len(corpus.vocabulary) == model.ntoken:
        test = np.asarray(corpus.split("test"))
        words, text = corpus.vocabulary, test[: args.tokens]
        split_tokens = len(test) if args.model else None
    else:
        text = np.random.default_rng(SEED).integers(0, model.ntoken, args.tokens)
    words = words or _stand_in_words(model.ntoken)
    shape = {"model": model.rnn_type, "emsize": model.ninp, "nhid": model.nhid}
    shape |= {"nlayers": model.nlayers, "tied": model.tied, "ntoken": model.ntoken}
    with tempfile.TemporaryDirectory() as scratch:
        gpu = device.type == "cuda"
        # Files are as large and compressed runtimes as fast with a GPU as without one.
        paths, sizes = ({}, []) if gpu else packed_forms(model, words, Path(scratch))
        path = Path(scratch) / "dense.lmpack"
        write_packed(model, words, path)
        model.to(device)
        dense = LoadedModel(model, words, {**shape, "dropout": 0.0}, "dense", path)
        found, missing = contestants(dense, paths, args.runtimes)
        measured = benchmark(
            found, text, words=args.words, rounds=args.rounds, split_tokens=split_tokens
        )
    rows = against_dense([asdict(row) for row in measured])
    source = corpus.name if split_tokens and corpus else "random ids"
    document = {
        "machine": machine_key(device),
        "device": str(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "kernels": why_unavailable() or "compiled",
        "model": {**shape, "weights": about},
        "text": f"{len(text):,} words of {source}",
        "words_a_round": args.words,
        "rounds": args.rounds,
        "sizes": sizes,
        "rows": rows,
        "missing": missing,
    }
    print(json.dumps(document, indent=2) if args.json else _report(document))
    return 0


def _stand_in_words(count: int) -> list[str]:
    """Words as long as WikiText-2's types, of random letters, which compress worse than English."""
    letters = np.random.default_rng(SEED).integers(97, 123, (count, 7), dtype=np.uint8)
    return [row.tobytes().decode() for row in letters]


def _report(document: Mapping[str, Any]) -> str:
    model = document["model"]
    lines = [
        f"{document['machine']}; torch {document['torch']}, {document['threads']} threads for "
        f"scoring, one for stepping; kernels: {document['kernels']}",
        f"{model['model']} {model['nlayers']}x{model['nhid']} over {model['ntoken']:,} words, "
        f"{model['weights']}; {document['text']}; {document['rounds']} rounds of "
        f"{document['words_a_round']} words",
        "",
        runtime_table(document["rows"]).text(),
    ]
    if document["sizes"]:
        base = document["sizes"][0]["fp32"] / 1e6
        about = f"packed sizes, vocabulary included, against fp32 weights of {base:.1f} MB"
        lines += ["", about]
    for size in document["sizes"]:
        lines.append(
            f"  {size['form']:<12} {size['bytes'] / 1e6:7.2f} MB {size['ratio']:5.1f}x   zstd "
            f"{size['zstd_bytes'] / 1e6:7.2f} MB {size['zstd_ratio']:5.1f}x"
        )
    lines += [f"  not here: {line}" for line in document["missing"]]
    if not torch.cuda.is_available():
        lines.append("no CUDA device here; with one, add --device cuda")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="few words and rounds, under a minute")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--model", type=Path, metavar="FILE", help="a .safetensors file")
    parser.add_argument("--data", metavar="DIR", help="the corpus that is stepped and scored")
    parser.add_argument("--nhid", type=int, default=650, choices=(200, 650, 1500))
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default cpu)")
    parser.add_argument("--runtimes", nargs="*", help="only these, and the baselines")
    parser.add_argument("--words", type=int, help="stepped in each round (default 100; 20)")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default 7; 2)")
    parser.add_argument("--tokens", type=int, help="scored in the first round (default 7,000; 370)")
    parser.add_argument("--threads", type=int, default=0, help="for scoring; 0: one a core")
    args = parser.parse_args()
    for name, full, quick in (("words", 100, 20), ("rounds", 7, 2), ("tokens", 7_000, 370)):
        if getattr(args, name) is None:
            setattr(args, name, quick if args.quick else full)
    return args


if __name__ == "__main__":
    sys.exit(main())
