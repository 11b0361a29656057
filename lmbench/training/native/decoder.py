"""Calling decoder.cpp and decoder_avx2.cpp: a decoder's loss and gradients."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from lmbench.compile_kernels import Unit
from lmbench.training.native.process import TERMS, Kernels, allowed, openmp, usable
from lmbench.training.precision import Precision

__all__ = ["UNITS", "Kernel", "draws_words", "kernel", "prepared"]

_AVX2 = Unit(Path(__file__).with_name("decoder_avx2.cpp"), without=(("-DLMBENCH_NO_BF16",),))
UNITS: dict[Kernels, Unit] = {
    "amx": Unit(Path(__file__).with_name("decoder.cpp")),
    "avx512": _AVX2,
    "avx2": _AVX2,
}

Buffers = Callable[[str, int], Tensor]
"""Memory by name: a uint8 tensor of at least so many bytes, whatever is in it."""

# Below this the tiles would be mostly empty, and threads cost more than they do.
_LEAST_ROWS, _LEAST_WORDS = 32, 512


class _Decoder(ctypes.Structure):
    _fields_ = (
        ("rows", ctypes.c_int64),
        ("words", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("terms", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("hidden", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("targets", ctypes.c_void_p),
        ("grad_hidden", ctypes.c_void_p),
        ("grad_weight", ctypes.c_void_p),
        ("grad_bias", ctypes.c_void_p),
        ("scale", ctypes.c_float),
        ("accumulate", ctypes.c_int32),
        ("exponentials", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        ("teacher", ctypes.c_void_p),
        ("share", ctypes.c_float),
        ("samples", ctypes.c_float),
        ("offsets", ctypes.c_void_p),
        ("parallel", ctypes.c_void_p),
        ("nll", ctypes.c_double),
    )


class Kernel:
    """The loss of a linear decoder, as `lmbench.training.loss` has it.

    On AMX in fp32 each number is multiplied as three of bf16 that add up to all of its 24 bits; the
    error of the loss and the gradients is that of an fp32 product (1e-7 to 1e-6 of their norm). In
    bf16 the operands of the products are rounded, those that are gradients of the logits among
    them; sums and exponentials are fp32. On AVX2 bf16 takes AVX-512's products, and rounds the
    operands of the first pass alone: it is for samples, since of all words torch's are faster.

    Attributes:
        precisions: those that it computes in.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self.precisions = [p for p, terms in TERMS.items() if library.lmb_decoder_fits(terms)]
        library.lmb_decoder_held.restype = ctypes.c_int64
        library.lmb_decoder_scratch.restype = ctypes.c_int64

    def fits(self, hidden: Tensor, weight: Tensor, bias: Tensor, precision: Precision) -> bool:
        """Are these operands that it takes, and enough of them to be worth it?"""
        return (
            precision in self.precisions
            and weight.dtype == bias.dtype == torch.float32
            and hidden.dtype in (torch.float32, torch.bfloat16)
            and all(t.device.type == "cpu" for t in (hidden, weight, bias))
            and bias.shape == weight.shape[:1]
            and hidden.shape[1:] == weight.shape[1:]
            and len(hidden) >= _LEAST_ROWS
            and len(weight) >= _LEAST_WORDS
        )

    def gradients(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        into: tuple[Tensor, Tensor, Tensor],
        buffers: Buffers,
        *,
        precision: Precision,
        rows: int,
        add: bool = False,
        teacher: tuple[Tensor, Tensor, Tensor] | None = None,
        share: float = 0.0,
        samples: int = 0,
    ) -> float | None:
        """The summed negative log-likelihood, and the gradients of its share of the mean.

        Args:
            hidden: [N, H]; weight: [V, H]; bias: [V]; targets: [N].
            into: takes the gradients of the first three, contiguous fp32.
            rows: of the whole window, whose mean the gradients are of.
            add: add to the gradients of weight and bias instead of setting them.
            teacher: its hidden rows [N, H'], weight [V, H'] and bias [V]: the gradients are then of
                ``(1 - share)`` times the mean plus `share` times the divergence from its
                predictions. The likelihood is not blended.
            samples: words a row that the gradients are of, drawn from torch's generator, where
                `draws_words`; 0 is all of them.

        Returns:
            None where a logit overflowed or was not a number: the gradients are not there then.
        """
        task, operands = self._task(hidden, weight, bias, targets, precision)
        task.grad_hidden, task.grad_weight, task.grad_bias = (t.data_ptr() for t in into)
        task.scale, task.accumulate = 1.0 / rows, add
        held = self._hold(task, buffers, "exponentials")
        if samples:
            operands = (*operands, offsets := torch.rand(len(hidden)))
            task.samples, task.offsets = samples, offsets.data_ptr()
        if teacher is None:
            return self._run(task, operands, buffers)
        taught, theirs = self._task(*teacher, targets, precision)
        memory = (
            self._hold(taught, buffers, "teacher's exponentials"),
            self._scratch(taught, buffers, "teacher's scratch"),
        )
        task.teacher, task.share = ctypes.addressof(taught), share
        return self._run(task, (*operands, *theirs, held, *memory), buffers)

    def nll(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        buffers: Buffers,
        *,
        precision: Precision,
    ) -> float | None:
        """The summed negative log-likelihood alone; no logits are held."""
        task, operands = self._task(hidden, weight, bias, targets, precision)
        return self._run(task, operands, buffers)

    def _task(
        self, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, precision: Precision
    ) -> tuple[_Decoder, tuple[Tensor, ...]]:
        # The kernel trusts what it is given.
        if targets.dtype != torch.int64 or targets.device.type != "cpu":
            raise TypeError(
                f"targets must be int64 on the CPU, not {targets.dtype} on {targets.device}"
            )
        if targets.shape != (len(hidden),):
            raise ValueError(f"one target a row: {list(targets.shape)} for {len(hidden)} rows")
        if not 0 <= int(targets.min()) <= int(targets.max()) < len(weight):
            raise IndexError(f"targets must be in [0, {len(weight)})")
        operands = tuple(t.detach().contiguous() for t in (hidden, weight, bias, targets))
        task = _Decoder(
            len(hidden), *weight.shape, TERMS[precision], torch.get_num_threads()
        )  # fmt: skip
        task.parallel = openmp()
        task.hidden, task.weight, task.bias, task.targets = (t.data_ptr() for t in operands)
        return task, operands

    def _run(self, task: _Decoder, operands: tuple[Tensor, ...], buffers: Buffers) -> float | None:
        """`operands` are only to be alive while it runs."""
        _scratch = self._scratch(task, buffers, "scratch")
        return task.nll if self._library.lmb_decoder(ctypes.byref(task)) else None

    def _hold(self, task: _Decoder, buffers: Buffers, name: str) -> Tensor:
        held = buffers(name, self._library.lmb_decoder_held(ctypes.byref(task)))
        task.exponentials = held.data_ptr()
        return held

    def _scratch(self, task: _Decoder, buffers: Buffers, name: str) -> Tensor:
        scratch = buffers(name, self._library.lmb_decoder_scratch(ctypes.byref(task)))
        task.scratch = scratch.data_ptr()
        return scratch


def kernel() -> Kernel | None:
    """The kernel, compiled if it has to be; None where it is not allowed or cannot be had."""
    kernels = allowed()
    return usable(UNITS[kernels], prepared, kernels) if kernels in UNITS else None


def draws_words(precision: Precision) -> bool:
    """Can its gradients be of sampled words in this precision?"""
    found = kernel()
    return found is not None and precision in found.precisions and UNITS[allowed()] is _AVX2


@cache
def prepared(library: ctypes.CDLL) -> Kernel | None:
    """The library's kernel; None where the system does not let it use its instructions."""
    found = Kernel(library)
    return found if found.precisions else None
