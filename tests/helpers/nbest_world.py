"""A made n-best list: real sentences, and their hypotheses by confusions drawn from a seed.

The sentences are what the embedded corpus is made of, docstrings of the Python installation. No
recogniser has heard them: each hypothesis is a sentence with some words replaced, left out or said
twice, and its score falls with each of these, under noise that hides half of them.
"""

from __future__ import annotations

import argparse
import heapq
import inspect
import json as json_module
import random
import string
import textwrap
from collections import Counter
from pathlib import Path

import torch
from scoring_world import loaded

from lmbench.corpus.prose import sentences
from lmbench.deploy.load_model import LoadedModel
from lmbench.scoring.nbest import Hypothesis, NBest

_MODULES = (argparse, heapq, json_module, random, string, textwrap, inspect)


def real_sentences() -> list[list[str]]:
    """Sentences of a few modules' docstrings."""
    texts = [
        inspect.getdoc(thing) or ""
        for module in _MODULES
        for thing in (module, *vars(module).values())
        if thing is module or getattr(thing, "__module__", None) == module.__name__
    ]
    return [words for text in texts for words in sentences(text) if len(words) > 4]


def unigram_model(text: list[list[str]]) -> LoadedModel:
    """A model whose every prediction is the words' frequencies in a text."""
    counts = Counter(word for words in text for word in words)
    counts["<eos>"], counts["<unk>"] = len(text), 1
    model = loaded(words=list(counts))
    with torch.no_grad():
        for parameter in model.recurrent.parameters():
            parameter.zero_()
        model.recurrent.decoder.bias.copy_(torch.tensor(list(counts.values())).log())
    return model


def made_list(count: int, seed: int) -> tuple[NBest, dict[str, tuple[str, ...]]]:
    """Six hypotheses for each of `count` utterances, and what was said."""
    generator = random.Random(seed)
    text = real_sentences()
    vocabulary = sorted({word for words in text for word in words})
    nbest: NBest = {}
    references: dict[str, tuple[str, ...]] = {}
    for number in range(count):
        said = generator.choice(text)
        references[f"utt{number:03}"] = tuple(said)
        hypotheses = [
            _confused(generator, said, vocabulary, confusions) for confusions in (0, 1, 1, 2, 2, 3)
        ]
        generator.shuffle(hypotheses)
        nbest[f"utt{number:03}"] = hypotheses
    return nbest, references


def _confused(
    generator: random.Random, said: list[str], vocabulary: list[str], confusions: int
) -> Hypothesis:
    words = list(said)
    for _ in range(confusions):
        place = generator.randrange(len(words))
        match generator.randrange(4):
            case 0 if len(words) > 2:
                del words[place]
            case 1:
                words.insert(place, words[place])
            case _:
                words[place] = generator.choice(vocabulary)
    score = -2.0 * len(said) - 1.5 * confusions + generator.gauss(0, 3)
    return Hypothesis(round(score, 4), tuple(words))


def write_lines(path: Path, nbest: NBest) -> Path:
    rows = [f"{u} {h.score} {' '.join(h.words)}" for u, hs in nbest.items() for h in hs]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def write_references(path: Path, references: dict[str, tuple[str, ...]]) -> Path:
    rows = [" ".join((utterance, *words)) for utterance, words in references.items()]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def write_kaldi(folder: Path, nbest: NBest) -> Path:
    folder.mkdir()
    texts, acoustic, graph = [], [], []
    for utterance, hypotheses in nbest.items():
        for rank, one in enumerate(hypotheses, 1):
            name = f"{utterance}-{rank}"
            texts.append(" ".join((name, *one.words)))
            acoustic.append(f"{name} {-one.score - 2}")
            graph.append(f"{name} 2")
    for name, rows in (("words_text", texts), ("acwt", acoustic), ("lmwt.nolm", graph)):
        (folder / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def write_espnet(folder: Path, nbest: NBest) -> Path:
    for rank in range(6):
        inner = folder / f"{rank + 1}best_recog"
        inner.mkdir(parents=True)
        rows = [(utterance, hypotheses[rank]) for utterance, hypotheses in nbest.items()]
        texts = [" ".join((utterance, *one.words)) for utterance, one in rows]
        scores = [f"{utterance} tensor({one.score})" for utterance, one in rows]
        (inner / "text").write_text("\n".join(texts) + "\n", encoding="utf-8")
        (inner / "score").write_text("\n".join(scores) + "\n", encoding="utf-8")
    return folder


def write_json(path: Path, nbest: NBest, *, nested: bool) -> Path:
    rows: list[object] = []
    for utterance, hypotheses in nbest.items():
        each = [{"score": one.score, "text": " ".join(one.words)} for one in hypotheses]
        rows += (
            [{"id": utterance, "nbest": each}] if nested else [{"id": utterance} | e for e in each]
        )
    text = "\n".join(json_module.dumps(row) for row in rows)
    path.write_text(text + "\n", encoding="utf-8")
    return path
