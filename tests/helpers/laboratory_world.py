"""A run with a model that predicts unevenly, and what a laboratory says of it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lmbench.config import TrainConfig
from lmbench.corpus import open_corpus
from lmbench.jobs.hosts.laboratory_messages import MESSAGES, Message, OpenModel, Progress
from lmbench.model.rnn import RNNModel, shape_of
from lmbench.session import Home, Run
from lmbench.session.store import Corpus

TOKENS, CALIBRATION = 600, 800


def trained(path: Path, kind: str) -> Run:
    """A run with such a model, and its corpus."""
    home = Home(path)
    rng = random.Random(5)
    words = [f"word{i}" for i in range(50)]
    folder = home.path / "text"
    folder.mkdir()
    for split in ("train", "valid", "test"):
        lines = (" ".join(rng.choices(words, k=9)) for _ in range(120))
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    corpus = open_corpus(str(folder), home.path)
    session = home.open_session("default")
    made = session.new_run(TrainConfig(emsize=12, nhid=12, tied=True), "train", name="dense")
    session.write_vocabulary(corpus.fingerprint, corpus.vocabulary)
    torch.manual_seed(2)
    model = RNNModel(kind, corpus.ntokens, 12, 12, 2, 0.1, True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)
    (made.path / "best").mkdir()
    tensors = {n: p.detach().clone() for n, p in model.named_parameters()}
    save_file(tensors, made.path / "best" / "model.safetensors")
    made.update(
        status="finished",
        shape=shape_of(model),
        corpus=Corpus(
            name="text", fingerprint=corpus.fingerprint, origin=str(folder),
            ntokens=corpus.ntokens,
        ),
    )  # fmt: skip
    return made


class Answers(list[Message]):
    def __call__(self, message: Message) -> None:
        # What is said has to survive the way.
        received = MESSAGES.parse(MESSAGES.line(message))
        assert received == message
        if not isinstance(received, Progress):
            self.append(received)


def probe(run: Run, **changes: Any) -> OpenModel:
    asked = {"tokens": TOKENS, "calibration_tokens": CALIBRATION, "threads": 1, **changes}
    return OpenModel(id=1, run=str(run.path), **asked)
