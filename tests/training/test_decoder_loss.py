"""The fused decoder loss against torch's own, operand by operand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmbench.training import decoder_products, native
from lmbench.training import loss as loss_module
from lmbench.training.loss import DecoderLoss, Precision, Teacher, sum_nll

Operands = tuple[Tensor, Tensor, Tensor, Tensor]

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
on_cuda = pytest.param("cuda", marks=[pytest.mark.cuda, needs_cuda])


@pytest.fixture(autouse=True)
def torchs_own_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled one has tests of its own."""
    monkeypatch.setattr(native, "kernel", lambda: None)


def operands(rows: int = 37, words: int = 501, width: int = 24, seed: int = 0) -> Operands:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=generator).tanh().requires_grad_()
    weight = (torch.randn(words, width, generator=generator) * 0.3).requires_grad_()
    bias = (torch.randn(words, generator=generator) * 0.1).requires_grad_()
    targets = torch.randint(words, (rows,), generator=generator)
    return hidden, weight, bias, targets


def plain(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight, bias), targets)


def gradients(loss: Tensor, given: Operands) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, given[:3])


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@settings(max_examples=30)
@given(
    rows=st.integers(1, 40),
    words=st.integers(2, 300),
    width=st.integers(1, 40),
    bound=st.sampled_from([1, 500, 2**25]),
    onednn=st.booleans(),
)
def test_fp32_gives_the_plain_loss_and_gradients_at_any_size_and_in_any_slices(
    rows: int, words: int, width: int, bound: int, onednn: bool
) -> None:
    given = operands(rows, words, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_module, "ROWS_TIMES_WORDS", bound)
        patch.setattr(decoder_products, "prefers_onednn", lambda: onednn)
        fused = DecoderLoss("fp32")(*given)
    reference = plain(*given)
    torch.testing.assert_close(fused, reference, rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(gradients(fused, given), gradients(reference, given), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("width", [200, 450])
def test_both_layouts_of_the_weight_gradient_are_right_by_either_library(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    given = operands(20, 90, width)
    reference = gradients(plain(*given), given)
    for onednn in (False, True):
        monkeypatch.setattr(decoder_products, "prefers_onednn", lambda onednn=onednn: onednn)
        ours = gradients(DecoderLoss("fp32")(*given), given)
        assert max(map(relative, ours, reference)) < 1e-5


@pytest.mark.parametrize("bound", [2**25, 2000])
def test_bf16_is_as_close_as_the_documentation_says(
    monkeypatch: pytest.MonkeyPatch, bound: int
) -> None:
    monkeypatch.setattr(loss_module, "ROWS_TIMES_WORDS", bound)
    given = operands(rows=300, words=2000, width=64)
    fused, reference = DecoderLoss("bf16")(*given), plain(*given)
    ours, theirs = gradients(fused, given), gradients(reference, given)
    assert abs(fused.item() - reference.item()) < 2e-3
    assert max(map(relative, ours, theirs)) < 5e-3
    assert all(gradient.dtype == torch.float32 for gradient in ours)


@pytest.mark.parametrize("precision, error", [("fp32", 1e-5), ("bf16", 2e-2)])
@pytest.mark.parametrize("temperature, share", [(1.0, 0.5), (2.5, 0.3), (0.5, 1.0)])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("device", ["cpu", on_cuda])
def test_with_a_teacher_the_gradients_are_those_of_the_blend(
    monkeypatch: pytest.MonkeyPatch,
    precision: Precision,
    error: float,
    temperature: float,
    share: float,
    aligned: bool,
    device: str,
) -> None:
    monkeypatch.setattr(loss_module, "ROWS_TIMES_WORDS", 30_000)
    if aligned:
        monkeypatch.setattr(loss_module, "_aligned", padded)
    given = operands(rows=50, words=1001, width=24)
    taught, weight, bias, _ = (t.detach() for t in operands(50, 1001, 30, seed=1))
    loss = DecoderLoss(precision)
    loss.teacher = Teacher(
        taught.to(device), weight.to(device), bias.to(device), temperature, share
    )
    value = loss(*(t.to(device) for t in given))
    found = gradients(value, given)
    logits, wanted = F.linear(*given[:3]), F.linear(taught, weight, bias)
    entropy = F.cross_entropy(logits, given[3])
    divergence = F.kl_div(
        F.log_softmax(logits / temperature, 1),
        F.log_softmax(wanted / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    blend = (1 - share) * entropy + share * temperature**2 * divergence
    assert value.item() == pytest.approx(entropy.item(), rel=error)
    assert max(map(relative, found, gradients(blend, given))) < error


def padded(size: int, device: torch.device) -> int:
    """As `_aligned` makes a row's length on CUDA."""
    return -(-size // 8) * 8


def test_rows_begin_at_16_bytes_where_tensor_cores_load_them_and_stay_dense_on_the_cpu() -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    for size, expected in ((33_278, 33_280), (201, 208), (651, 656), (1501, 1504), (8, 8)):
        assert loss_module._aligned(size, cuda) == padded(size, cuda) == expected
        assert loss_module._aligned(size, cpu) == size


@pytest.mark.parametrize("words, width", [(1997, 64), (2000, 63), (2001, 71)])
@pytest.mark.parametrize("bound", [2**25, 30_000])
def test_padded_rows_change_nothing_of_a_bf16_loss(
    monkeypatch: pytest.MonkeyPatch, words: int, width: int, bound: int
) -> None:
    monkeypatch.setattr(loss_module, "ROWS_TIMES_WORDS", bound)
    given = operands(rows=300, words=words, width=width)
    dense = DecoderLoss("bf16")(*given)
    expected = gradients(dense, given)
    monkeypatch.setattr(loss_module, "_aligned", padded)
    owner = DecoderLoss("bf16")
    loss = owner(*given)
    ours, reference = gradients(loss, given), gradients(plain(*given), given)
    assert owner._buffers["logits"].numel() % 8 == 0
    # The same products in another order: what differs is how a sum was rounded.
    assert loss.item() == pytest.approx(dense.item(), abs=1e-3)
    assert max(map(relative, ours, expected)) < 2e-3
    assert max(map(relative, ours, reference)) < 5e-3


@pytest.mark.parametrize("precision, error", [("fp32", 1e-5), ("bf16", 5e-3)])
@pytest.mark.parametrize("device", [on_cuda])
def test_a_gpu_gives_the_loss_and_gradients_of_the_cpu(
    precision: Precision, error: float, device: str
) -> None:
    given = operands(rows=300, words=1997, width=65)
    there = tuple(x.detach().to(device).requires_grad_(x.is_floating_point()) for x in given)
    loss = DecoderLoss(precision)(*there)
    reference = plain(*given)
    assert loss.item() == pytest.approx(reference.item(), rel=error)
    ours = torch.autograd.grad(loss, there[:3])
    for a, b in zip(ours, gradients(reference, given), strict=True):
        assert relative(a.cpu(), b) < error


def test_in_double_precision_nothing_is_rounded_to_single() -> None:
    hidden, weight, bias, targets = operands()
    given = (
        hidden.detach().double().requires_grad_(),
        weight.detach().double().requires_grad_(),
        bias.detach().double().requires_grad_(),
        targets,
    )
    ours, theirs = gradients(DecoderLoss()(*given), given), gradients(plain(*given), given)
    assert max(map(relative, ours, theirs)) < 1e-13


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_calls_give_the_same_bits(precision: Precision) -> None:
    given = operands()
    first, second = DecoderLoss(precision), DecoderLoss(precision)
    a, b = first(*given), second(*given)
    assert torch.equal(a, b)
    for x, y in zip(gradients(a, given), gradients(b, given), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_target_whose_probability_underflows_has_its_true_loss(precision: Precision) -> None:
    hidden, weight = torch.ones(2, 1), torch.tensor([[0.0], [512.0]])
    targets = torch.tensor([0, 1])
    loss = DecoderLoss(precision)(hidden, weight.requires_grad_(), torch.zeros(2), targets)
    assert loss.item() == pytest.approx(256.0)
    total = sum_nll(hidden, weight, torch.zeros(2), targets, precision=precision)
    assert total.item() == pytest.approx(512.0)


def test_the_gradient_follows_the_factor_that_comes_from_above() -> None:
    given = operands()
    once = gradients(DecoderLoss()(*given), given)
    thrice = gradients(3.0 * DecoderLoss()(*given), given)
    for a, b in zip(once, thrice, strict=True):
        torch.testing.assert_close(3.0 * a, b)


def test_gradients_add_up_over_steps_without_sharing_memory_with_the_loss() -> None:
    hidden, weight, bias, targets = operands()
    loss = DecoderLoss()
    for _ in range(3):
        loss(hidden, weight, bias, targets).backward()
    reference = gradients(plain(hidden, weight, bias, targets), (hidden, weight, bias, targets))
    for parameter, one in zip((hidden, weight, bias), reference, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, 3 * one, rtol=1e-4, atol=1e-6)


def test_backward_through_an_older_loss_is_refused() -> None:
    given = operands()
    loss = DecoderLoss()
    older = loss(*given)
    loss(*given)
    with pytest.raises(RuntimeError, match="latest call only"):
        older.backward()


def test_into_grad_refuses_to_overwrite_a_gradient_that_is_in_use() -> None:
    given = operands()
    loss = DecoderLoss(into_grad=True)
    loss(*given).backward()
    with pytest.raises(RuntimeError, match="zero_grad"):
        loss(*given)


def test_into_grad_leaves_the_same_gradients_and_adds_to_those_that_are_there() -> None:
    hidden, weight, bias, targets = operands()
    reference = gradients(plain(hidden, weight, bias, targets), (hidden, weight, bias, targets))
    bias.grad = torch.ones_like(bias)
    DecoderLoss(into_grad=True)(hidden, weight, bias, targets).backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, reference[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(bias.grad, reference[2] + 1, rtol=1e-4, atol=1e-6)


def test_a_masked_weight_is_a_tensor_like_any_other() -> None:
    hidden, weight, bias, targets = operands()
    mask = (torch.arange(weight.numel()).view_as(weight) % 3 > 0).float()
    ours = gradients(
        DecoderLoss()(hidden, weight * mask, bias, targets), (hidden, weight, bias, targets)
    )
    theirs = gradients(plain(hidden, weight * mask, bias, targets), (hidden, weight, bias, targets))
    assert max(map(relative, ours, theirs)) < 1e-5
    assert ours[1][mask == 0].abs().max() == 0


def test_without_gradients_the_loss_is_the_mean_of_the_summed_likelihood() -> None:
    hidden, weight, bias, targets = operands()
    with torch.no_grad():
        loss = DecoderLoss()(hidden, weight, bias, targets)
    total = sum_nll(hidden, weight, bias, targets)
    assert total.dtype == torch.float64
    assert loss.item() == pytest.approx(total.item() / len(targets), rel=1e-6)
    assert total.item() == pytest.approx(
        plain(hidden, weight, bias, targets).item() * len(targets), rel=1e-6
    )
