"""The decoder's product, softmax, cross-entropy and backward in one, with the logits kept once.

At the usual sizes (700 tokens a window, 33,278 words, width 200) the vocabulary is nine tenths of
a training step, and most of that is memory: a plain loop writes the logits, their logarithms, the
gradient of each, and maps fresh pages for all of them. Here one buffer holds the logits, then
their softmax, then their gradient, and the gradients of the hidden rows, the weight and the bias
are computed from it at once, while it is there.

Memory, for N tokens a window, V words, width H:

==========================  ============================  ===============================
                            fp32                          bf16
==========================  ============================  ===============================
logits, softmax, gradient   4 * R * V bytes               2 * R * V bytes
copy of weight and bias     none                          2 * V * (H + 1) bytes (off the CPU V
                                                          and H + 1 are rounded up to eights)
gradient of weight, bias    4 * V * (H + 1) bytes,        4 * V * (H + 1) bytes and, of the
                            and once more in passing      product, 2 * V * (H + 1) bytes
==========================  ============================  ===============================

Where the processor multiplies by tiles (AMX), or in fp32 where AVX2 is the widest that it has, or
on AVX-512 where words are sampled or no gradient is asked for, and a compiler is at hand,
`lmbench.training.native` does all of this in two passes over the words, and holds 4 * R * V bytes
of exponentials (in bf16 on AMX half as many) instead of logits, no copy of the weight and no
gradient twice. Each thread has for itself 4 * R * H bytes of the hidden rows' gradient and on AMX
512 * (2 * R + H) bytes of packed operands, three times as many in fp32: 3.1 MB at the sizes below,
and less on AVX2.

R is N, but at most ``ROWS_TIMES_WORDS / V`` rows are held at a time: the window goes through in
slices of that many. At N = 700, V = 33,278, H = 200 that is 93 MB for the logits in fp32 and
47 MB in bf16, where the plain loop's logits, log-softmax and two gradients take 373 MB. A teacher's
predictions take as much again, and at another temperature than 1 the student's softened ones too.

Accuracy: fp32 does the same operations as ``F.cross_entropy(F.linear(...))`` and agrees with it to
1e-6, on AVX2, too; on AMX each of its products is a sum of six in bf16 which is as exact, and it
agrees as well.
bf16 rounds the operands and results of the products and the softmax to 8 bits of mantissa (sums
are fp32; on AMX the results of the products are, too): measured at the default size, gradients
are off by 3e-3 of their norm (2e-3 on AMX) and the loss by 1e-4. The weights and their gradients
stay fp32.

Sampled gradients: the gradient of a row's logits is a distribution less its target (or a difference
of two, with a teacher). On AVX2 a sparse one may take its place that is the same on average (Wangni
et al. 2018, arXiv 1710.09854): words are drawn in proportion to the size of their part, by
systematic sampling (Madow and Madow 1944), and each stands for an equal share of the whole. The
loss stays exact, and of the products only the first is over all words: that one is in bf16 where
the step is, which takes AVX-512's products of it; exponentials and gradients are fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lmbench.model.device import widest
from lmbench.training import decoder_products, native
from lmbench.training.precision import Precision

__all__ = ["ROWS_TIMES_WORDS", "DecoderLoss", "DrawnWords", "Teacher", "add_rows", "sum_nll"]

# Logits held at a time: 1,008 rows of 33,278 words, 134 MB in fp32. A window of the default size
# goes through in one slice, which is fastest; a long or wide one is kept from filling the memory.
ROWS_TIMES_WORDS = 2**25

# Numbers of bf16 in the 16 bytes that tensor cores load at a time.
_EIGHTS = 8

# A probability below this may have lost digits to underflow (fp32 and bf16 end near 1e-38).
_UNDERFLOW = 1e-30


@dataclass(frozen=True)
class Teacher:
    """What another decoder predicts of a window, and how much of it is learned.

    With it the gradients are those of ``(1 - share) * CE + share * T**2 * KL(teacher || student)``,
    means over the rows of distributions softened by the temperature T (Hinton et al. 2015, arXiv
    1503.02531).

    Args:
        hidden: the rows that its decoder sees, [N, H']; weight: [V, H']; bias: [V].
        temperature: T, above 0.
        share: the teacher's weight, in [0, 1].
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor
    temperature: float
    share: float

    def probabilities(self, part: slice, dtype: torch.dtype) -> Tensor:
        """Of the rows of a slice [R, V], softened, computed in `dtype`."""
        given = (t.to(dtype) for t in (self.hidden[part], self.weight, self.bias))
        logits = F.linear(*given)
        if self.temperature != 1.0:
            logits /= self.temperature
        return torch.softmax(logits, 1, out=logits)


@dataclass(frozen=True)
class DrawnWords:
    """Words drawn from what a teacher predicts of a window, which stand for all that it predicts.

    The gradients are those of ``(1 - share) * CE + share * KL(teacher || student)`` on average over
    the draws (Anshumann et al. 2025, arXiv 2503.16870).

    Args:
        words: ids [N, count], as often as they were drawn.
        share: the teacher's weight, in [0, 1].
    """

    words: Tensor
    share: float

    def pull(
        self, gradients: tuple[Tensor, Tensor, Tensor], hidden: Tensor, weight: Tensor, to: Tensor
    ) -> None:
        """Gradients of the mean cross-entropy with the targets `to` [N] become the blend's."""
        rows, count = self.words.shape
        words = torch.cat((to[:, None], self.words), 1)
        parts = torch.full((rows, count + 1), -self.share / (rows * count), device=to.device)
        parts[:, 0] = self.share / rows
        of_hidden, of_weight, of_bias = gradients
        weight, hidden, parts = weight.detach(), hidden.detach().to(weight.dtype), parts.to(weight)
        of_hidden += F.embedding_bag(words, weight, mode="sum", per_sample_weights=parts)
        for part in _slices(rows, (count + 1) * hidden.shape[1]):
            added = (hidden[part, None] * parts[part, :, None]).flatten(0, 1)
            add_rows(of_weight, words[part].flatten(), added)
        add_rows(of_bias, words.flatten(), parts.flatten())


class DecoderLoss:
    """The mean cross-entropy of a linear decoder, differentiable, fused with its backward.

    Calling it costs forward and backward together; ``backward()`` then only hands the gradients
    over. Its buffers are kept from call to call, so a loss's gradient is there until the next
    call: backward through an older one raises.

    Args:
        precision: ``fp32``, or ``bf16`` for the products and the softmax (weights stay fp32).
        samples: 0, or how many words a row the gradients are of, where `native.draws_words`.
        into_grad: let the gradients of `weight` and `bias`, where those are leaves, become their
            ``.grad`` without a copy, instead of adding them to it. Saves three passes over the
            weight a step; ``.grad`` must be None by the next call (``zero_grad()`` does that). A
            weight with hooks, which would not see that, gets its gradient through autograd.

    Attributes:
        teacher, drawn: of the next window, one of them. The loss stays the cross-entropy; only its
            gradients are those of the blend.
    """

    def __init__(
        self, precision: Precision = "fp32", *, into_grad: bool = False, samples: int = 0
    ) -> None:
        self.into_grad = into_grad
        self.samples = samples
        self.precision: Precision = precision
        self.teacher: Teacher | None = None
        self.drawn: DrawnWords | None = None
        self._buffers: dict[str, Tensor] = {}
        # Held here too, so that autograd sees them in use and copies instead of making one of
        # them a parameter's `.grad`, which the next call would then overwrite.
        self._gradients: tuple[Tensor, Tensor, Tensor] | None = None
        self._calls = 0

    def __call__(self, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        """hidden [N, H], weight [V, H], bias [V], targets [N] (0 <= id < V) to the scalar loss.

        Nats a token. Every operand may need a gradient; `weight` may be the embedding's own, or
        masked: it is a tensor like any other.
        """
        if not torch.is_grad_enabled():
            total = sum_nll(hidden, weight, bias, targets, precision=self.precision)
            return (total / len(targets)).to(weight.dtype)
        if self.into_grad and any(_is_kept(p, self._gradients) for p in (weight, bias)):
            raise RuntimeError(
                "DecoderLoss(into_grad=True): the last gradient is still in .grad, which this call "
                "would overwrite: call zero_grad(set_to_none=True) first"
            )
        return _Fused.apply(hidden, weight, bias, targets, self)  # pyright: ignore[reportReturnType]

    def _buffer(self, name: str, *shape: int, like: Tensor, dtype: torch.dtype) -> Tensor:
        """Memory of at least this size, kept under `name`; its contents are whatever was there."""
        size = 1
        for n in shape:
            size *= n
        kept = self._buffers.get(name)
        if kept is None or kept.numel() < size or kept.dtype != dtype or kept.device != like.device:
            kept = self._buffers[name] = torch.empty(size, dtype=dtype, device=like.device)
        return kept[:size].view(shape)


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, owner: DecoderLoss
    ) -> Tensor:
        owner._calls += 1
        ctx.owner, ctx.call = owner, owner._calls
        ctx.leaves = [
            owner.into_grad and p.is_leaf and p.requires_grad and not p._backward_hooks
            for p in (weight, bias)
        ]
        ctx.parameters = (weight, bias)
        run = _forward_bf16 if owner.precision == "bf16" else _forward_fp32
        # Under autocast the products would be cast again.
        with torch.autocast(hidden.device.type, enabled=False):
            done = _forward_native(owner, hidden, weight, bias, targets)
            loss, gradients = done or run(owner, hidden, weight, bias, targets)
            if owner.drawn:
                owner.drawn.pull(gradients, hidden, weight, targets)
        owner._gradients = ctx.gradients = gradients
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None or ctx.owner._calls != ctx.call:
            raise RuntimeError(
                "DecoderLoss keeps the gradient of its latest call only, for one backward: "
                "call backward() before the next loss, or use a DecoderLoss for each"
            )
        # On CUDA asking whether the factor is 1 would wait for the device.
        if grad.device.type != "cpu" or grad.item() != 1.0:
            for gradient in gradients:
                gradient.mul_(grad)
        passed: list[Tensor | None] = list(gradients)
        for at, (parameter, direct) in enumerate(zip(ctx.parameters, ctx.leaves, strict=True), 1):
            if direct:
                passed[at] = _set_or_add(parameter, gradients[at])
        return (*passed, None, None)


def _set_or_add(parameter: Tensor, gradient: Tensor) -> None:
    """Make `gradient` the parameter's, or add it to what is there, so that autograd need not."""
    if parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad += gradient


def _is_kept(parameter: Tensor, gradients: tuple[Tensor, ...] | None) -> bool:
    if gradients is None or not parameter.is_leaf:
        return False
    return any(parameter.grad is gradient for gradient in gradients)


def _slices(rows: int, words: int) -> list[slice]:
    """The rows of a window, cut so that each slice's logits, or other numbers, fit the bound."""
    step = max(1, ROWS_TIMES_WORDS // words)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _softmax_and_nll(z: Tensor, targets: Tensor, again: Callable[[Tensor], Tensor]) -> Tensor:
    """Logits [R, V] become their softmax, in place; gives the sum of -log softmax[target].

    `again` computes the logits of the rows of a mask anew, [rows of it, V]. On CPU the loss is read
    off the target's own probability, and only where that has underflowed from the logits. On CUDA,
    where asking whether any has would wait for the device, the normaliser is read off the largest
    probability, which is at least 1/V; that takes two passes more, cheap there and dear here.
    """
    wide = torch.promote_types(z.dtype, torch.float32)
    index = targets.unsqueeze(1)
    if z.device.type == "cpu":
        torch.softmax(z, 1, out=z)
        at_target = z.gather(1, index).squeeze(1).to(wide)
        nll = -at_target.log()
        lost = at_target < _UNDERFLOW
        if lost.any():
            nll[lost] = F.cross_entropy(again(lost).to(wide), targets[lost], reduction="none")
    else:
        at_target = z.gather(1, index).squeeze(1).to(wide)
        largest = z.amax(1).to(wide)
        torch.softmax(z, 1, out=z)
        nll = largest - z.amax(1).to(wide).log() - at_target
    return nll.sum(dtype=widest(z.device))


def _forward_native(
    owner: DecoderLoss, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]] | None:
    """None where the compiled kernel is not there, does not take these, or meets an overflow."""
    kernel, teacher = _kernel_for(hidden, weight, bias, owner.precision), owner.teacher
    if kernel is None or (teacher and not _teaches(kernel, teacher, owner.precision)):
        return None
    rows, words = len(hidden), len(weight)
    samples = owner.samples if native.draws_words(owner.precision) else 0
    if not samples and native.allowed() == "avx512":
        return None
    flat = hidden.float()  # an autocast layer gives bf16
    grad_hidden = torch.empty(flat.shape)
    grad_weight = owner._buffer("weight", *weight.shape, like=weight, dtype=torch.float32)
    grad_bias = owner._buffer("bias", words, like=weight, dtype=torch.float32)
    nll = 0.0
    for at, part in enumerate(_slices(rows, words)):
        value = kernel.gradients(
            flat[part], weight, bias, targets[part],
            (grad_hidden[part], grad_weight, grad_bias),
            lambda name, size: owner._buffer(name, size, like=weight, dtype=torch.uint8),
            precision=owner.precision, rows=rows, add=at > 0,
            teacher=teacher and (teacher.hidden[part].float(), teacher.weight, teacher.bias),
            share=teacher.share if teacher else 0.0, samples=samples,
        )  # fmt: skip
        if value is None:
            return None
        nll += value
    return weight.new_tensor(nll / rows), (grad_hidden.to(hidden.dtype), grad_weight, grad_bias)


def _kernel_for(
    hidden: Tensor, weight: Tensor, bias: Tensor, precision: Precision
) -> native.Kernel | None:
    if hidden.device.type != "cpu":
        return None
    kernel = native.kernel()
    return kernel if kernel is not None and kernel.fits(hidden, weight, bias, precision) else None


def _teaches(kernel: native.Kernel, teacher: Teacher, precision: Precision) -> bool:
    operands = (teacher.hidden, teacher.weight, teacher.bias)
    return teacher.temperature == 1.0 and kernel.fits(*operands, precision)


def _forward_fp32(
    owner: DecoderLoss, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    rows, words = len(hidden), len(weight)
    dtype = weight.dtype
    flat = hidden.to(dtype)
    grad_hidden = torch.empty_like(flat)
    grad_weight = owner._buffer("weight", *weight.shape, like=weight, dtype=dtype)
    grad_bias = owner._buffer("bias", words, like=weight, dtype=dtype)
    nll = torch.zeros((), dtype=widest(weight.device), device=weight.device)
    for at, part in enumerate(_slices(rows, words)):
        h, t = flat[part], targets[part]
        out = owner._buffer("logits", len(h), words, like=weight, dtype=dtype)
        z = decoder_products.logits(h, weight, bias, out)  # [R, V]
        softened = _softened(z, owner.teacher)
        nll += _softmax_and_nll(z, t, lambda rows, h=h: F.linear(h[rows], weight, bias))
        _grade(z, t, softened, owner.teacher, part)
        grad_hidden[part] = decoder_products.grad_hidden(z, weight)
        first = at == 0
        into_w = grad_weight if first else torch.empty_like(grad_weight)
        into_b = grad_bias if first else torch.empty_like(grad_bias)
        decoder_products.grad_weight_and_bias(z, h / rows, into_w, into_b)
        if not first:
            grad_weight += into_w
            grad_bias += into_b
    grad_hidden /= rows
    # The bias's column of ones is not divided with the hidden rows.
    grad_bias /= rows
    return (nll / rows).to(dtype), (grad_hidden.to(hidden.dtype), grad_weight, grad_bias)


def _forward_bf16(
    owner: DecoderLoss, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    rows, words, width = len(hidden), *weight.shape
    half = torch.bfloat16
    # The bias is the weight of one more input that is always 1: its addition and its gradient
    # come with the products.
    inputs = _aligned(width + 1, weight.device)
    outputs = _aligned(words, weight.device)
    w = owner._buffer("weight_bf16", outputs, inputs, like=weight, dtype=half)
    _with_bias(w, weight, bias)
    h_all = torch.ones(rows, inputs, dtype=half, device=hidden.device)
    h_all[:, :width] = hidden
    product = owner._buffer("product", outputs, inputs, like=weight, dtype=half)
    grad_hidden = torch.empty(rows, width, dtype=torch.float32, device=hidden.device)
    grad_weight = owner._buffer("weight", words, width, like=weight, dtype=torch.float32)
    grad_bias = owner._buffer("bias", words, like=weight, dtype=torch.float32)
    nll = torch.zeros((), dtype=widest(weight.device), device=weight.device)
    for at, part in enumerate(_slices(rows, words)):
        h, t = h_all[part], targets[part]
        z = owner._buffer("logits", len(h), outputs, like=weight, dtype=half)
        torch.mm(h, w.t(), out=z)  # [R, V], and the words of the padding
        softened = _softened(z, owner.teacher)
        nll += _softmax_and_nll(z, t, lambda rows, h=h: F.linear(h[rows], w))
        _grade(z, t, softened, owner.teacher, part)
        grad_hidden[part] = torch.mm(z, w)[:, :width]
        torch.mm(z.t(), h, out=product)  # [V, H + 1], padded
        if at == 0:
            grad_weight.copy_(product[:words, :width])
            grad_bias.copy_(product[:words, width])
        else:
            grad_weight += product[:words, :width]
            grad_bias += product[:words, width]
    for gradient in (grad_hidden, grad_weight, grad_bias):
        gradient /= rows
    return (nll / rows).float(), (
        grad_hidden.to(hidden.dtype),
        grad_weight.to(weight.dtype),
        grad_bias.to(bias.dtype),
    )


def _aligned(size: int, device: torch.device) -> int:
    """The length of a bf16 row that holds `size` numbers, as this device multiplies it fast.

    cuBLAS's kernels for tensor cores load 16 bytes at a time and want each row to begin at such
    a border, which neither H + 1 nor a vocabulary of 33,278 words leads to. The CPU's do not mind.
    """
    return size if device.type == "cpu" else -(-size // _EIGHTS) * _EIGHTS


def _with_bias(out: Tensor, weight: Tensor, bias: Tensor) -> None:
    """weight [V, H] and bias [V] side by side into `out` [V, H + 1], which may be larger.

    Columns beyond are zero, whatever they meet in a product. Rows beyond are words of which none
    is ever likely: with the lowest bias there is, finite so that nothing times it is NaN, their
    probability is exactly 0.
    """
    words, width = weight.shape
    out[:words, :width] = weight
    out[:words, width] = bias
    if out.size(1) > width + 1:
        out[:, width + 1 :] = 0
    if len(out) > words:
        out[words:, :width] = 0
        out[words:, width] = torch.finfo(out.dtype).min


def _softened(z: Tensor, teacher: Teacher | None) -> Tensor | None:
    """The softmax of logits [R, V] at the teacher's temperature; None for the softmax itself."""
    if teacher is None or teacher.temperature == 1.0:
        return None
    softened = z / teacher.temperature
    return torch.softmax(softened, 1, out=softened)


def _grade(
    p: Tensor, targets: Tensor, softened: Tensor | None, teacher: Teacher | None, part: slice
) -> None:
    """softmax [R, V] becomes the gradient of the summed loss by the logits, in place.

    Args:
        softened: of `_softened`; part: which rows of the teacher's they are.
    """
    share, factor = (teacher.share, teacher.temperature) if teacher else (0.0, 1.0)
    if softened is not None:
        p.mul_(1.0 - share).add_(softened, alpha=share * factor)
    # Indexing touches R numbers; scatter_ on CPU goes over all R * V.
    p[torch.arange(len(p), device=p.device), targets] -= 1.0 - share
    if teacher is not None:
        wanted = teacher.probabilities(part, p.dtype)
        p[:, : wanted.size(1)].sub_(wanted, alpha=share * factor)


def add_rows(into: Tensor, rows: Tensor, values: Tensor) -> None:
    """Add values to the rows [N] of `into` (V, …), in the same order on every run."""
    if into.device.type == "cuda":
        # index_add_ there adds in whatever order the threads come; this one sorts first.
        into.index_put_((rows,), values, accumulate=True)
    else:
        into.index_add_(0, rows, values)


@torch.no_grad()
def sum_nll(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    *,
    precision: Precision = "fp32",
) -> Tensor:
    """The summed negative log-likelihood in nats, a `widest` scalar on the operands' device.

    For evaluation: hidden [N, H], weight [V, H], bias [V], targets [N], in slices of at most
    ``ROWS_TIMES_WORDS`` logits, none of which outlive the call.
    """
    total = torch.zeros((), dtype=widest(hidden.device), device=hidden.device)
    kernel = _kernel_for(hidden, weight, bias, precision)
    for part in _slices(len(hidden), len(weight)):
        given = (hidden[part], weight, bias, targets[part])
        known = None
        if kernel is not None:
            known = kernel.nll(given[0].float(), *given[1:], _memory, precision=precision)
        total += _slice_nll(*given, precision) if known is None else known
    return total


def _memory(_name: str, size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8)


def _slice_nll(
    hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, precision: Precision
) -> Tensor:
    half = precision == "bf16"
    w, b = (weight.bfloat16(), bias.bfloat16()) if half else (weight, bias)
    h = hidden.to(w.dtype)
    z = F.linear(h, w, b) if half else decoder_products.logits(h, w, b, w.new_empty(len(h), len(w)))
    return _softmax_and_nll(z, targets, lambda rows: F.linear(h[rows], w, b))
