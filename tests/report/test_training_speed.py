"""What earlier runs say of the speed of one that is not started yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmbench.config import TrainConfig
from lmbench.report.training_speed import Measured, expect, measured_speeds, operations
from lmbench.session import EventWriter, Home, Run
from lmbench.session import events as ev

SMALL = TrainConfig(tied=True)
TYPES = 33_278


def measured(ref: str, operations: float, rate: float, **changes: object) -> Measured:
    values = {"device": "cpu", "precision": "auto", "created": 1.0, **changes}
    return Measured(ref, operations=operations, tokens_per_s=rate, **values)  # type: ignore[arg-type]


def test_six_operations_are_counted_for_each_weight_that_multiplies():
    layers = 2 * 4 * 200 * (200 + 200)
    assert operations(SMALL, TYPES) == 6 * (TYPES * 200 + layers)


def test_the_same_model_is_as_fast_as_it_was():
    speed = expect(SMALL, TYPES, [measured("a/1", operations(SMALL, TYPES), 4000.0)])
    assert speed is not None
    assert (speed.tokens_per_s, speed.scaled) == (4000.0, False)


def test_a_model_of_twice_the_operations_takes_twice_as_long():
    speed = expect(SMALL, TYPES, [measured("a/1", operations(SMALL, TYPES) / 2, 4000.0)])
    assert speed is not None
    assert speed.tokens_per_s == pytest.approx(2000.0)
    assert speed.scaled


def test_the_nearest_size_is_the_measure():
    cost = operations(SMALL, TYPES)
    known = [measured("a/1", cost * 50, 10.0), measured("a/2", cost * 1.1, 4000.0)]
    speed = expect(SMALL, TYPES, known)
    assert speed is not None
    assert speed.of.ref == "a/2"


def test_a_gpu_says_nothing_of_a_cpu():
    known = [measured("a/1", 1e6, 1e6, device="cuda:0")]
    assert expect(SMALL.model_copy(update={"device": "cpu"}), TYPES, known) is None
    assert expect(SMALL.model_copy(update={"device": "cuda"}), TYPES, known) is not None


def test_auto_is_the_device_that_was_used_last():
    known = [
        measured("a/1", 1e6, 10.0, device="cpu", created=1.0),
        measured("a/2", 1e6, 1e6, device="cuda", created=2.0),
    ]
    speed = expect(SMALL, TYPES, known)
    assert speed is not None
    assert speed.of.ref == "a/2"


def test_where_nothing_was_measured_nothing_is_expected():
    assert expect(SMALL, TYPES, []) is None


def trained(home: Home, rates: list[float]) -> Run:
    run = home.open_session("s").new_run(SMALL, "train")
    run.update(device="cpu", shape={"ntoken": TYPES})
    writer = EventWriter(run.events_path)
    for step, rate in enumerate(rates, 1):
        writer.write(
            ev.Step(step=step, epoch=1, batch=step, loss=5.0, ppl=148.4, lr=20.0, grad_norm=1.0,
                    tokens_per_s=rate)
        )  # fmt: skip
    writer.close()
    return run


def test_the_median_of_a_run_s_last_steps_is_its_speed(tmp_path):
    trained(Home(tmp_path), [1.0, 4000.0, 4100.0, 3900.0, float("nan"), 9e9])
    (found,) = measured_speeds(Home(tmp_path))
    assert found.tokens_per_s == 4000.0
    assert found.operations == operations(SMALL, TYPES)


def test_runs_of_other_machines_without_steps_or_damaged_are_passed_over(tmp_path: Path):
    home = Home(tmp_path)
    trained(home, [100.0]).update(host="elsewhere")
    trained(home, [])
    (trained(home, [100.0]).path / "run.json").write_text("{")
    trained(home, [100.0]).update(config={"emsize": -1})
    assert measured_speeds(home) == []


@pytest.mark.parametrize("batch_size, reached", [(1, 1172), (20, 8347), (200, 13170)])
def test_small_batches_are_expected_to_be_as_slow_as_they_are(batch_size: int, reached: float):
    """By the rates of a 2x200 model on a CPU, of which one is known."""
    known = measured("a/1", operations(SMALL, TYPES), 8347.0)
    config = SMALL.model_copy(update={"batch_size": batch_size})
    speed = expect(config, TYPES, [known])
    assert speed is not None
    assert speed.tokens_per_s == pytest.approx(reached, rel=0.15)
    assert speed.scaled == (batch_size != 20)


def test_short_windows_are_expected_to_be_slower():
    known = measured("a/1", operations(SMALL, TYPES), 8347.0)
    rates = []
    for bptt in (5, 35, 140):
        speed = expect(SMALL.model_copy(update={"bptt": bptt}), TYPES, [known])
        assert speed is not None
        rates.append(speed.tokens_per_s)
    assert rates == sorted(rates)
    assert rates[0] < 0.6 * rates[1]
