"""A small corpus, and trainings of small models on it that take a second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from schedules import policy

from lmbench.config import TrainConfig, validate
from lmbench.corpus.batches import batchify, windows
from lmbench.distiller import dict_config
from lmbench.model import RNNModel, build_model, detach
from lmbench.session.events import Epoch, Event, PruneStep, Step
from lmbench.session.files import read_json
from lmbench.training.checkpoint import CHECKPOINT_VERSION
from lmbench.training.loss import DecoderLoss
from lmbench.training.objective import CrossEntropy, ExactCrossEntropy, Objective
from lmbench.training.optimizer import build_optimizer
from lmbench.training.regularisation import Regularisation
from lmbench.training.sparsity_event import sparsity_event
from lmbench.training.trainer import Splits, Trainer

WORDS = 60
SMALL: dict[str, Any] = {
    "emsize": 16,
    "nhid": 16,
    "nlayers": 2,
    "batch_size": 4,
    "eval_batch_size": 4,
    "bptt": 7,
    "epochs": 3,
    "lr": 5.0,
    "event_interval": 3,
    "checkpoint_every": 0.0,
}
REGULARISED: dict[str, Any] = {
    "bptt_spread": 2.0,
    "dropouti": 0.3,
    "dropouth": 0.2,
    "dropouto": 0.3,
    "dropoute": 0.1,
    "wdrop": 0.4,
    "alpha": 2.0,
    "beta": 1.0,
}
AGP = {
    "version": 1,
    "pruners": {
        "agp": {
            "class": "AutomatedGradualPruner",
            "initial_sparsity": 0.05,
            "final_sparsity": 0.6,
            "weights": ["rnn.weight_hh_l0", "encoder.weight"],
        }
    },
    "policies": [policy("pruner", "agp", 0, 3)],
}


def small(**changes: Any) -> TrainConfig:
    return validate(TrainConfig, {**SMALL, **changes})


def text(tokens: int, seed: int = 0) -> torch.Tensor:
    """Ids with something to learn: some words are much more frequent than others."""
    draws = torch.rand(tokens, generator=torch.Generator().manual_seed(seed))
    return (WORDS * draws**3).long()


def splits(config: TrainConfig) -> Splits:
    return Splits(
        batchify(text(700).numpy(), config.batch_size),
        batchify(text(200, 1).numpy(), config.eval_batch_size),
        batchify(text(200, 2).numpy(), config.eval_batch_size),
    )


def plain_losses(config: TrainConfig, rows: torch.Tensor, words: int, batches: int) -> list[float]:
    """Losses of the loop as PyTorch's example writes it: log-softmax, NLL, SGD by hand."""
    torch.manual_seed(config.seed)
    model = build_model(config, words).train()
    hidden, losses = model.init_hidden(config.batch_size), []
    for input, target in islice(windows(rows, config.bptt), batches):
        hidden = detach(hidden)
        model.zero_grad()
        logits, hidden = model(input, hidden)
        loss = F.nll_loss(F.log_softmax(logits.view(-1, words), dim=1), target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.add_(parameter.grad, alpha=-config.lr)
        losses.append(loss.item())
    return losses


class Recorder:
    """Takes the events of a trainer, and has it stopped after a number of batches."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.events: list[Event] = []
        self.lines: list[str] = []
        self.calls = 0
        self.stop_after = stop_after

    def control(self) -> str | None:
        self.calls += 1
        return "stop" if self.calls == self.stop_after else None

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def trainer(
    config: TrainConfig,
    folder: Path,
    recorder: Recorder,
    *,
    schedule: dict[str, Any] | None = None,
    prepare: Callable[[RNNModel], None] | None = None,
    objective: Objective | None = None,
) -> Trainer:
    torch.manual_seed(config.seed)
    if objective is None:
        exact = config.precision == "exact"
        loss = DecoderLoss("fp32", into_grad=True)
        regularised = Regularisation.of(config)
        objective = ExactCrossEntropy(regularised) if exact else CrossEntropy(loss, regularised)
    model = build_model(config, WORDS)
    if prepare:
        prepare(model)
    optimizer = build_optimizer(model, config)
    return Trainer(
        model,
        splits(config),
        config,
        objective,
        folder,
        emit=recorder.events.append,
        control=recorder.control,
        log_offset=lambda: len(recorder.events),
        optimizer=optimizer,
        scheduler=dict_config(model, optimizer, schedule) if schedule else None,
        sparsity=sparsity_event,
        log=recorder.lines.append,
    )


def comparable(events: list[Event]) -> list[tuple[Any, ...]]:
    """What must be equal between an interrupted run and one that was not: all but the clock."""
    kept: list[tuple[Any, ...]] = []
    for e in events:
        if isinstance(e, Step):
            kept.append((e.step, e.epoch, e.batch, e.loss, e.lr, e.grad_norm))
        elif isinstance(e, Epoch):
            kept.append((e.step, e.train_loss, e.valid_loss, e.lr, e.best_epoch))
        elif isinstance(e, PruneStep):
            kept.append((e.step, e.param, e.target, e.reached))
    return kept


def left_by(run: Path) -> dict[str, Any]:
    """What the next step of a run would go on from, beside tensors: all but clock and log."""
    state = read_json(run / "last" / "trainer.json", version=CHECKPOINT_VERSION)
    del state["place"]["seconds"], state["log_offset"]
    return state


def resumed_as_uninterrupted(
    config: TrainConfig,
    folder: Path,
    stops: Sequence[int],
    schedule: dict[str, Any] | None = None,
    objective: Callable[[], Objective] | None = None,
) -> Recorder:
    """Train at one go, and stopped after so many batches and resumed, for each of `stops`: events
    and weights are equal to the bit. Gives what the first one told; the runs are in the folders
    ``whole`` and ``stopped-N``."""

    def train_in(name: str, recorder: Recorder) -> Trainer:
        own = objective() if objective else None
        return trainer(config, folder / name, recorder, schedule=schedule, objective=own)

    whole = Recorder()
    (folder / "whole").mkdir()
    train_in("whole", whole).run()
    for stop_after in stops:
        first, second, name = Recorder(stop_after), Recorder(), f"stopped-{stop_after}"
        (folder / name).mkdir()
        assert not train_in(name, first).run()
        resumed = train_in(name, second)
        offset = resumed.restore(folder / name / "last")
        assert resumed.run()
        found = comparable(first.events[:offset] + second.events)
        assert found == comparable(whole.events), name
        for which in ("last", "best"):
            files = sorted(file.name for file in (folder / "whole" / which).glob("*.safetensors"))
            assert files == sorted(f.name for f in (folder / name / which).glob("*.safetensors"))
            for file in files:
                a = load_file(folder / "whole" / which / file)
                b = load_file(folder / name / which / file)
                assert a.keys() == b.keys()
                assert all(torch.equal(a[key], b[key]) for key in a), (name, which, file)
        assert left_by(folder / name) == left_by(folder / "whole"), name
    return whole
