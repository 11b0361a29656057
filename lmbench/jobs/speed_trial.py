"""How fast this machine trains, found out by training for a moment on text without sense:
``python -m lmbench.jobs.speed_trial``. What it measured is kept for `report.training_speed`, and is
what a training is judged by before any has run here.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from lmbench.config import TrainConfig
from lmbench.corpus.batches import batchify
from lmbench.model import build_model
from lmbench.model.device import choose_device
from lmbench.report.training_speed import Measured, operations, remember_trial
from lmbench.training import native
from lmbench.training.loss import DecoderLoss
from lmbench.training.objective import CrossEntropy
from lmbench.training.optimizer import build_optimizer
from lmbench.training.precision import choose_precision
from lmbench.training.process_setup import compute_in, prepare_worker
from lmbench.training.regularisation import Regularisation
from lmbench.training.trainer import Splits, Trainer

__all__ = ["measure"]

# So many words has WikiText-2; the decoder over them is most of the arithmetic.
_WORDS = 33_278
# The first batches compile kernels and wake libraries.
_WARM, _LEAST = 3, 5
_SECONDS = 1.0
_MOST = 2000


def measure(config: TrainConfig | None = None, words: int = _WORDS) -> Measured:
    """Train a model on random words for about a second; the default settings' where none are
    given."""
    config = config or TrainConfig()
    device = choose_device(config)
    prepare_worker(threads=config.threads, device=str(device))
    precision = choose_precision("auto", device)
    compute_in(precision)
    torch.manual_seed(0)
    windows = 1 + (_WARM + _MOST) * config.bptt
    ids = torch.randint(words, (windows * config.batch_size,)).numpy()
    rows = batchify(ids, config.batch_size, device)
    model = build_model(config, words).to(device)
    trainer = Trainer(
        model,
        Splits(rows, rows, rows),
        config,
        CrossEntropy(DecoderLoss(precision, into_grad=True), Regularisation.of(config)),
        Path(tempfile.gettempdir()),
        emit=lambda event: None,
        control=lambda: None,
        log_offset=lambda: 0,
        optimizer=build_optimizer(model, config),
    )
    model.train()
    trainer.begin_epoch()
    for _ in range(_WARM):
        float(trainer.batch())
    times: list[float] = []
    while len(times) < _LEAST or (sum(times) < _SECONDS and len(times) < _MOST):
        began = time.perf_counter()
        # Asking for the loss waits for the device.
        float(trainer.batch())
        times.append(time.perf_counter() - began)
    # The fastest: other work on the machine, now, would else be believed for ever.
    rate = config.bptt * config.batch_size / min(times)
    cost = operations(config, words)
    return Measured(
        "a trial", str(device), config.precision, cost, rate, time.time(), config.batch_size,
        config.bptt, config.nlayers,
    )  # fmt: skip


def main() -> None:
    if choose_device(TrainConfig()).type == "cpu":
        # As a training has them.
        native.enable_kernels()
    remember_trial(measure())


if __name__ == "__main__":
    main()
