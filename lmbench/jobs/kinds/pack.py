"""A packing run: one small file of the parent's model, scored as it will run."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmbench.config import PackConfig
from lmbench.corpus import Corpus
from lmbench.corpus.batches import batchify
from lmbench.deploy.load_model import PACKED_NAME, LoadedModel, load_packed, load_run
from lmbench.deploy.packed_file.dequantize import dequantized, weight_places
from lmbench.deploy.packed_file.metadata import About, PackedInfo, TensorInfo
from lmbench.deploy.packed_file.stored_tensor import ValueType
from lmbench.deploy.packed_file.trained_grid import trained_grids
from lmbench.deploy.packed_file.writing import rewrite_about, write_packed
from lmbench.deploy.runtimes.interface import Score
from lmbench.deploy.runtimes.table import Runtime, as_is_runtime, build_runtime
from lmbench.distiller import thin
from lmbench.distiller.quantization.trained_codes import CODE_BUFFERS
from lmbench.errors import LmbenchError
from lmbench.jobs.job import Job
from lmbench.jobs.kinds.common import StoppedError, progress_callback, score_event
from lmbench.jobs.prepare import refuse_packed
from lmbench.jobs.scoring_text import corpus_of
from lmbench.printable import finite
from lmbench.session import Run, RunRecord
from lmbench.training.checkpoint import read_trained
from lmbench.training.process_setup import prepare_worker

__all__ = ["work"]

_BATCH, _BPTT = 10, 35


def work(job: Job) -> None:
    """Pack the parent's checkpoint, run the file, and write its scores into it."""
    config = job.config
    assert isinstance(config, PackConfig)
    if job.record.parent is None:
        raise LmbenchError("pack needs the run whose model it packs")
    prepare_worker(threads=config.threads, device="cpu")
    parent = job.home.find_run(job.record.parent, job.session.name)
    refuse_packed(parent)
    loaded = load_run(parent, config.checkpoint)
    trained = read_trained(loaded.path) if loaded.plain else {}
    if config.thin:
        loaded = _thinned(job, loaded, trained, config.weights)
    path = job.run.path / PACKED_NAME
    info = _pack(job, loaded, trained, path, config, _about(parent, config))
    print(_tensor_sizes(info), flush=True)
    record = parent.read()
    # Rounding may have untied two matrices.
    job.update(corpus=record.corpus, shape=dict(load_packed(path).shape), device="cpu")
    weights, biases, nonzero = _counts(info)
    job.add_results(
        path=str(path),
        bytes=info.bytes,
        fp32_bytes=info.fp32,
        ratio=info.ratio,
        vocabulary_bytes=info.vocabulary,
        parameters=weights,
        biases=biases,
        nonzero=nonzero,
        sparsity=1.0 - nonzero / weights,
        tensors=[_tensor_row(tensor) for tensor in info.tensors],
    )
    try:
        corpus = corpus_of(record.corpus, job.home.path, parent.ref)
    except LmbenchError as error:
        job.warn(f"packed, but not scored: {error.message}")
    else:
        # The scores are in the file, too.
        info = dataclasses.replace(info, bytes=_score(job, corpus, record))
        job.add_results(bytes=info.bytes, ratio=info.ratio)
    print(
        f"{'whole file':<24} {'':>5} {'':<8} {info.bytes:>12,} bytes, {info.ratio:5.1f}x "
        f"smaller, {info.vocabulary:,} of them words",
        flush=True,
    )


def _thinned(job: Job, loaded: LoadedModel, trained: dict[str, Tensor], wanted: str) -> LoadedModel:
    """The model without the hidden units that nothing reads; a quantized one as it is.

    The integers of a quantized run lie on scales of its own rows and groups of columns, which a
    smaller matrix would not keep; so do codes in groups, unless another value type is `wanted`. Of
    codes of whole rows `trained` keeps the scales of the rows that stay.
    """
    whole = loaded.recurrent if loaded.plain else dequantized(loaded.model, loaded.shape).model
    kept_rows: dict[str, Tensor] = {}
    small = thin(whole, kept_rows=kept_rows)
    if small.nhid == whole.nhid:
        return loaded
    grouped = any(
        name.endswith(CODE_BUFFERS[1]) and steps.shape[-1] > 1 for name, steps in trained.items()
    )
    if not loaded.plain or (grouped and wanted == "auto"):
        what, which = "quantized", "the run that it was made from"
        if grouped:
            what, which = "trained in codes of a few columns each", "it"
        job.warn(
            f"{whole.nhid - small.nhid} hidden units that nothing reads stay, since {loaded.title} "
            f"is {what}: pack {which} with --weights int8 to leave them out"
        )
        return loaded
    if grouped:
        for name in [name for name in trained if name.endswith(CODE_BUFFERS)]:
            del trained[name]
    model = loaded.recurrent
    places = weight_places(model.nlayers, model.projection is not None)
    for name, rows in kept_rows.items():
        for buffer in CODE_BUFFERS[:2]:
            if (held := trained.get(key := f"{places[name]}.{buffer}")) is not None:
                trained[key] = held.index_select(-2, rows)
    before, after = (sum(p.numel() for p in one.parameters()) for one in (model, small))
    print(
        f"left out {model.nhid - small.nhid:,} of {model.nhid:,} hidden units of each layer, which "
        f"nothing reads: {before - after:,} of {before:,} parameters",
        flush=True,
    )
    job.add_results(units_left_out=model.nhid - small.nhid, parameters_left_out=before - after)
    shape = {**loaded.shape, "nhid": small.nhid, "emsize": small.ninp}
    return LoadedModel(small, loaded.vocabulary, shape, loaded.title, loaded.path)


def _pack(
    job: Job,
    loaded: LoadedModel,
    trained: dict[str, Tensor],
    path: Path,
    config: PackConfig,
    about: About,
) -> PackedInfo:
    """Pack a plain model as it is, a quantized one on the grid that it was put on."""
    taken = None if loaded.plain else dequantized(loaded.model, loaded.shape)
    found = taken or trained_grids(loaded.recurrent, trained)
    _warn_of_rounding(job, "quantized" if taken else "trained", found.values, config.weights)
    if taken and taken.renewed and config.weights != "fp32":
        job.warn(
            f"{', '.join(taken.renewed)}: not on a symmetric grid of the file's own, rounded anew "
            "to 8 bits, or to 4 where they had no more"
        )
    info = write_packed(
        taken.model if taken else loaded.recurrent,
        loaded.vocabulary,
        path,
        config,
        about=about,
        grids=found.grids,
        groups=found.groups,
        auto=found.values,
        exact=taken is None,
        staging=job.run.staging,
    )
    if taken and config.weights in ("auto", "int4") and (joined := taken.joined(info)):
        job.warn(
            f"{', '.join(joined)}: stored sparse in int8, which has one scale a row and not one a "
            "group, so rounded anew; --sparse never keeps the groups"
        )
    return info


def _warn_of_rounding(job: Job, how: str, values: Mapping[str, ValueType], wanted: str) -> None:
    """Of weights on a grid that is not one of the value type that is asked for; floats hold all."""
    rounded = [
        name
        for name, kind in values.items()
        if kind not in ("fp32", "fp16") and wanted not in ("auto", "fp32", kind)
    ]
    if rounded:
        job.warn(
            f"{', '.join(rounded)}: {how} on another grid than --weights {wanted} has, rounded "
            "anew; --weights auto keeps it"
        )


def _about(parent: Run, config: PackConfig) -> About:
    """What the file says of itself; nothing of the machine it was made on."""
    record, lineage = parent.read(), [parent.ref]
    known = record.corpus
    while record.parent and record.parent not in lineage:
        # A parent may have been deleted since, or damaged; its name is still worth keeping.
        lineage.insert(0, record.parent)
        try:
            parent = parent.home.find_run(record.parent, parent.session.name)
            record = parent.read()
        except LmbenchError:
            break
    return About(
        title=lineage[-1],
        lineage=tuple(lineage),
        settings={"training": _shareable(record.config), "pack": config.model_dump(mode="json")},
        corpus={"name": known.name, "fingerprint": known.fingerprint} if known else {},
    )


# Settings that name files or machines.
_NAMING = ("data", "compress", "config", "stats", "teacher", "device")


def _shareable(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without those that name files or machines."""
    return {k: v for k, v in settings.items() if k not in _NAMING}


def _counts(info: PackedInfo) -> tuple[int, int, int]:
    """Weights, biases, and the weights that are not zero in the file."""
    matrices = [t for t in info.tensors if len(t.spec.shape) == 2]
    weights = sum(math.prod(t.spec.shape) for t in matrices)
    everything = sum(math.prod(t.spec.shape) for t in info.tensors)
    return weights, everything - weights, sum(t.nonzero for t in matrices)


def _tensor_sizes(info: PackedInfo) -> str:
    return "\n".join(
        f"{t.name:<24} {t.spec.values:>5} {t.spec.layout:<8} {t.stored:>12,} bytes, "
        f"{t.fp32 / max(1, t.stored):5.1f}x smaller than fp32"
        for t in info.tensors
    )


def _tensor_row(tensor: TensorInfo) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "shape": list(tensor.spec.shape),
        "layout": tensor.spec.layout,
        "values": tensor.spec.values,
        "bytes": tensor.stored,
        "nonzero": tensor.nonzero,
    }


def _score(job: Job, corpus: Corpus, parent: RunRecord) -> int:
    """Score valid and test with the file's own runtime; gives the file's size with the scores."""
    packed = load_packed(job.run.path / PACKED_NAME)
    name = as_is_runtime(packed)
    runtime = build_runtime(name, packed)
    results: dict[str, Any] = {"runtime": name}
    for split in ("valid", "test"):
        try:
            score, rate = _score_split(job, runtime, corpus, split)
        except StoppedError:
            break
        results |= {f"{split}_loss": score.loss, f"{split}_ppl": score.ppl, "tokens_per_s": rate}
    scores = finite({k: v for k, v in results.items() if k != "tokens_per_s"})
    size = rewrite_about(
        packed.path, lambda about: dataclasses.replace(about, scores=scores), job.run.staging
    )
    assert isinstance(job.config, PackConfig)
    same = job.config.checkpoint == parent.results.get("test_checkpoint", "best")
    before = parent.results.get("test_ppl")
    if same and before and not parent.part_tokens and "test_ppl" in results:
        results["test_ppl_of_parent"] = before
    if "test_loss" in results:
        results |= corpus.figures("test", results["test_loss"])
    job.add_results(**results)
    return size


def _score_split(job: Job, runtime: Runtime, corpus: Corpus, split: str) -> tuple[Score, float]:
    ids = corpus.split(split)
    data = batchify(ids, max(1, min(_BATCH, len(ids) // 2)), torch.device("cpu"))
    began = time.perf_counter()
    score = runtime.evaluate(data, _BPTT, progress_callback(job, f"scoring {split}"))
    rate = score.tokens / (time.perf_counter() - began)
    job.emit(score_event(split, score, rate, runtime.name))
    print(f"{split} ppl {score.ppl:.2f} in {runtime.name}, {rate:,.0f} tokens/s", flush=True)
    return score, rate
