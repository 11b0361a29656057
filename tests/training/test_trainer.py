"""The training loop keeps the original's protocol, and resumes to the bit."""

from __future__ import annotations

import copy
import itertools
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from schedules import policy
from training_world import (
    AGP,
    REGULARISED,
    WORDS,
    Recorder,
    plain_losses,
    resumed_as_uninterrupted,
    small,
    splits,
    text,
    trainer,
)

from lmbench.corpus.batches import batchify
from lmbench.errors import LmbenchError
from lmbench.model import build_model
from lmbench.session.events import Epoch, Step
from lmbench.training import speed_meter
from lmbench.training import trainer as trainer_module
from lmbench.training.cuda_graph import GraphedUpdate
from lmbench.training.distillation import Distillation
from lmbench.training.evaluate import Evaluation, evaluate
from lmbench.training.objective import Objective

MODELS = ("LSTM", "GRU", "RNN_TANH", "RNN_RELU")


# The original's learning rate makes training chaotic: a rounding grows until the losses differ;
# `--precision exact` alone is equal to the end.
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("precision, lr, within", [("exact", 20.0, 0.0), ("fp32", 1.0, 1e-5)])
def test_losses_are_those_of_the_plain_loop(
    precision: str, lr: float, within: float, model: str, tmp_path: Path
) -> None:
    """In exact precision bit for bit."""
    config = small(model=model, tied=True, epochs=1, event_interval=1, lr=lr, precision=precision)
    recorder = Recorder()
    trainer(config, tmp_path, recorder).run()
    ours = [event.loss for event in recorder.of(Step)]
    assert len(ours) == 25
    expected = plain_losses(config, splits(config).train, WORDS, 25)
    assert ours == pytest.approx(expected, rel=0.0, abs=within)


def test_perplexity_falls_from_epoch_to_epoch(tmp_path: Path) -> None:
    recorder = Recorder()
    trainer(small(lr=0.2, dropout=0.0), tmp_path, recorder).run()
    ppl = [event.valid_ppl for event in recorder.of(Epoch)]
    assert len(ppl) == 3
    assert ppl == sorted(ppl, reverse=True)


def test_log_lines_come_at_their_own_interval_whatever_that_of_the_events(tmp_path: Path) -> None:
    each, seldom = Recorder(), Recorder()
    trainer(small(epochs=1, event_interval=1, log_interval=7), tmp_path, each).run()
    trainer(small(epochs=1, event_interval=5, log_interval=7), tmp_path, seldom).run()
    losses = [event.loss for event in each.of(Step)]
    assert len(losses) >= 14
    for recorder in (each, seldom):
        found = [re.findall(r"([\d.]+)/.*loss +([\d.]+)", line) for line in recorder.lines]
        lines = [(int(match[0][0]), float(match[0][1])) for match in found if match]
        assert [batch for batch, _ in lines] == list(range(7, len(losses) + 1, 7))
        for batch, loss in lines:
            assert loss == pytest.approx(sum(losses[batch - 7 : batch]) / 7, abs=0.006)


def test_the_time_that_a_run_waits_counts_as_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count()
    waited = [0]
    monkeypatch.setattr(
        speed_meter, "time", SimpleNamespace(perf_counter=lambda: float(next(clock) + waited[0]))
    )

    class Paused(Recorder):
        def control(self) -> str | None:
            waited[0] += 1_000_000
            return super().control()

    recorder = Paused()
    trainer(small(epochs=1, event_interval=5, log_interval=5), tmp_path, recorder).run()
    assert recorder.of(Epoch)[0].seconds < 1000
    rates = [float(r) for line in recorder.lines for r in re.findall(r"ms/batch +([\d.]+)", line)]
    assert len(rates) == 5
    assert max(rates) < 1_000_000
    assert all(event.tokens_per_s > 0.01 for event in recorder.of(Step))


def test_the_first_rate_after_a_resume_is_of_what_was_worked_on_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed_meter.Meter, "rate", lambda meter, tokens: float(tokens))
    config = small(epochs=1, event_interval=5)
    stopped = Recorder(stop_after=9)
    trainer(config, tmp_path, stopped).run()
    resumed = Recorder()
    again = trainer(config, tmp_path, resumed)
    again.restore(tmp_path / "last")
    assert again.position.batch == 9
    again.run()
    first, second = [event.tokens_per_s for event in resumed.of(Step)[:2]]
    assert 5 * first == second == 5 * config.bptt * config.batch_size


@pytest.mark.parametrize(
    "schedule, more",
    [
        pytest.param(None, {}, id="dense"),
        pytest.param(AGP, REGULARISED, id="pruned-regularised"),
        pytest.param(None, REGULARISED, id="dense-regularised", marks=pytest.mark.slow),
        pytest.param(AGP, {}, id="pruned", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(
    schedule: dict[str, Any] | None, more: dict[str, Any], tmp_path: Path
) -> None:
    config = small(momentum=0.5, weight_decay=1e-4, dropout=0.3, lr=1.0, **more)
    resumed_as_uninterrupted(config, tmp_path, (1, 10, 25, 26, 40, 70), schedule)


def test_the_levels_of_a_policy_hold_where_a_run_resumes_within_an_epoch(tmp_path: Path) -> None:
    arguments = {"levels": {"encoder.weight": 0.3}, "mini_batch_pruning_frequency": 5}
    schedule = {
        "version": 1,
        "pruners": {
            "p": {"class": "SparsityLevelParameterPruner", "levels": {"encoder.weight": 0.9}}
        },
        "policies": [policy("pruner", "p", 0, 2, **arguments)],
    }
    resumed_as_uninterrupted(small(lr=1.0), tmp_path, (8, 30), schedule)


@pytest.mark.parametrize("more", [{}, REGULARISED], ids=["plain", "regularised"])
def test_pruned_weights_stay_exactly_zero_and_the_best_is_the_sparsest(
    more: dict[str, Any], tmp_path: Path
) -> None:
    """Under weight drop, too, and what it drops of the others for a window is there again."""
    config = small(momentum=0.5, weight_decay=1e-3, lr=1.0, epochs=4, **more)
    recorder = Recorder()
    pruned = trainer(config, tmp_path, recorder, schedule=AGP)
    pruned.run()
    best = load_file(tmp_path / "best" / "model.safetensors")
    for name in ("rnn.weight_hh_l0", "encoder.weight"):
        assert int((best[name] == 0).sum()) == int(0.6 * best[name].numel())
    assert recorder.of(Epoch)[-1].best_epoch >= 3


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    tmp_path: Path,
) -> None:
    config = small(epochs=2)
    trainer(config, tmp_path, Recorder(26)).run()
    kept = (tmp_path / "last" / "model.safetensors").read_bytes()
    broken = trainer(config, tmp_path, Recorder())
    broken.restore(tmp_path / "last")
    with torch.no_grad():
        broken.model.decoder.bias[3] = math.nan
    with pytest.raises(LmbenchError, match=r"step 26 \(epoch 2\): loss nan.*learning rate 5"):
        broken.run()
    assert (tmp_path / "last" / "model.safetensors").read_bytes() == kept


@pytest.mark.parametrize("clip, advice", [(0.25, "--lr or --clip$"), (0, "--clip such as 0.25$")])
def test_a_validation_that_is_not_finite_keeps_the_last_checkpoint(
    clip: float, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(epochs=2, clip=clip)
    trainer(config, tmp_path, Recorder(26)).run()
    kept = (tmp_path / "last" / "model.safetensors").read_bytes()
    broken = trainer(config, tmp_path, Recorder())
    broken.restore(tmp_path / "last")
    monkeypatch.setattr(
        "lmbench.training.trainer.evaluate", lambda *_: Evaluation(math.nan, 10, 1.0)
    )
    with pytest.raises(LmbenchError, match=rf"valid is nan.*is kept.*{advice}"):
        broken.run()
    assert (tmp_path / "last" / "model.safetensors").read_bytes() == kept


def test_a_save_within_an_epoch_never_puts_nan_over_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(epochs=2, event_interval=1000)
    trainer(config, tmp_path, Recorder(26)).run()
    kept = (tmp_path / "last" / "model.safetensors").read_bytes()
    recorder = Recorder(stop_after=3)
    broken = trainer(config, tmp_path, recorder)
    broken.restore(tmp_path / "last")
    # As on CUDA, where no batch is looked at by itself.
    monkeypatch.setattr(broken, "_check_finite", lambda loss, norm: None)
    with torch.no_grad():
        broken.model.decoder.bias[3] = math.nan
    with pytest.raises(LmbenchError, match=r"step 28 \(epoch 2\): loss nan.*is kept"):
        broken.run()
    assert recorder.calls == 3
    assert (tmp_path / "last" / "model.safetensors").read_bytes() == kept


@pytest.mark.parametrize("bptt", [1, 5, 7, 49, 1000])
def test_evaluation_counts_every_predicted_token_once_for_any_window(bptt: int) -> None:
    torch.manual_seed(0)
    model = build_model(small(), WORDS)
    data = batchify(text(200).numpy(), 4)  # 50 rows: 49 predicted, a multiple of 7
    result = evaluate(model, data, bptt)
    model.eval()
    with torch.no_grad():
        logits, _ = model(data[:-1], model.init_hidden(4))
        expected = F.cross_entropy(logits.reshape(-1, WORDS), data[1:].reshape(-1)).item()
    assert result.tokens == 49 * 4
    assert result.loss == pytest.approx(expected, rel=1e-6)
    assert result.ppl == pytest.approx(math.exp(expected), rel=1e-6)


@pytest.mark.parametrize(
    "objective, schedule, graphed",
    [("entropy", None, True), ("entropy", AGP, False), ("exact", None, False),
     ("teacher", None, False)],
    ids=["plain", "pruned", "exact", "taught"],
)  # fmt: skip
def test_updates_are_graphed_only_where_gradients_lie_still(
    objective: str,
    schedule: dict[str, Any] | None,
    graphed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where they move from step to step, graphs would be captured again and again."""
    made: list[float] = []

    class Made(GraphedUpdate):
        def __init__(self, optimizer: torch.optim.Optimizer, clip: float) -> None:
            made.append(clip)

        @staticmethod
        def fits(optimizer: torch.optim.Optimizer) -> bool:
            return True

    monkeypatch.setattr(trainer_module, "GraphedUpdate", Made)
    config = small(precision="exact" if objective == "exact" else "fp32")
    taught: Objective | None = None
    if objective == "teacher":
        taught = Distillation(build_model(config, WORDS), 2.0, 0.5)
    trainer(config, tmp_path, Recorder(), schedule=schedule, objective=taught)
    assert made == [config.clip] * graphed


HALVED = {
    "version": 1,
    "lr_schedulers": {"half": {"class": "ExponentialLR", "gamma": 0.5}},
    "policies": [policy("lr_scheduler", "half", 0, 3)],
}


@pytest.mark.parametrize(
    "settings, schedule", [({"decay": 0.5}, None), ({}, HALVED), ({"lr_schedule": "linear"}, None)]
)
def test_the_event_of_an_epoch_has_the_rate_of_its_last_step(
    settings: dict[str, Any], schedule: dict[str, Any] | None, tmp_path: Path
) -> None:
    recorder = Recorder()
    trainer(small(event_interval=1, **settings), tmp_path, recorder, schedule=schedule).run()
    last = {step.epoch: step.lr for step in recorder.of(Step)}
    assert [epoch.lr for epoch in recorder.of(Epoch)] == list(last.values())
    if "lr_schedule" not in settings:
        assert list(last.values()) == [5.0, 2.5, 1.25]


def test_a_window_of_another_length_has_a_learning_rate_in_proportion(tmp_path: Path) -> None:
    """The schedule, events and checkpoints know the run's own."""
    config = small(bptt_spread=3.0, dropout=0.0, clip=0.0, lr=1.0, event_interval=1)
    recorder = Recorder()
    one = trainer(config, tmp_path, recorder)
    model = one.model.train()
    one.begin_epoch()
    seen: set[int] = set()
    for _ in range(one.batches_per_epoch):
        before = {name: value.clone() for name, value in model.named_parameters()}
        tokens = one.position.tokens
        one.batch()
        length = (one.position.tokens - tokens) // config.batch_size
        seen.add(length)
        assert one.lr == 1.0
        for name, value in model.named_parameters():
            assert value.grad is not None
            expected = before[name] - length / 7 * value.grad
            torch.testing.assert_close(value.detach(), expected)
    assert len(seen) > 3
    assert one.position.tokens == (len(splits(config).train) - 1) * config.batch_size


KEPT = {"mask_on_forward_only": True, "keep_mask": True}
LEVEL = {"class": "SparsityLevelParameterPruner", "levels": {"encoder.weight": 0.8}}
LASSO = {
    "class": "L1Regularizer",
    "reg_regims": {"encoder.weight": 1e-6},
    "threshold_criteria": "Max",
}


@pytest.mark.parametrize(
    "schedule",
    [
        {"pruners": {"p": LEVEL}, "policies": [policy("pruner", "p", 0, 3, **KEPT)]},
        {
            "regularizers": {"r": {**LASSO, "reg_regims": {"encoder.weight": 0.5}}},
            "policies": [policy("regularizer", "r", 1, 3, keep_mask=True)],
        },
    ],
    ids=["level", "regularizer"],
)
def test_the_best_is_pruned_where_masks_stay_however_good_the_dense_ones_were(
    schedule: dict[str, Any], tmp_path: Path
) -> None:
    recorder = Recorder()
    config = small(lr=1.0, epochs=5)
    trainer(config, tmp_path, recorder, schedule={"version": 1, **schedule}).run()
    last = load_file(tmp_path / "last" / "model.safetensors")["encoder.weight"]
    best = load_file(tmp_path / "best" / "model.safetensors")["encoder.weight"]
    assert recorder.of(Epoch)[-1].best_epoch >= 3
    assert (last == 0).float().mean() > 0.5
    assert (best == 0).sum() == (last == 0).sum()


@pytest.mark.parametrize(
    "more", [{}, {"nonmono": 0, "lr": 40.0, "decay": 1.0}], ids=["plain", "averaged"]
)
def test_weights_that_train_in_a_copy_are_scored_and_kept_masked(
    more: dict[str, Any], tmp_path: Path
) -> None:
    """And train on as if they had not been: `last/` has the copy."""
    schedule = copy.deepcopy(AGP)
    args = {"use_double_copies": True, "mini_batch_pruning_frequency": 5}
    schedule["policies"][0].update(ending_epoch=4)
    schedule["policies"][0]["pruner"]["args"] = {**KEPT, **args}
    config = small(epochs=5, **more)
    recorder = resumed_as_uninterrupted(config, tmp_path, (30, 60, 110), schedule)
    whole = tmp_path / "whole"
    stopped = Recorder(stop_after=30)
    (tmp_path / "scored").mkdir()
    early = trainer(config, tmp_path / "scored", stopped, schedule=schedule)
    early.run()
    assert (early.model.get_parameter("rnn.weight_hh_l0") == 0).sum() == 0
    [first] = stopped.of(Epoch)
    assert first.valid_loss == recorder.of(Epoch)[0].valid_loss
    early.load_best()
    weight = early.model.get_parameter("rnn.weight_hh_l0")
    assert int((weight == 0).sum()) == int(0.05 * weight.numel())
    scored = evaluate(early.model, splits(config).valid, config.bptt)
    assert scored.loss == pytest.approx(first.valid_loss, abs=1e-6)
    best = load_file(whole / "best" / "model.safetensors")["rnn.weight_hh_l0"]
    assert int((best == 0).sum()) == int(0.6 * best.numel())


def test_the_loss_that_is_noted_is_of_the_masks_that_stay(tmp_path: Path) -> None:
    """Masks that fall in the forward pass alone leave weights that the last epoch prunes."""
    schedule = copy.deepcopy(AGP)
    schedule["policies"][0]["pruner"]["args"] = {"mask_on_forward_only": True, "keep_mask": True}
    recorder = Recorder()
    config = small(lr=20.0)
    trained = trainer(config, tmp_path, recorder, schedule=schedule)
    trained.run()
    last = recorder.of(Epoch)[-1]
    assert last.best_epoch == last.epoch == 3
    trained.load_best()
    weight = trained.model.get_parameter("rnn.weight_hh_l0")
    assert (weight == 0).float().mean() == pytest.approx(0.6, abs=0.01)
    kept = evaluate(trained.model, splits(config).valid, config.bptt)
    assert kept.loss == pytest.approx(last.valid_loss, abs=1e-6)
