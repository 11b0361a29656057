"""The learning rate of each step is that of torch's schedulers, and a resumed run has the same."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler
from training_world import Recorder, resumed_as_uninterrupted, small, trainer

from lmbench.config import TrainConfig, validate
from lmbench.errors import LmbenchError
from lmbench.session.events import Epoch, Step
from lmbench.training.evaluate import Evaluation
from lmbench.training.learning_rates import LearningRates
from lmbench.training.plateau import Plateau

# An epoch of the small corpus has so many batches, a training three epochs.
BATCHES, STEPS = 25, 75
Make = Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]


def sgd(lr: float = 5.0) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def torchs_rates(make: Make, steps: int) -> list[float]:
    optimizer = sgd()
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        with warnings.catch_warnings():
            # Torch's own chain of two warns of itself.
            warnings.simplefilter("ignore")
            scheduler.step()
    return rates


def rates_of(folder: Path, **settings: Any) -> list[float]:
    recorder = Recorder()
    trainer(small(event_interval=1, **settings), folder, recorder).run()
    return [event.lr for event in recorder.of(Step)]


def after_warm_up(make: Make) -> Make:
    """Torch's own chain: a rise over the first ten steps, then the curve."""

    def chain(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        rise = lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 9)
        return lr_scheduler.SequentialLR(optimizer, [rise, make(optimizer)], [10])

    return chain


@pytest.mark.parametrize(
    "settings, make",
    [
        ({"lr_schedule": "cosine"}, lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS)),
        ({"lr_schedule": "linear"}, lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, STEPS)),
        (
            {"lr_schedule": "onecycle"},
            lambda o: lr_scheduler.OneCycleLR(o, 5.0, STEPS, cycle_momentum=False),
        ),
        (
            {"lr_schedule": "onecycle", "warmup": 0.6},
            lambda o: lr_scheduler.OneCycleLR(o, 5.0, STEPS, pct_start=0.2, cycle_momentum=False),
        ),
        (
            {"lr_schedule": "cosine", "warmup": 0.4},
            after_warm_up(lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS - 10)),
        ),
        (
            {"lr_schedule": "linear", "warmup": 0.4},
            after_warm_up(lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, STEPS - 10)),
        ),
    ],
    ids=["cosine", "linear", "onecycle", "onecycle-rise", "warm-cosine", "warm-linear"],
)
def test_the_rates_are_torchs(settings: dict[str, Any], make: Make, tmp_path: Path) -> None:
    ours = rates_of(tmp_path, **settings)
    assert len(ours) == STEPS
    assert ours == pytest.approx(torchs_rates(make, STEPS), rel=1e-9)
    assert max(ours) == pytest.approx(5.0, rel=1e-2)
    assert ours[-1] < 0.2


def test_a_warm_up_rises_by_equal_steps_and_then_the_rate_is_what_it_was_asked_to_be(
    tmp_path: Path,
) -> None:
    rates = rates_of(tmp_path, warmup=1.2, decay=0.5)
    rise = [5.0 * (step + 1) / 30 for step in range(30)]
    assert rates[:30] == pytest.approx(rise)
    assert rates[30:] == [5.0] * 20 + [2.5] * 25
    (folder := tmp_path / "steps").mkdir()
    assert rates_of(folder, warmup_steps=30, decay=0.5) == rates


def test_a_warm_up_in_steps_is_the_rise_of_a_cycle_and_ends_before_the_training() -> None:
    long, short = (
        LearningRates(optimizer, small(lr_schedule="onecycle", **rise), BATCHES)
        for optimizer, rise in ((sgd(), {"warmup": 0.4}), (sgd(), {"warmup_steps": 10}))
    )
    assert BATCHES * 0.4 == 10
    assert long._curve is not None
    assert short._curve is not None
    assert vars(long._curve)["_schedule_phases"] == vars(short._curve)["_schedule_phases"]
    with pytest.raises(
        LmbenchError, match=rf"--warmup-steps {STEPS}: .* which has {STEPS} steps; use"
    ):
        LearningRates(sgd(), small(warmup_steps=STEPS), BATCHES)


@pytest.mark.parametrize("given", [{}, {"lr_schedule": "plateau"}], ids=["default", "named"])
def test_a_plateau_is_annealed_as_before_and_not_while_the_rate_rises(
    given: dict[str, Any],
) -> None:
    optimizer = sgd()
    rates = LearningRates(optimizer, small(warmup=2.0, **given), BATCHES)
    for step in range(BATCHES):
        rates.begin_step(step)
    rates.end_epoch(BATCHES, stuck=True)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(2.5)
    for step in range(BATCHES, 2 * BATCHES + 1):
        rates.begin_step(step)
    rates.end_epoch(2 * BATCHES + 1, stuck=False)
    assert optimizer.param_groups[0]["lr"] == 5.0
    rates.end_epoch(2 * BATCHES + 1, stuck=True)
    assert optimizer.param_groups[0]["lr"] == 2.5


@given(st.lists(st.sampled_from([3.0, 2.9998, 2.9, 2.0, 1.0]), max_size=30), st.integers(0, 3))
def test_a_plateau_is_torchs(losses: list[float], patience: int) -> None:
    """Read back from its state after each epoch, as by a resumed run."""
    optimizer = sgd(1.0)
    torchs = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=patience)
    ours, rate = Plateau(0.5, patience), 1.0
    for epoch, loss in enumerate(losses, start=1):
        torchs.step(loss)
        is_best, anneal = ours.step(loss, epoch, masks_changed=False)
        rate *= 0.5 if anneal else 1.0
        # Torch leaves rates alone that would change by less than 1e-8.
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate, abs=2e-8)
        assert is_best == (loss < min(losses[: epoch - 1], default=math.inf))
        ours = Plateau(**Plateau.state_values(ours.state()))


def test_a_training_whose_validation_stalls_has_half_the_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = Evaluation(loss=3.0, tokens=10, seconds=1.0)
    monkeypatch.setattr("lmbench.training.trainer.evaluate", lambda *_: same)
    recorder = Recorder()
    trainer(small(epochs=3), tmp_path, recorder).run()
    rates = dict.fromkeys(step.lr for step in recorder.of(Step))
    assert list(rates) == [5.0, 2.5]
    assert [epoch.lr for epoch in recorder.of(Epoch)] == [5.0, 5.0, 2.5]


def test_the_epoch_in_which_a_warm_up_ends_anneals_nothing() -> None:
    optimizer = sgd()
    rates = LearningRates(optimizer, small(warmup=1.0, decay=0.5), BATCHES)
    for step in range(BATCHES):
        rates.begin_step(step)
    rates.end_epoch(BATCHES, stuck=True)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(5.0)
    for step in range(BATCHES, 2 * BATCHES):
        rates.begin_step(step)
    assert optimizer.param_groups[0]["lr"] == 5.0
    rates.end_epoch(2 * BATCHES, stuck=True)
    assert optimizer.param_groups[0]["lr"] == 2.5


@pytest.mark.parametrize("way", ["cosine", "linear", "onecycle"])
def test_a_curve_is_not_annealed_on_a_plateau(way: str) -> None:
    optimizer = sgd()
    rates = LearningRates(optimizer, small(lr_schedule=way), BATCHES)
    before = optimizer.param_groups[0]["lr"]
    rates.end_epoch(BATCHES, stuck=True)
    assert optimizer.param_groups[0]["lr"] == before


@given(
    st.sampled_from(["cosine", "linear", "onecycle"]),
    st.integers(1, 4),
    st.integers(1, 9),
    st.floats(0.0, 0.99),
    st.integers(0, 40),
)
def test_no_length_of_a_training_is_too_short_and_one_that_is_exceeded_ends_at_the_last_rate(
    way: str, epochs: int, batches: int, share: float, more: int
) -> None:
    optimizer = sgd()
    config = validate(
        TrainConfig, {"lr": 5.0, "lr_schedule": way, "epochs": epochs, "warmup": share * epochs}
    )
    rates, found = LearningRates(optimizer, config, batches), []
    for step in range(epochs * batches + more):
        rates.begin_step(step)
        found.append(optimizer.param_groups[0]["lr"])
    assert all(0.0 < rate <= 5.0 + 1e-9 for rate in found)
    # A curve of two steps at least.
    end = found[max(epochs * batches, round(share * epochs * batches) + 2) - 1 :]
    assert end == end[:1] * len(end)


@pytest.mark.parametrize(
    "settings",
    [
        {"lr_schedule": "cosine", "warmup": 0.5},
        {"lr_schedule": "linear"},
        {"lr_schedule": "onecycle", "momentum": 0.5},
        {"lr_schedule": "onecycle", "optimizer": "adamw", "lr": 0.01},
        {"warmup": 1.5},
        {"lr_schedule": "cosine", "warmup_steps": 20},
    ],
    ids=["cosine", "linear", "onecycle", "onecycle-adamw", "plateau", "steps"],
)
def test_a_resumed_run_has_the_rates_of_an_uninterrupted_one_to_the_bit(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    config = small(event_interval=1, dropout=0.3, **settings)
    resumed_as_uninterrupted(config, tmp_path, (5, 33))


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"lr_schedule": "decay"}, "--lr-schedule decay: needs --decay"),
        ({"lr_schedule": "cosine", "decay": 0.9}, "--lr-schedule cosine: .* --decay 0.9, too"),
        ({"lr_schedule": "plateau", "decay": 0.9}, "--lr-schedule plateau: .* --decay 0.9, too"),
        ({"warmup": 3, "epochs": 3}, "--warmup 3: .* use less than --epochs 3"),
        ({"warmup": 1, "warmup_steps": 9}, "--warmup-steps 9: --warmup 1 says, too"),
        ({"precision": "exact", "gradient_samples": 9}, "--gradient-samples 9: --precision exact"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(LmbenchError, match=says):
        validate(TrainConfig, settings)
