"""Averages of the weights: of which, from when on, under masks, and resumed to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from schedules import policy, quantizing
from torch import Tensor, nn
from training_world import (
    AGP,
    REGULARISED,
    WORDS,
    Recorder,
    resumed_as_uninterrupted,
    small,
    splits,
    trainer,
)

from lmbench.deploy.packed_file.trained_grid import trained_grids
from lmbench.distiller import CompressionScheduler
from lmbench.distiller.quantization.codes import nearest_levels
from lmbench.model import build_model
from lmbench.session.events import Epoch
from lmbench.training.averaging import Averages
from lmbench.training.evaluate import evaluate
from lmbench.training.trainer import Trainer

QUANTIZED = quantizing(9, bits_activations=None, bits_weights=8)
OF_CODES: dict[str, Any] = {"bits_weights": 2, "rounding": "codes", "group_size": 8}
CODES = quantizing(9, bits_activations=None, **OF_CODES)
LEARNED = quantizing(9, bits_activations=None, **OF_CODES, learned_scales=True)
# The rate is so high that some epoch is worse than the one before.
EARLY: dict[str, Any] = {"nonmono": 0, "epochs": 6, "lr": 40.0, "decay": 1.0}


def averaged_from(model: nn.Module) -> Averages:
    """Averages that have just begun."""
    averages = Averages(model, 0)
    assert not averages.judge(1.0, masks_changed=False)
    assert averages.judge(2.0, masks_changed=False)
    return averages


def test_the_averages_are_the_mean_of_the_weights_since_they_began() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    averages, seen = averaged_from(model), [model.weight.detach().clone()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        model(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
        seen.append(model.weight.detach().clone())
        averages.update(masks_changed=False)
    raw = model.weight.detach().clone()
    with averages.applied():
        torch.testing.assert_close(model.weight.detach(), torch.stack(seen).mean(0))
    assert torch.equal(model.weight, raw)


def test_they_are_those_of_torchs_asgd() -> None:
    """Which takes the weights after its first update in place of those before it."""
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    sgd = torch.optim.SGD(ours.parameters(), lr=0.1, weight_decay=0.01)
    asgd = torch.optim.ASGD(theirs.parameters(), lr=0.1, lambd=0.0, t0=0, weight_decay=0.01)
    averages: Averages | None = None
    for step in range(30):
        batch = torch.randn(4, 3)
        for model, optimizer in ((ours, sgd), (theirs, asgd)):
            optimizer.zero_grad()
            model(batch).square().sum().backward()
            optimizer.step()
        if averages is not None:
            averages.update(masks_changed=False)
        # Torch's average is of the weights from its second step on.
        elif step == 1:
            averages = averaged_from(ours)
    assert averages is not None
    with averages.applied():
        torch.testing.assert_close(ours.weight.detach(), asgd.state[theirs.weight]["ax"])


def begins_by_the_paper(losses: list[float], n: int) -> int | None:
    """Algorithm 1: at the check t, if t > n and v > min over l in {0, …, t - n - 1} of logs[l]."""
    logs: list[float] = []
    for t, loss in enumerate(losses):
        if t > n and loss > min(logs[: t - n]):
            return t
        logs.append(loss)
    return None


@given(st.lists(st.sampled_from([1.0, 1.5, 2.0, 2.5, 3.0]), max_size=20), st.integers(0, 6))
def test_averaging_begins_where_the_papers_algorithm_begins_it(losses: list[float], n: int) -> None:
    averages = Averages(nn.Linear(1, 1), n)
    begun = [averages.judge(loss, masks_changed=False) for loss in losses]
    assert (begun.index(True) if True in begun else None) == begins_by_the_paper(losses, n)


def test_it_never_begins_where_nobody_asks_for_it() -> None:
    averages = Averages(nn.Linear(1, 1), None)
    assert not any(averages.judge(loss, masks_changed=False) for loss in (1.0, 2.0, 3.0))


def test_losses_under_other_masks_do_not_count_and_new_masks_end_the_averaging() -> None:
    averages = Averages(nn.Linear(1, 1), 0)
    assert not averages.judge(1.0, masks_changed=False)
    assert not averages.judge(2.0, masks_changed=True)
    assert averages.judge(2.5, masks_changed=False)
    averages.update(masks_changed=True)
    assert not averages.active
    assert not averages.judge(3.0, masks_changed=True)
    assert averages.judge(3.5, masks_changed=False)


def train(
    folder: Path, schedule: dict[str, Any] | None = None, **more: Any
) -> tuple[Trainer, Recorder]:
    recorder = Recorder()
    made = trainer(small(**EARLY, **more), folder, recorder, schedule=schedule)
    assert made.run()
    return made, recorder


def raw_and_kept(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return tuple(  # type: ignore[return-value]
        load_file(folder / "last" / f"{name}.safetensors") for name in ("trained", "model")
    )


def test_the_averages_are_validated_and_kept_while_training_goes_on_from_the_raw_weights(
    tmp_path: Path,
) -> None:
    """Beside it the same training by hand: its raw weights are those of a run without averages."""
    plain, seen = Recorder(), []
    beside = trainer(small(**{**EARLY, "nonmono": None}), tmp_path / "plain", plain)
    update = beside._averages.update

    def note(*, masks_changed: bool) -> None:
        update(masks_changed=masks_changed)
        seen.append({n: p.detach().clone() for n, p in beside.model.named_parameters()})

    beside._averages.update = note  # type: ignore[method-assign]
    (tmp_path / "plain").mkdir()
    beside.run()
    losses = [event.valid_loss for event in plain.of(Epoch)]
    begun = begins_by_the_paper(losses, 0)
    assert begun is not None
    assert begun < 4

    made, recorder = train(tmp_path)
    assert sum("averaged" in line for line in recorder.lines) == 1
    raw, kept = raw_and_kept(tmp_path)
    assert all(torch.equal(raw[n], w) for n, w in seen[-1].items())
    since = seen[25 * (begun + 1) - 1 :]
    for name in raw:
        torch.testing.assert_close(kept[name], torch.stack([w[name] for w in since]).mean(0))
    found = [event.valid_loss for event in recorder.of(Epoch)]
    assert found[: begun + 1] == losses[: begun + 1]
    # Averages of a training that leaps about are better than where it has leapt to.
    assert min(found[begun + 1 :]) < min(losses)
    best = recorder.of(Epoch)[-1]
    assert best.best_epoch > begun
    assert not (tmp_path / "best" / "trained.safetensors").exists()
    made.load_best()
    again = evaluate(made.plain_model(), splits(small()).valid, 7)
    assert again.loss == pytest.approx(best.best_valid_loss, rel=1e-6)


def test_the_last_model_is_scored_with_its_averages(tmp_path: Path) -> None:
    made, recorder = train(tmp_path)
    made.keep_averages()
    kept = raw_and_kept(tmp_path)[1]
    assert all(torch.equal(kept[n], p) for n, p in made.model.named_parameters())
    assert made.plain_model() is made.model
    loss = evaluate(made.model, splits(small()).valid, 7).loss
    assert loss == pytest.approx(recorder.of(Epoch)[-1].valid_loss, rel=1e-6)


@pytest.mark.parametrize(
    "schedule, stops",
    [
        *((None, (10, 60, 100)), (AGP, (100, 140)), (LEARNED, (100,))),
        *(pytest.param(other, (100,), marks=pytest.mark.slow) for other in (QUANTIZED, CODES)),
    ],
)
def test_a_resumed_run_has_the_averages_of_an_uninterrupted_one_to_the_bit(
    schedule: dict[str, Any] | None, stops: tuple[int, ...], tmp_path: Path
) -> None:
    config = small(**EARLY, dropout=0.3, momentum=0.5)
    recorder = resumed_as_uninterrupted(config, tmp_path, stops, schedule)
    assert sum("averaged" in line for line in recorder.lines) == 1
    kept = load_file(tmp_path / "whole" / "last" / "trainer.safetensors")
    means = [name for name in kept if name.startswith("averages/means/")]
    assert means
    for stop_after in stops:
        other = load_file(tmp_path / f"stopped-{stop_after}" / "last" / "trainer.safetensors")
        assert all(torch.equal(kept[name], other[name]) for name in means)


@pytest.mark.parametrize("more", [{}, REGULARISED], ids=["plain", "regularised"])
def test_a_pruned_weight_is_zero_in_the_averages(more: dict[str, Any], tmp_path: Path) -> None:
    """Under weight drop, too."""
    made, _ = train(tmp_path, AGP, **more)
    raw, kept = raw_and_kept(tmp_path)
    best = load_file(tmp_path / "best" / "model.safetensors")
    for name in ("rnn.weight_hh_l0", "encoder.weight"):
        pruned = raw[name] == 0
        assert int(pruned.sum()) == int(0.6 * pruned.numel())
        assert bool((kept[name][pruned] == 0).all())
        assert bool((best[name][pruned] == 0).all())
        assert not torch.equal(kept[name], raw[name])
    assert made._averages.active


def test_averages_of_weights_that_could_come_back_end_with_their_last_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = {"use_double_copies": True, "mask_on_forward_only": True, "keep_mask": True}
    level = {"class": "SparsityLevelParameterPruner", "levels": {"rnn.weight_hh_l0": 0.5}}
    both = policy("pruner", "level", 0, 1, **args)
    both |= {"epochs": [0, 4], "starting_epoch": None, "ending_epoch": None, "frequency": None}
    active: list[bool] = []

    def save_and_look(trainer: Trainer) -> None:
        save(trainer)
        active.append(trainer._averages.active)

    save = Trainer.save
    monkeypatch.setattr(Trainer, "save", save_and_look)
    schedule = {"version": 1, "pruners": {"level": level}, "policies": [both]}
    made = trainer(small(**EARLY), tmp_path, Recorder(), schedule=schedule)
    made.run()
    assert active[3]
    assert not active[4]


def test_masks_hold_for_averages_that_are_of_denser_weights() -> None:
    """As where a pruner takes weights in the place of others, which is no new level."""
    model = nn.Linear(4, 4)
    scheduler = CompressionScheduler(model)
    averages = Averages(model, 0, scheduler)
    averages.judge(1.0, masks_changed=False)
    assert averages.judge(2.0, masks_changed=False)
    scheduler.zeros_mask_dict["weight"].mask = torch.eye(4) > 0
    with averages.applied():
        assert int((model.weight == 0).sum()) == 12
    assert int((model.weight == 0).sum()) == 0


def test_averages_are_of_the_dense_weights_where_the_model_holds_masked_ones() -> None:
    model = nn.Linear(4, 4, bias=False)
    scheduler = CompressionScheduler(model)
    averages = Averages(model, 0, scheduler)
    masker, dense = scheduler.zeros_mask_dict["weight"], model.weight.detach().clone()
    masker.use_double_copies, masker.mask = True, torch.eye(4) > 0
    masker.apply_mask(model.weight)
    averages.judge(1.0, masks_changed=False)
    assert averages.judge(2.0, masks_changed=False)
    averages.update(masks_changed=False)
    assert torch.equal(averages.state()["means"]["weight"], dense)
    # Validated under the mask of now.
    masker.mask = ~masker.kept(dense)
    with averages.applied():
        assert torch.equal(model.weight, dense * masker.kept(dense))


def test_a_model_that_is_quantized_while_it_trains_keeps_the_image_of_its_averages(
    tmp_path: Path,
) -> None:
    made, recorder = train(tmp_path, QUANTIZED)
    quantizer = made.scheduler.quantizer if made.scheduler else None
    assert quantizer is not None
    kept = load_file(tmp_path / "last" / "model.safetensors")
    with made._averages.applied():
        image = quantizer.plain_model().state_dict()
    assert all(torch.equal(kept[name], image[name]) for name in kept)
    # best/ has the averages as floats, too, whose image it is.
    made.load_best()
    best = load_file(tmp_path / "best" / "model.safetensors")
    plain = made.plain_model().state_dict()
    assert all(torch.equal(best[name], plain[name]) for name in best)
    assert evaluate(made.plain_model(), splits(small()).valid, 7).loss == pytest.approx(
        recorder.of(Epoch)[-1].best_valid_loss, rel=1e-6
    )


@pytest.mark.parametrize("schedule", [CODES, LEARNED], ids=["fitted", "learned"])
def test_averages_become_codes_by_the_scales_that_they_were_trained_with(
    schedule: dict[str, Any], tmp_path: Path
) -> None:
    """Those that were fitted to the raw weights; learned ones are averaged as weights are."""
    made, _ = train(tmp_path, schedule, **REGULARISED)
    means = made._averages.state()["means"]
    model = build_model(small(), WORDS)
    for which in ("last", "best"):
        kept = load_file(tmp_path / which / "model.safetensors")
        trained = load_file(tmp_path / which / "trained.safetensors")
        model.load_state_dict(kept)
        found = trained_grids(model, trained)
        matrices = [name for name, tensor in kept.items() if tensor.dim() == 2]
        assert found.values == dict.fromkeys(matrices, "code2")
    kept, held = (load_file(tmp_path / "last" / f"{n}.safetensors") for n in ("model", "trained"))
    unit, steps = held["encoder.code_unit"], held["encoder.code_steps"]
    levels = nearest_levels(means["encoder.float_weight"], unit, steps[:2], 8, pruned=True)
    assert torch.equal(kept["encoder.weight"], levels * unit)
    # The training itself goes on with the scales of its raw weights.
    assert made.scheduler is not None
    assert made.scheduler.quantizer is not None
    made.scheduler.quantizer.quantize_params()
    assert torch.equal(made.model.get_buffer("encoder.code_steps"), steps) == (schedule is CODES)


def _other_shape(state: dict[str, Any]) -> None:
    state["means"] = {name: mean[:1] for name, mean in state["means"].items()}


@pytest.mark.parametrize(
    "damage",
    [_other_shape, lambda state: state.update(count=-1), lambda state: state.update(means={})],
    ids=["shape", "count", "none"],
)
def test_averages_of_another_model_are_refused(
    damage: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    model = nn.Linear(3, 2)
    state = averaged_from(model).state()
    damage(state)
    with pytest.raises(ValueError, match="its averages"):
        Averages(model, 0).load(state)


def test_a_run_that_an_earlier_version_began_goes_on(tmp_path: Path) -> None:

    config = small()
    trainer(config, tmp_path, Recorder(10)).run()
    file = tmp_path / "last" / "trainer.json"
    state = json.loads(file.read_text())
    del state["averages"]
    file.write_text(json.dumps(state))
    resumed = trainer(config, tmp_path, Recorder())
    resumed.restore(tmp_path / "last")
    assert resumed.run()


def test_the_averages_leave_no_trace_where_they_are_not_asked_for(tmp_path: Path) -> None:
    trainer(small(epochs=1), tmp_path, Recorder()).run()
    assert not (tmp_path / "last" / "trained.safetensors").exists()
    state = load_file(tmp_path / "last" / "trainer.safetensors")
    assert not any(name.startswith("averages") for name in state)
