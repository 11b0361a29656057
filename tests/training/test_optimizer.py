"""A training updates as torch's own optimizers do, and goes on with their state."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from training_world import AGP, WORDS, Recorder, resumed_as_uninterrupted, small, splits, trainer

from lmbench.config import TrainConfig, validate
from lmbench.corpus.batches import windows
from lmbench.errors import LmbenchError
from lmbench.model import build_model, detach
from lmbench.session.events import Step
from lmbench.training.cuda_graph import GraphedUpdate
from lmbench.training.optimizer import build_optimizer
from lmbench.training.step import is_plain_sgd

ADAMW: dict[str, Any] = {"optimizer": "adamw", "lr": 0.01, "beta1": 0.8, "beta2": 0.95}


@pytest.mark.parametrize(
    "given", [{}, {"momentum": 0.5}, ADAMW], ids=["plain", "momentum", "adamw"]
)
def test_a_fused_step_says_that_it_changed_the_weights(given: dict[str, Any]) -> None:
    """As the steps on CUDA are; a quantizer's image is made anew where a weight's version is."""
    model = build_model(small(**given), WORDS)
    optimizer = build_optimizer(model, small(**given))
    for group in optimizer.param_groups:
        group["fused"] = True
    weights = list(model.parameters())
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    before = [(weight._version, weight.detach().clone()) for weight in weights]
    optimizer.step()
    for weight, (version, values) in zip(weights, before, strict=True):
        assert not torch.equal(weight, values)
        assert weight._version > version


def test_adamw_is_torchs_own_bit_for_bit(tmp_path: Path) -> None:
    """With its decay decoupled: the weights shrink by the rate times the decay at each step."""
    config = small(**ADAMW, weight_decay=0.3, epochs=1, event_interval=1, precision="exact")
    torch.manual_seed(config.seed)
    model = build_model(config, WORDS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.8, 0.95), weight_decay=0.3)
    hidden, losses = model.init_hidden(config.batch_size), []
    for input, target in windows(splits(config).train, config.bptt):
        optimizer.zero_grad()
        logits, hidden = model(input, detach(hidden))
        loss = F.nll_loss(F.log_softmax(logits.view(-1, WORDS), dim=1), target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        losses.append(loss.item())
    recorder = Recorder()
    trainer(config, tmp_path, recorder).run()
    assert [event.loss for event in recorder.of(Step)] == losses
    kept = load_file(tmp_path / "last" / "model.safetensors")
    assert all(torch.equal(kept[n], p) for n, p in model.named_parameters())


@pytest.mark.parametrize("schedule", [None, AGP], ids=["dense", "pruned"])
def test_adamw_resumes_to_the_bit(schedule: dict[str, Any] | None, tmp_path: Path) -> None:
    config = small(**ADAMW, weight_decay=0.1, dropout=0.3)
    resumed_as_uninterrupted(config, tmp_path, (10, 26), schedule)
    if schedule:
        a = load_file(tmp_path / "whole" / "last" / "model.safetensors")
        assert int((a["encoder.weight"] == 0).sum()) == int(0.6 * a["encoder.weight"].numel())


@pytest.mark.parametrize(
    "settings, plain",
    [({}, True), ({"weight_decay": 0.1}, True), ({"momentum": 0.5}, False), (ADAMW, False)],
    ids=["sgd", "decayed", "momentum", "adamw"],
)
def test_only_plain_sgd_takes_the_fast_ways(settings: dict[str, Any], plain: bool) -> None:
    config = small(**settings)
    optimizer = build_optimizer(build_model(config, WORDS), config)
    assert is_plain_sgd(optimizer) == plain
    assert not GraphedUpdate.fits(optimizer)  # It lies on the CPU.
    on_a_card = SimpleNamespace(device=torch.device("cuda"))
    optimizer.param_groups[:] = [{**optimizer.param_groups[0], "params": [on_a_card]}]
    assert GraphedUpdate.fits(optimizer) == plain


def test_a_rate_of_sgd_is_refused_for_adamw() -> None:
    with pytest.raises(LmbenchError, match=r"--lr 20: is a rate for SGD; .* --lr 0.001"):
        validate(TrainConfig, {"optimizer": "adamw"})
