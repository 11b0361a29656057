"""A small model with words, as a runtime's input and as a packed file."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from lmbench.config import PackConfig
from lmbench.deploy.load_model import LoadedModel
from lmbench.deploy.packed_file.writing import write_packed
from lmbench.model.rnn import RNNModel, shape_of

WORDS = ["<eos>", "<unk>", "the", "then", "there", "cat", "mat", "sat", "on", *map(str, range(60))]


def loaded(
    kind: str = "LSTM",
    words: list[str] = WORDS,
    *,
    tied: bool = True,
    nhid: int = 24,
    projection: bool = False,
) -> LoadedModel:
    """A model with random weights, so that its predictions differ from word to word."""
    torch.manual_seed(5)
    emsize = nhid if tied and not projection else 16
    net = RNNModel(kind, len(words), emsize, nhid, 2, 0.2, tied, projection)
    with torch.no_grad():
        net.decoder.bias.normal_(std=0.5)
        for p in net.parameters():
            p.mul_(2.0)
    net.eval().requires_grad_(False)
    return LoadedModel(net, words, shape_of(net), "tiny", Path("tiny"))


def packed(path: Path, model: LoadedModel, **settings: object) -> Path:
    """The same as a packed file."""
    config = PackConfig.model_validate(settings)
    write_packed(model.recurrent, model.vocabulary, path, config)
    return path


def sentences(count: int, seed: int = 1, words: list[str] = WORDS) -> list[str]:
    """Lines of words, some unknown, some empty."""
    generator = random.Random(seed)
    given = [*words[2:], *["unheard-of"] * 5]
    return [" ".join(generator.choices(given, k=generator.randrange(12))) for _ in range(count)]
