"""Devices without float64 (Apple's MPS): nothing asks for it there, and sums stay exact."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lmbench.config import TrainConfig
from lmbench.deploy.load_model import LoadedModel
from lmbench.deploy.runtimes.torch_cells import TorchRuntime
from lmbench.generation.cache import NeuralCache, evaluate_with_caches
from lmbench.model import device as device_module
from lmbench.model.device import in_float64, widest
from lmbench.model.rnn import RNNModel, shape_of
from lmbench.session.events import Step
from lmbench.training.evaluate import evaluate
from lmbench.training.loss import DecoderLoss
from lmbench.training.objective import CrossEntropy, ExactCrossEntropy, Objective
from lmbench.training.precision import Precision
from lmbench.training.trainer import Splits, Trainer

WORDS, WIDTH, BATCH, BPTT = 61, 8, 3, 5

_CARRYING = {"add_", "sub_", "zero_", "copy_", "detach", "alias", "clone", "select"}
"""What happens to a running sum, which on MPS is a tensor of the CPU."""


class NoFloat64(TorchDispatchMode):
    """Refuses float64, as MPS does, but for running sums and what `in_float64` adds to them."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dtype == torch.float64:
            name = func.overloadpacket.__name__
            if name not in _CARRYING and not _is_running(in_float64):
                raise TypeError(f"{name}: this device has no float64")
        return result


def _is_running(function: Any) -> bool:
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame is not None


@contextmanager
def without_float64() -> Iterator[None]:
    """The CPU taken for a device that has none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_module, "_NO_FLOAT64", frozenset({"cpu"}))
        with NoFloat64():
            yield


def model(seed: int = 1) -> RNNModel:
    torch.manual_seed(seed)
    return RNNModel("LSTM", WORDS, WIDTH, WIDTH, 2, 0.2, True)


def ids(rows: int) -> Tensor:
    return torch.randint(WORDS, (rows, BATCH), generator=torch.Generator().manual_seed(2))


def loaded() -> LoadedModel:
    plain = model().eval().requires_grad_(False)
    return LoadedModel(plain, [], shape_of(plain), "a model", Path("nowhere"))


def test_only_mps_has_no_float64() -> None:
    assert widest(torch.device("mps")) == torch.float32
    assert {widest(torch.device(name)) for name in ("cpu", "cuda", "meta")} == {torch.float64}


def test_values_stay_on_their_device_where_it_has_float64() -> None:
    value = in_float64(torch.zeros(2, device="meta"))
    assert (value.device.type, value.dtype) == ("meta", torch.float64)


def test_the_refusal_refuses() -> None:
    with pytest.raises(TypeError, match="no float64"), without_float64():
        torch.zeros(1).sum(dtype=torch.float64)


def test_evaluation_runs_without_float64_and_gives_the_same() -> None:
    data = ids(41)
    expected = evaluate(model(), data, BPTT)
    with without_float64():
        found = evaluate(model(), data, BPTT)
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)


def test_the_torch_runtime_scores_without_float64() -> None:
    data, one = ids(41), loaded()
    expected = TorchRuntime(one).evaluate(data, BPTT)
    with without_float64():
        found = TorchRuntime(one).evaluate(data, BPTT)
    assert found.nll == pytest.approx(expected.nll, rel=1e-6)


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_the_neural_cache_scores_without_float64(share: float) -> None:
    data, caches = ids(41), [NeuralCache(20, 0.6, share)]
    plain = model().eval()
    [expected] = evaluate_with_caches(plain, data, BPTT, caches)[1]
    with without_float64():
        [found] = evaluate_with_caches(plain, data, BPTT, caches)[1]
    assert found.nll == pytest.approx(expected.nll, rel=1e-5)


def trained(folder: Path, objective: Objective, precision: Any) -> list[float]:
    config = TrainConfig(
        batch_size=BATCH, bptt=BPTT, epochs=2, lr=1.0, precision=precision, event_interval=3
    )
    one = model()
    losses: list[float] = []
    folder.mkdir()
    Trainer(
        one,
        Splits(ids(61), ids(21), ids(21)),
        config,
        objective,
        folder,
        emit=lambda event: losses.extend([event.loss] if isinstance(event, Step) else []),
        control=lambda: None,
        log_offset=lambda: 0,
        optimizer=torch.optim.SGD(one.parameters(), lr=1.0),
        log=lambda line: None,
    ).run()
    return losses


@pytest.mark.parametrize("precision", ["fp32", "bf16", "exact"])
def test_training_runs_without_float64_and_gives_the_same(tmp_path: Path, precision: str) -> None:
    def objective() -> Objective:
        fused: Precision = "bf16" if precision == "bf16" else "fp32"
        if precision == "exact":
            return ExactCrossEntropy()
        return CrossEntropy(DecoderLoss(fused, into_grad=True))

    expected = trained(tmp_path / "a", objective(), precision)
    with without_float64():
        found = trained(tmp_path / "b", objective(), precision)
    assert len(found) == 8
    assert found == pytest.approx(expected, rel=1e-5)
