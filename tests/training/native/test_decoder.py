"""The decoder's loss by each kernel against double precision, and where none can be had."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmbench.compile_kernels import NativeUnavailableError, Unit
from lmbench.config import TrainConfig, validate
from lmbench.report.estimate import estimate
from lmbench.training import loss as loss_module
from lmbench.training import native
from lmbench.training.loss import DecoderLoss, Teacher, sum_nll
from lmbench.training.native import decoder, process
from lmbench.training.precision import Precision


@pytest.fixture(scope="module", params=["amx", "avx2"])
def kernel(request: pytest.FixtureRequest) -> Iterator[decoder.Kernel]:
    """Each that this processor has, in use."""
    before = process._allowed
    process.allow(request.param)
    found = native.kernel()
    if found is None:
        process._allowed = before
        pytest.skip(f"no {request.param} or no compiler here")
    yield found
    process._allowed = before


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def precision(request: pytest.FixtureRequest, kernel: decoder.Kernel) -> Precision:
    if request.param not in kernel.precisions:
        pytest.skip("not on this instruction set")
    return request.param


needs_kernel = pytest.mark.usefixtures("kernel")

AVX2 = process._NEEDED["avx2"]
AMX = {*AVX2, "avx512f", *process._NEEDED["amx"]}

Operands = tuple[Tensor, Tensor, Tensor, Tensor]

# Of a gradient's norm; see lmbench/training/loss.py.
ERRORS: dict[Precision, float] = {"fp32": 1e-6, "bf16": 3e-3}


def operands(rows: int = 45, words: int = 777, width: int = 24, spread: float = 0.3) -> Operands:
    generator = torch.Generator().manual_seed(rows + words + width)
    hidden = torch.randn(rows, width, generator=generator).tanh().requires_grad_()
    weight = (torch.randn(words, width, generator=generator) * spread).requires_grad_()
    bias = (torch.randn(words, generator=generator) * 0.1).requires_grad_()
    targets = torch.randint(words, (rows,), generator=generator)
    return hidden, weight, bias, targets


def reference(operands: Operands) -> tuple[float, tuple[Tensor, ...]]:
    """Loss and gradients in double precision."""
    *given, targets = operands
    h, w, b = (t.detach().double().requires_grad_() for t in given)
    loss = F.cross_entropy(F.linear(h, w, b), targets)
    return loss.item(), torch.autograd.grad(loss, (h, w, b))


def relative(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b).norm() / b.norm()).item()


def check(given: Operands, precision: Precision) -> None:
    wanted, gradients = reference(given)
    loss = DecoderLoss(precision)(*given)
    tolerance = 1e-6 if precision == "fp32" else 1e-3
    assert loss.item() == pytest.approx(wanted, rel=tolerance)
    for ours, theirs in zip(torch.autograd.grad(loss, given[:3]), gradients, strict=True):
        assert relative(ours, theirs) < ERRORS[precision]
    alone = sum_nll(*given, precision=precision).item() / len(given[3])
    assert alone == pytest.approx(loss.item(), rel=1e-6)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often the kernel was run."""
    calls: list[int] = []
    run = decoder.Kernel._run
    monkeypatch.setattr(decoder.Kernel, "_run", lambda *a: (calls.append(1), run(*a))[1])
    return lambda: len(calls)


@needs_kernel
@settings(max_examples=40)
@given(
    rows=st.integers(32, 140),
    words=st.integers(512, 1500),
    width=st.integers(1, 140),
    threads=st.integers(1, 3),
)
def test_loss_and_gradients_are_right_at_any_size(
    precision: Precision, rows: int, words: int, width: int, threads: int
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check(operands(rows, words, width), precision)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("rows, words, width", [(300, 777, 300), (1100, 600, 500)])
def test_long_contractions_are_summed_in_stretches(precision, rows, words, width):
    """Over more tiles than are taken at a time; and with too many hidden rows for the cache."""
    check(operands(rows, words, width, spread=0.1), precision)


def test_a_window_in_slices_gives_the_sum_of_them(monkeypatch, counted, precision):
    given = operands(150, 800, 40)
    monkeypatch.setattr(loss_module, "ROWS_TIMES_WORDS", 800 * 64)
    check(given, precision)
    assert counted() == 2 * 3


@pytest.mark.parametrize("width, share", [(40, 0.5), (7, 0.3), (90, 1.0), (40, 0.0)])
def test_with_a_teacher_the_gradients_are_those_of_the_blend(
    monkeypatch, counted, precision, width, share
):
    given = operands(150, 800, 40)
    taught, weight, bias, _ = (t.detach() for t in operands(150, 800, width, spread=0.5))
    monkeypatch.setattr(loss_module, "ROWS_TIMES_WORDS", 800 * 64)
    loss = DecoderLoss(precision)
    loss.teacher = Teacher(taught, weight, bias, 1.0, share)
    value = loss(*given)
    found = torch.autograd.grad(value, given[:3])
    h, w, b = (t.detach().double().requires_grad_() for t in given[:3])
    own = F.log_softmax(F.linear(h, w, b), 1)
    wanted = F.log_softmax(F.linear(taught.double(), weight.double(), bias.double()), 1)
    entropy = F.nll_loss(own, given[3])
    blend = (1 - share) * entropy + share * F.kl_div(
        own, wanted, reduction="batchmean", log_target=True
    )
    assert counted() == 3
    assert value.item() == pytest.approx(entropy.item(), rel=1e-6 if precision == "fp32" else 1e-3)
    for ours, theirs in zip(found, torch.autograd.grad(blend, (h, w, b)), strict=True):
        # Of a difference of two probabilities less is left than of one.
        assert relative(ours, theirs) < 2 * ERRORS[precision]


def sampled(
    given: Operands, samples: int, taught: Teacher | None, precision: Precision = "fp32"
) -> tuple[Tensor, ...]:
    loss = DecoderLoss(precision, samples=samples)
    loss.teacher = taught
    return torch.autograd.grad(loss(*given), given[:3])


@pytest.fixture
def avx2(kernel: decoder.Kernel) -> None:
    if process.allowed() != "avx2":
        pytest.skip("words are drawn by the kernels of AVX2 alone")


@pytest.mark.usefixtures("avx2")
@pytest.mark.parametrize("share", [None, 0.4])
@pytest.mark.parametrize(
    "rows, words, width, threads", [(45, 777, 24, 3), (150, 1600, 41, 2), (33, 1600, 5, 1)]
)
def test_a_sampled_gradient_is_right_on_average(
    monkeypatch, counted, precision, rows, words, width, threads, share
):
    monkeypatch.setattr(loss_module, "ROWS_TIMES_WORDS", words * 64)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    given = operands(rows, words, width)
    theirs, weight, bias, _ = (t.detach() for t in operands(rows, words, width + 3, spread=0.5))
    taught = Teacher(theirs, weight, bias, 1.0, share) if share else None
    whole = sampled(given, 0, taught, precision)
    torch.manual_seed(3)
    few, many = (
        [sampled(given, samples, taught, precision) for _ in range(100)] for samples in (4, 512)
    )
    for at, wanted in enumerate(whole):
        noise = [sum(relative(g[at], wanted) for g in all_of) / 100 for all_of in (few, many)]
        # Systematic samples leave less noise than independent ones, whose goes with their root.
        assert noise[1] < noise[0] * (4 / 512) ** 0.5
        for drawn, of_one in zip((few, many), noise, strict=True):
            mean = torch.stack([g[at] for g in drawn]).mean(0)
            assert relative(mean, wanted) < 1.3 * of_one / 100**0.5
    touched = int((few[0][1] != 0).any(1).sum())
    # Marks that a thread begins anew, and the targets, come on top of the samples.
    assert touched <= rows * (4 * (1 + (share or 0)) + threads + 1)
    assert counted() == 201 * len(range(0, rows, 64))


@pytest.mark.usefixtures("avx2")
def test_samples_are_drawn_from_torchs_generator_and_only_where_they_are_wanted():
    given = operands(200, 3000, 70)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    sampled(given, 0, None)
    assert torch.equal(torch.get_rng_state(), before)
    once = sampled(given, 8, None)
    other = sampled(given, 8, None)
    torch.set_rng_state(before)
    again = sampled(given, 8, None)
    for a, b, c in zip(once, other, again, strict=True):
        assert torch.equal(a, c)
        assert not torch.equal(a, b)


@pytest.mark.usefixtures("avx2")
def test_on_avx512_the_gradients_of_all_words_are_left_to_torch(monkeypatch, counted, precision):
    monkeypatch.setattr(process, "_has", lambda kernels: kernels != "amx")
    monkeypatch.setattr(process, "_allowed", "avx512")
    given = operands()
    for samples, runs in ((0, 0), (9, 1)):
        before = counted()
        DecoderLoss(precision, samples=samples)(*given).backward()
        assert counted() - before == runs
    sum_nll(*given, precision=precision)
    assert counted() == 2


def test_a_teacher_whose_logits_are_far_above_the_targets_is_left_to_torch(counted, precision):
    given = operands()
    taught, weight, bias, _ = (t.detach().clone() for t in operands(spread=0.5))
    bias[5] = 300.0
    given[3][given[3] == 5] = 6
    loss = DecoderLoss(precision)
    loss.teacher = Teacher(taught, weight, bias, 1.0, 1.0)
    found = torch.autograd.grad(loss(*given), given[2])[0]
    assert counted() == 1
    # All of its probability is on that word.
    wanted = torch.softmax(F.linear(*given[:3]), 1).mean(0)
    wanted[5] -= 1.0
    assert relative(found, wanted) < 5e-3


def test_the_same_operands_give_the_same_bits_whichever_threads_there_are(monkeypatch, precision):
    given = operands(200, 3000, 70)
    once = torch.autograd.grad(DecoderLoss(precision)(*given), given[:3])
    again = torch.autograd.grad(DecoderLoss(precision)(*given), given[:3])
    monkeypatch.setattr(decoder, "openmp", lambda: None)
    own = torch.autograd.grad(DecoderLoss(precision)(*given), given[:3])
    for a, b, c in zip(once, again, own, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_logits_far_above_the_targets_are_left_to_torch(counted, precision):
    """exp(300) is not a number of fp32."""
    hidden, weight, bias, targets = operands()
    with torch.no_grad():
        bias[5] = 300.0
    targets[targets == 5] = 6
    given = (hidden, weight, bias, targets)
    check(given, precision)
    assert counted() == 2


@needs_kernel
@pytest.mark.parametrize("target", [-1, 777])
def test_a_target_that_is_no_word_is_refused(target):
    hidden, weight, bias, targets = operands()
    targets[3] = target
    with pytest.raises(IndexError, match="777"):
        DecoderLoss()(hidden, weight, bias, targets)


@needs_kernel
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_gives_none(value):
    hidden, weight, bias, targets = operands()
    with torch.no_grad():
        weight[3, 4] = value
    assert not torch.isfinite(DecoderLoss()(hidden, weight, bias, targets))


@needs_kernel
def test_a_confident_model_has_a_loss_near_zero_and_not_below_it(precision):
    hidden, weight, bias, targets = operands()
    with torch.no_grad():
        targets[:] = 7
        bias[7] = 60.0
    loss = DecoderLoss(precision)(hidden, weight, bias, targets).item()
    assert -1e-5 < loss < 1e-5


@needs_kernel
def test_hidden_rows_in_bf16_get_their_gradient_in_bf16(counted, precision):
    """As an autocast layer gives them."""
    hidden, weight, bias, targets = operands()
    half = hidden.detach().bfloat16().requires_grad_()
    DecoderLoss(precision)(half, weight, bias, targets).backward()
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16
    wanted = reference((half.float(), weight, bias, targets))[1][0]
    assert relative(half.grad, wanted) < 5e-3
    assert counted() == 1


def test_operands_that_do_not_lie_one_after_another_are_taken_too(precision):
    hidden, weight, bias, targets = operands()
    check((hidden.t().contiguous().t(), weight[:, :], bias, targets), precision)
    wide = torch.cat((weight.detach(), weight.detach()), 1)[:, : weight.size(1)].requires_grad_()
    check((hidden, wide, bias, targets), precision)


@needs_kernel
def test_gradients_go_straight_into_the_parameters_and_are_kept_until_the_next_call():
    hidden, weight, bias, targets = operands()
    loss = DecoderLoss(into_grad=True)
    loss(hidden, weight, bias, targets).backward()
    wanted = reference((hidden, weight, bias, targets))[1]
    assert weight.grad is not None
    assert bias.grad is not None
    assert relative(weight.grad, wanted[1]) < 1e-6
    assert relative(bias.grad, wanted[2]) < 1e-6
    with pytest.raises(RuntimeError, match="zero_grad"):
        loss(hidden, weight, bias, targets)


@needs_kernel
def test_torchs_own_products_on_tiles_are_right_between_and_after(counted, precision):
    """oneDNN configures the same registers, and does so only where it finds them otherwise."""
    given = operands(64, 1024, 64)
    a, b = torch.randn(256, 256), torch.randn(256, 256)
    expected = a.bfloat16() @ b.bfloat16()
    for _ in range(3):
        check(given, precision)
        assert torch.equal(a.bfloat16() @ b.bfloat16(), expected)
    assert counted() == 6


@pytest.mark.parametrize("batch_size, width", [(20, 200), (40, 650)])
def test_what_a_thread_takes_is_as_the_estimate_has_it(kernel, precision, batch_size, width):
    if process.allowed() != "amx":
        pytest.skip("the estimate is of AMX, which takes most")
    hidden, weight, bias, targets = operands(batch_size * 35, 600, width)
    taken: list[int] = []
    told: list[int] = []

    def buffers(_name: str, size: int) -> Tensor:
        taken.append(size)
        return torch.empty(size, dtype=torch.uint8)

    settings = {"batch_size": batch_size, "nhid": width, "emsize": width, "precision": precision}
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            kernel.nll(hidden, weight, bias, targets, buffers, precision=precision)
            config = validate(TrainConfig, {**settings, "threads": threads})
            told.append(estimate(config, 600).bytes)
    finally:
        torch.set_num_threads(before)
    assert told[1] - told[0] == pytest.approx(taken[1] - taken[0], rel=0.1)


def test_small_ones_and_other_numbers_are_left_to_torch():
    both: Any = SimpleNamespace(precisions=["fp32", "bf16"])
    fp32_alone: Any = SimpleNamespace(precisions=["fp32"])

    def fits(hidden: Tensor, weight: Tensor, bias: Tensor) -> bool:
        return decoder.Kernel.fits(both, hidden, weight, bias, "bf16")

    hidden, weight, bias = torch.zeros(32, 8), torch.zeros(512, 8), torch.zeros(512)
    assert fits(hidden, weight, bias)
    assert fits(hidden.bfloat16(), weight, bias)
    assert decoder.Kernel.fits(fp32_alone, hidden, weight, bias, "fp32")
    assert not decoder.Kernel.fits(fp32_alone, hidden, weight, bias, "bf16")
    assert not fits(hidden[1:], weight, bias)
    assert not fits(hidden, weight[1:], bias[1:])
    assert not fits(hidden.double(), weight.double(), bias.double())
    assert not fits(hidden.to("meta"), weight.to("meta"), bias.to("meta"))
    # Read as what they are not, these would be read beyond their ends.
    assert not fits(hidden, weight, bias.bfloat16())
    assert not fits(hidden, weight, bias.to("meta"))
    assert not fits(hidden, weight, bias[1:])
    assert not fits(hidden, weight, bias.unsqueeze(1))
    assert not fits(hidden[:, 1:], weight, bias)


@needs_kernel
@pytest.mark.parametrize(
    "change, error",
    [
        (lambda targets: targets.int(), TypeError),
        (lambda targets: targets.double(), TypeError),
        (lambda targets: targets[1:], ValueError),
        (lambda targets: targets.unsqueeze(1), ValueError),
    ],
    ids=["int32", "float64", "too few", "a column"],
)
def test_targets_that_are_not_one_id_a_row_are_refused(change, error):
    hidden, weight, bias, targets = operands()
    with pytest.raises(error, match=r"targets must be int64|one target a row"):
        DecoderLoss()(hidden, weight, bias, change(targets))
    with pytest.raises(error, match=r"targets must be int64|one target a row"):
        sum_nll(hidden, weight, bias, change(targets))


def test_it_is_had_by_nobody_whom_it_is_not_allowed_to(monkeypatch):
    monkeypatch.setattr(process, "_allowed", "torch")
    assert native.kernel() is None
    monkeypatch.setattr(process, "_allowed", None)
    monkeypatch.setenv("LMBENCH_NATIVE", "0")
    assert native.kernel() is None


def test_a_processor_that_gains_nothing_asks_no_compiler(monkeypatch):
    def compile_it() -> None:
        raise AssertionError("it was compiled")

    monkeypatch.setattr(Unit, "library", lambda self: compile_it())
    for flags in (set[str](), {"avx2"}, {"avx512f"}):
        monkeypatch.setattr(process, "_flags", lambda flags=flags: flags)
        assert native.best() == "torch"
        assert native.kernel() is None


@pytest.mark.parametrize("flags", [AMX, AVX2], ids=["amx", "avx2"])
def test_it_trains_where_there_is_no_compiler(monkeypatch, flags):
    def library(_: Unit) -> None:
        raise NativeUnavailableError("no C++ compiler")

    monkeypatch.setattr(process, "_flags", lambda: flags)
    monkeypatch.setattr(Unit, "library", library)
    assert native.kernel() is None
    hidden, weight, bias, targets = operands()
    DecoderLoss()(hidden, weight, bias, targets).backward()
    assert weight.grad is not None
