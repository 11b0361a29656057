"""The arithmetic of a training: precision, kernels, threads and device, and what to warn of where a
resumed run has others than it began with."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import torch

from lmbench.config import TrainConfig
from lmbench.distiller import CompressionScheduler
from lmbench.jobs.job import Job
from lmbench.training import cpu_info, native
from lmbench.training.lstm import onednn_lacks_bf16
from lmbench.training.precision import Precision, choose_precision
from lmbench.training.ranks import ALONE, Ranks

__all__ = ["begun_on", "choose_kernels", "of_another_machine", "run_precision", "without_samples"]

_SLOW_BF16 = (
    "--precision bf16: this processor has no products of bf16, so that a step takes many times as "
    "long as in fp32"
)


def run_precision(
    job: Job,
    config: TrainConfig,
    scheduler: CompressionScheduler | None,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> tuple[Precision, str | None]:
    """The arithmetic of the products, and what is to be warned of; ``exact`` is fp32 in another
    order of operations.

    In a prepared worker, since ``auto`` measures what the run will have, and after
    `choose_kernels`.
    """
    only_fp32 = _only_in_fp32(scheduler)
    if only_fp32 is not None:
        warning = f"--precision bf16: {only_fp32}, so this run computes in fp32"
        return "fp32", warning if config.precision == "bf16" else None
    precision = config.precision
    if precision == "exact" or (precision == "auto" and _draws_in_fp32_alone(config)):
        precision = "fp32"
    # What `auto` measures may be another thing on each rank.
    found = ranks.agree(lambda: _known_precision(job) or choose_precision(precision, device))
    if found != "bf16":
        return "fp32", None
    slow = device.type == "cpu" and onednn_lacks_bf16()
    return "bf16", _SLOW_BF16 if slow else None


def _only_in_fp32(scheduler: CompressionScheduler | None) -> str | None:
    """Why this run's step has no bf16, or None where it has."""
    quantizer = scheduler.quantizer if scheduler is not None else None
    if quantizer is not None and not quantizer.exact_in_bf16:
        # bf16 would round the quantized values again, off the grid that is trained for.
        return "a training-time quantizer rounds by itself"
    return None


def _known_precision(job: Job) -> Precision | None:
    """The arithmetic that a resumed run began in: it goes on in that, wherever it is now."""
    known = job.record.results.get("precision") if job.resuming else None
    return known if known in ("fp32", "bf16") else None


def choose_kernels(job: Job, config: TrainConfig, device: torch.device) -> tuple[str, str | None]:
    """Which `native.Kernels` the run uses, which round differently, and a warning.

    A resumed run continues with those that it began with, or warns that it cannot.
    """
    begun = job.resuming and job.run.checkpoint("last") is not None
    known = job.record.results.get("kernels", "torch") if begun else native.best()
    if config.precision == "exact":
        # Torch's own operations, when it is validated and scored, too.
        known = "torch"
    if known not in ("amx", "avx512", "avx2") or device.type != "cpu":
        native.allow("torch")
        return known if begun else "torch", None
    missing = native.enable_kernels(known)
    if missing is None:
        return known, None
    if begun:
        return known, (
            f"the run began with the compiled kernels, which cannot be had here now ({missing}): "
            "it goes on with torch's, which round differently"
        )
    print(f"training with torch's kernels and none for {known.upper()}: {missing}", flush=True)
    return "torch", None


def begun_on(job: Job, device: torch.device) -> dict[str, Any]:
    """The device, arithmetic and threads of the run's first attempt, as they stand in its results.

    Args:
        device: that of this attempt.
    """
    before = job.record.device if job.resuming else ""
    known = job.record.results if before else {}
    return {
        "began_on": known.get("began_on") or before or str(device),
        "arithmetic": known.get("arithmetic") or _arithmetic(device),
        "threads": known.get("threads") or torch.get_num_threads(),
    }


def of_another_machine(begun: Mapping[str, Any], device: torch.device) -> str | None:
    """What a run is to be warned of where it goes on with another device, arithmetic or other
    threads than it has `begun_on`, which sum in another order."""
    if begun["began_on"].partition(":")[0] != device.type:
        before = begun["began_on"]
        return f"the run began on {before} and goes on on {device}, which rounds differently"
    if begun["arithmetic"] != (now := _arithmetic(device)):
        return (
            f"the run began with {begun['arithmetic']} and goes on with {now}, whose products may "
            "round differently"
        )
    threads = torch.get_num_threads()
    if device.type != "cpu" or begun["threads"] == threads:
        return None
    return (
        f"the run began with --threads {begun['threads']} and goes on with {threads}, which sum in "
        "another order"
    )


def _arithmetic(device: torch.device) -> str:
    """What chooses how a product is computed: torch, and whose instructions it finds."""
    if device.type == "cuda":
        kind = torch.cuda.get_device_name(device)
    elif device.type == "cpu":
        found = cpu_info.described()
        of_bf16 = {"avx512_bf16", "amx_bf16"} & set(found.get("flags", "").split())
        vendor = found.get("vendor_id") or platform.machine()
        kind = " ".join((vendor, torch.backends.cpu.get_cpu_capability(), *sorted(of_bf16)))
    else:
        kind = device.type
    return f"torch {torch.__version__} on {kind}"


def without_samples(config: TrainConfig, precision: Precision) -> str | None:
    """What to warn of where a sampled gradient is asked for and cannot be had, once
    `choose_kernels` has chosen."""
    if not config.gradient_samples or _draws(config, precision):
        return None
    return (
        f"--gradient-samples {config.gradient_samples}: only the compiled kernels for AVX2 and "
        "AVX-512 draw words, in fp32 and with products of it in bf16, with no teacher or one at "
        "temperature 1; the gradient is that of all"
    )


def _draws(config: TrainConfig, precision: Precision) -> bool:
    softened = config.teacher is not None and config.distill_temp != 1.0
    return config.gradient_samples > 0 and not softened and native.draws_words(precision)


def _draws_in_fp32_alone(config: TrainConfig) -> bool:
    return _draws(config, "fp32") and not _draws(config, "bf16")
