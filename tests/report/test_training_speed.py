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


def test_a_large_model_of_twice_the_operations_takes_twice_as_long():
    large = SMALL.model_copy(update={"emsize": 1500, "nhid": 1500})
    speed = expect(large, TYPES, [measured("a/1", operations(large, TYPES) / 2, 400.0)])
    assert speed is not None
    assert speed.tokens_per_s == pytest.approx(200.0, rel=0.02)
    assert speed.scaled


@pytest.mark.parametrize("one", range(10))
def test_trainings_of_other_sizes_are_expected_to_be_about_as_fast_as_they_are(one: int):
    """Words, units, texts in a batch, steps and tokens a second of short trainings on two cores of
    a Zen 4, each judged by another one of them."""
    known = [
        (33_278, 200, 20, 35, 6101), (33_278, 200, 1, 35, 1540), (33_278, 200, 20, 10, 4663),
        (5_300, 32, 20, 35, 60_698), (5_300, 32, 1, 35, 10_217), (5_300, 200, 200, 35, 22_653),
        (33_278, 64, 1, 35, 3910), (33_278, 650, 20, 35, 1710), (5_300, 650, 5, 35, 2509),
        (10_000, 128, 20, 35, 23_077),
    ]  # fmt: skip
    words, units, texts, steps, reached = known[one]
    config = SMALL.model_copy(
        update={"emsize": units, "nhid": units, "batch_size": texts, "bptt": steps}
    )
    words_of, units_of, texts_of, steps_of, rate = known[0]
    judged_by = SMALL.model_copy(update={"emsize": units_of, "nhid": units_of})
    cost = operations(judged_by, words_of)
    speed = expect(config, words, [measured("a/1", cost, rate, batch_size=texts_of, bptt=steps_of)])
    assert speed is not None
    assert 1 / 1.5 < speed.tokens_per_s / reached < 1.5


def test_the_nearest_size_is_the_measure():
    cost = operations(SMALL, TYPES)
    known = [measured("a/1", cost * 50, 10.0), measured("a/2", cost * 1.1, 4000.0)]
    speed = expect(SMALL, TYPES, known)
    assert speed is not None
    assert speed.of.ref == "a/2"


def test_a_run_that_sampled_its_gradient_is_the_measure_of_one_that_will():
    cost = operations(SMALL, TYPES)
    known = [
        measured("a/1", cost, 4000.0, precision="fp32"),
        measured("a/2", cost * 9, 1000.0, sampled=True),
    ]
    for samples, one in ((0, "a/1"), (64, "a/2")):
        config = SMALL.model_copy(update={"gradient_samples": samples})
        speed = expect(config, TYPES, known)
        assert speed is not None
        assert speed.of.ref == one


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
    assert 1 / 1.3 < speed.tokens_per_s / reached < 1.3
    assert speed.scaled == (batch_size != 20)


def test_short_windows_are_expected_to_be_slower():
    known = measured("a/1", operations(SMALL, TYPES), 8347.0)
    rates = []
    for bptt in (5, 35, 140):
        speed = expect(SMALL.model_copy(update={"bptt": bptt}), TYPES, [known])
        assert speed is not None
        rates.append(speed.tokens_per_s)
    assert rates == sorted(rates)
    assert rates[0] < 0.7 * rates[1]
