"""Pruning on real English: most weights go, and little of the perplexity with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lmbench.config import TrainConfig, validate
from lmbench.corpus import Corpus, open_corpus
from lmbench.corpus.batches import batchify
from lmbench.distiller import file_config, preset_path
from lmbench.model import build_model, count_weights
from lmbench.training.checkpoint import load_weights
from lmbench.training.evaluate import evaluate
from lmbench.training.loss import DecoderLoss
from lmbench.training.objective import CrossEntropy
from lmbench.training.trainer import Splits, Trainer

# Trained from scratch for the same six epochs, the pruned model may be this much worse.
FACTOR = 1.15


def trained(corpus: Corpus, folder: Path, preset: str | None) -> tuple[float, float]:
    """(sparsity, test perplexity) of the best checkpoint, dense or under a preset."""
    folder.mkdir()
    config = validate(
        TrainConfig,
        {
            "emsize": 48,
            "nhid": 48,
            "tied": True,
            "epochs": 6,
            "batch_size": 40,
            "lr": 20.0,
            "checkpoint_every": 0.0,
        },
    )
    torch.manual_seed(config.seed)
    model = build_model(config, corpus.ntokens)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr)
    columns = {"train": config.batch_size, "valid": 10, "test": 10}
    splits = Splits(*(batchify(corpus.split(split), n) for split, n in columns.items()))
    Trainer(
        model,
        splits,
        config,
        CrossEntropy(DecoderLoss("fp32", into_grad=True)),
        folder,
        emit=lambda _event: None,
        control=lambda: None,
        log_offset=lambda: 0,
        optimizer=optimizer,
        scheduler=file_config(model, optimizer, preset_path(preset)) if preset else None,
        log=lambda _line: None,
    ).run()
    load_weights(model, folder / "best" / "model.safetensors")
    weights, nonzero, _ = count_weights(model)
    return 1.0 - nonzero / weights, evaluate(model, splits.test, config.bptt).ppl


@pytest.mark.slow
def test_a_model_pruned_to_70_percent_ends_close_to_the_dense_one(tmp_path: Path) -> None:
    corpus = open_corpus("pydoc", tmp_path)
    dense_sparsity, dense = trained(corpus, tmp_path / "dense", None)
    sparsity, pruned = trained(corpus, tmp_path / "pruned", "small-70")
    print(f"dense {dense:.2f}, {sparsity:.1%} sparse {pruned:.2f}: {pruned / dense:.3f}")
    assert dense_sparsity < 0.001
    assert 0.699 < sparsity < 0.701
    assert pruned < FACTOR * dense
