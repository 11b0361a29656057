"""Curves gathered from events."""

from __future__ import annotations

import pytest

from lmbench.report.plots.curve_data import CurvesBuilder
from lmbench.report.plots.series import Source, gather, moments
from lmbench.session import events as ev


def step(number: int, t: float, loss: float = 5.0, lr: float = 20.0) -> ev.Step:
    return ev.Step(
        t=t, step=number, epoch=1, batch=number, loss=loss, ppl=1.0, lr=lr, grad_norm=0.5,
        tokens_per_s=100.0, memory=7, utilisation=50.0,
    )  # fmt: skip


def started(**given) -> ev.RunStarted:
    return ev.RunStarted(t=0.0, device="cpu", steps_per_epoch=100, total_steps=200, **given)


def built(*events: ev.Event):
    builder = CurvesBuilder()
    builder.add(events)
    return builder.view()


def test_a_step_stands_at_its_batch_its_fraction_of_an_epoch_and_its_minute():
    curves = built(started(), step(50, t=120.0, loss=4.5))
    row = {name: curves.steps[name][0] for name in curves.steps.names}
    assert row["step"] == 50
    assert row["epoch"] == 0.5
    assert row["time"] == 2.0
    assert row["loss"] == 4.5


def test_the_hours_between_a_stop_and_its_resume_are_no_time_of_work():
    curves = built(
        started(),
        step(1, t=60.0),
        ev.RunResumed(t=36_060.0, offset=0, step=1, epoch=1),
        step(2, t=36_120.0),
    )
    assert curves.steps["time"].tolist() == [1.0, 2.0]


def test_a_view_does_not_change_when_more_events_come():
    builder = CurvesBuilder()
    builder.add([started(), *(step(i, t=float(i)) for i in range(1, 60))])
    before = builder.view()
    builder.add(step(i, t=float(i)) for i in range(60, 500))
    assert len(before.steps) == 59
    assert before.steps["step"][-1] == 59
    assert len(builder.view().steps) == 499


def test_a_view_cannot_be_written_to():
    curves = built(started(), step(1, t=1.0))
    with pytest.raises(ValueError, match="read-only"):
        curves.steps["loss"][0] = 0.0


def test_one_pruning_step_of_many_tensors_is_one_mark():
    prunes = [
        ev.PruneStep(t=1.0, step=100, epoch=1, param=name, target=0.5, reached=0.4)
        for name in ("a", "b", "c")
    ]
    curves = built(started(), *prunes)
    assert curves.prunes["step"].tolist() == [100]
    assert set(curves.targets) == {"a", "b", "c"}


def test_a_threshold_without_a_level_has_no_target_curve():
    prune = ev.PruneStep(t=1.0, step=100, epoch=1, param="a", target=None, reached=0.4)
    curves = built(started(), prune)
    assert curves.targets == {}
    assert curves.sparsity["a"]["value"].tolist() == [0.4]


def test_a_falling_rate_is_marked_where_it_falls_and_nowhere_else():
    rates = [20.0, 20.0, 20.0 * (1 - 1e-12), 10.0, 10.0, 30.0]
    curves = built(started(), *(step(i, t=1.0, lr=lr) for i, lr in enumerate(rates, start=1)))
    assert curves.lr_drops["step"].tolist() == [4]
    assert curves.lr_drops["value"].tolist() == [10.0]


def test_a_rate_that_falls_at_every_step_has_no_marks():
    rates = [20.0, *(20.0 * (1 - n / 50) for n in range(1, 40)), 2.0, 2.0, 1.0, 1.0]
    curves = built(started(), *(step(i, t=1.0, lr=lr) for i, lr in enumerate(rates, start=1)))
    assert curves.lr_drops["value"].tolist() == [1.0]


def test_a_pause_is_no_time_of_work():
    curves = built(
        started(),
        step(1, t=60.0),
        ev.StatusChanged(t=61.0, status="paused"),
        ev.StatusChanged(t=28_861.0, status="running"),
        step(2, t=28_920.0),
    )
    assert curves.steps["time"].tolist() == [1.0, 2.0]


def test_the_perplexity_plot_holds_train_valid_and_test():
    epoch = ev.Epoch(
        t=3.0, epoch=1, step=2, train_loss=5.0, valid_loss=4.0, valid_ppl=1.0,
        best_valid_loss=4.0, best_epoch=1, lr=1.0, seconds=1.0,
    )  # fmt: skip
    done = ev.Finished(t=4.0, status="finished", seconds=4.0, test_loss=3.0, test_ppl=20.0)
    curves = built(started(), step(1, 1.0), step(2, 2.0), epoch, done)
    found = gather("perplexity", [Source("1 a", "●", None, curves)], "step")
    assert [series.label for series in found] == ["1 a train", "1 a valid", "1 a test"]
    assert [series.x[-1] for series in found] == [2, 2, 2]


def test_two_runs_lines_of_training_have_signs_of_their_own_and_a_single_one_has_none():
    curves = built(started(), step(1, 1.0), step(2, 2.0))
    sources = [Source("1 a", "●", None, curves), Source("2 b", "◆", None, curves)]
    signs = [series.sign for series in gather("loss", sources, "step")]
    assert signs == ["─•", "─♦"]
    assert [series.sign for series in gather("loss", sources[:1], "step")] == ["─"]


def test_a_run_without_a_curve_has_no_empty_series_in_a_plot():
    assert gather("perplexity", [Source("1 a", "●", None, built(started()))], "step") == []


def test_a_score_without_a_training_is_no_curve():
    done = ev.Finished(t=4.0, status="finished", seconds=4.0, test_loss=3.0, test_ppl=20.0)
    assert gather("perplexity", [Source("3 int8", "▲", None, built(done))], "step") == []


def test_pruning_steps_and_rate_drops_become_moments_on_the_same_axis():
    curves = built(
        started(),
        step(1, t=1.0),
        ev.PruneStep(t=2.0, step=50, epoch=1, param="a", target=0.5, reached=0.5),
        step(60, t=3.0, lr=1.0),
        step(70, t=4.0, lr=1.0),
    )
    found = moments([Source("1 a", "●", None, curves)], "epoch")
    assert [(m.sign, m.x) for m in found] == [("▼", 0.5), ("↘", 0.6)]


def test_a_clock_set_back_does_not_fold_a_curve_over_itself():
    curves = built(started(), step(1, t=60.0), step(2, t=30.0), step(3, t=90.0))
    series = gather("loss", [Source("1 a", "●", None, curves)], "time")[0]
    assert series.x.tolist() == [1.0, 1.0, 1.5]
