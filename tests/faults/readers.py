"""Every reader of files that a stranger, a full disk or a newer version may have written.

A reader is added here when it is added to lmbench: `test_every_reader_is_fuzzed` fails for a
function that parses and is in none of its tables.
"""

from __future__ import annotations

import contextlib
import io
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from mutations import (
    Mutation,
    damage_bytes,
    damage_ids,
    damage_json,
    damage_json_lines,
    damage_packed,
    damage_safetensors,
    damage_yaml,
    damage_zip,
)

from lmbench.cli import run as lmbench
from lmbench.config import DataMakeConfig
from lmbench.corpus import open_corpus
from lmbench.corpus.making.make import data_make, data_preview
from lmbench.deploy.load_model import load_file, load_packed, load_run
from lmbench.deploy.pytorch_checkpoint.model_weights import import_model
from lmbench.distiller.errors import DistillerError
from lmbench.distiller.quantization import load_settings as load_quantization_settings
from lmbench.distiller.quantization import load_stats
from lmbench.errors import LmbenchError
from lmbench.jobs.hosts.sampler_messages import MESSAGES
from lmbench.jobs.places.settings import parse_place_settings
from lmbench.jobs.sweeps.proposals import kept_plan
from lmbench.scoring.lines import Words, lines_of
from lmbench.scoring.nbest import read_nbest, read_references
from lmbench.session import Home
from lmbench.session.archive import unpack
from lmbench.training.checkpoint import checkpoint_step, read_checkpoint
from lmbench.training.recipe_files import recipe_settings
from lmbench.tui.bench.saved_state import SavedState, last_session, remember_session
from lmbench.tui.bench.session_watcher import Watcher
from lmbench.tui.bench.user_settings import load_settings
from lmbench.tui.generate.saved_samples import SavedSamples

ARCHIVE = Path(__file__).parent.parent / "session" / "earlier_versions" / "0.1.0.lmbench"
REFUSALS = (LmbenchError, DistillerError)
"""What a reader may raise: one line for the user."""
MADE = DataMakeConfig(tokenizer="none", documents="lines")
NO_TOKENIZER = DataMakeConfig(tokenizer="none")
IDS = "data/tiny/.lmbench/ids-7bb895970bbf5fb8-v1.safetensors"


SWEEP = """version: 1
name: swept
seeds: 2
search: grid
stages:
  - kind: train
    settings: {data: tiny, emsize: 16, nhid: 16, tied: true, epochs: 6, threads: 1}
    axes:
      lr: {from: 1, to: 20, count: 2, log: true}
      dropout: [0.0, 0.2]
  - kind: prune
    axes: {compress: [small-70, small-80]}
  - {kind: quantize, from: [train, prune], settings: {preset: int8-best}}
"""
PROPOSED = """version: 1
search: tpe
runs: 4
stages:
  - kind: train
    settings: {data: tiny, emsize: 16, nhid: 16, tied: true, epochs: 6, threads: 1}
    axes:
      lr: {from: 1, to: 20, count: 5, log: true}
      dropout: [0.0, 0.2]
"""


class UnclearError(Exception):
    """A command ended otherwise than by its work or a refusal, or printed what it must not."""


@dataclass(frozen=True)
class Reader:
    """A file of the working folder, how it is damaged, and what then reads it."""

    file: str
    damage: Mutation
    read: Callable[[Home, Path], object]


def make_home(folder: Path) -> Home:
    """A working folder with a corpus, the session of the earliest version, and single files."""
    generator = random.Random(3)
    words = "the a cat dog sees hears runs sleeps on under mat tree and then old small river ."
    (folder / "data" / "tiny").mkdir(parents=True)
    for split, lines in (("train", 150), ("valid", 30), ("test", 30)):
        text = [
            " ".join(generator.choice(words.split()) for _ in range(9)) + " .\n"
            for _ in range(lines)
        ]
        (folder / "data" / "tiny" / f"{split}.txt").write_text("".join(text), encoding="utf-8")
    home = Home(folder)
    unpack(ARCHIVE, home)
    open_corpus("tiny", home.data)
    data_make("made", [folder / "data" / "tiny" / "train.txt"], folder, MADE)
    (folder / "records.jsonl").write_text('{"text": "the cat"}\n{"text": "a dog\\nruns", "n": 1}\n')
    stats = folder / "sessions/default/runs/003-quantize/stats.yaml"
    few = dict(list(yaml.safe_load(stats.read_bytes()).items())[:3])
    stats.write_text(yaml.safe_dump(few), encoding="utf-8")
    remember_session(home, "default")
    (folder / "archive.lmbench").write_bytes(ARCHIVE.read_bytes())
    (folder / "recipe.yaml").write_text(
        "version: 1\nsettings:\n  optimizer: adamw\n  lr: 0.001\n  nonmono: null\n"
    )
    (folder / "settings.yaml").write_text("theme: dark\nmotion: false\nkeys: {app.quit: x}\n")
    (folder / "places.toml").write_text(
        '[slurm]\npartition = "p"\ntime = "1-12"\ngpus = 1\nsetup = ["module load cuda"]\n'
        '[ray]\naddress = "head:6379"\ncpus = 2\n'
    )
    (folder / "quantization.yaml").write_text(
        "bits_activations: 8\nbits_weights: 8\nmode: ASYMMETRIC_SIGNED\nclip_acts: AVG\n"
        "overrides:\n  decoder: {bits_weights: 4}\n  rnn.*: {fp16: true}\n"
    )
    (home.open_session("swept").path / "sweep.yaml").write_text(SWEEP)
    proposed = home.open_session("proposed").path
    (proposed / "sweep.yaml").write_text(PROPOSED)
    (proposed / "proposals.json").write_text('{"version": 1, "proposals": [[0, 1], [4, 0]]}')
    (folder / "nbest.jsonl").write_text(
        '{"id": "a", "score": -1.5, "text": "the cat"}\n'
        '{"id": "b", "nbest": [{"score": -2, "text": "a dog"}, {"score": -3.5, "text": ""}]}\n'
    )
    weights = load_run(home.find_run("1", "default")).model.state_dict()
    mask = {"rnn.weight_hh_l0": weights["rnn.weight_hh_l0"] > 0}
    saved = {"state_dict": weights, "epoch": 3, "compression_sched": {"masks_dict": mask}}
    torch.save(saved, folder / "model.pt")
    torch.save(saved, folder / "older.pt", _use_new_zipfile_serialization=False)
    (folder / "request.json").write_bytes(
        b'{"kind": "wrote", "id": 3, "at": 1, "word": 2, "text": "cat", "bits": 1.5, '
        b'"probability": 0.3, "seconds": 0.1, "alternatives": []}\n'
    )
    return home


def commands(*lines: str) -> Callable[[Home, Path], object]:
    """Read by these commands; each must do its work or refuse in words, and print no escapes."""

    def read(home: Home, path: Path) -> None:
        for line in lines:
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = lmbench(line.format(path=path).split(" "))
            printed = out.getvalue() + err.getvalue()
            odd = [c for c in printed if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160]
            if code not in (0, 2) or odd or "Traceback" in printed:
                raise UnclearError(f"`lmbench {line}`: exit {code}, {odd!r}: {printed[-500:]}")

    return read


def watch(home: Home, _path: Path) -> object:
    return Watcher(home.session("default")).poll()


def all_of(*reads: Callable[[Home, Path], object]) -> Callable[[Home, Path], object]:
    """Each in turn: a refusal of one keeps none of the others from reading."""

    def read(home: Home, path: Path) -> None:
        for one in reads:
            with contextlib.suppress(*REFUSALS):
                one(home, path)

    return read


def _member(name: str) -> Mutation | None:
    if name.endswith(".json"):
        return damage_json
    return damage_json_lines if name.endswith(".jsonl") else None


def _message(path: Path) -> object:
    try:
        return MESSAGES.parse(path.read_bytes())
    except ValueError as error:
        raise LmbenchError(str(error)) from None


def _lines(path: Path) -> object:
    with path.open("rb") as file:
        return list(lines_of(file, str(path), Words(["<eos>", "the", "cat"], "words")))


def _unpack(home: Home, path: Path) -> object:
    session = unpack(path, home, "unpacked")
    # The next one wants that name.
    shutil.rmtree(session.path)
    return session


RUN = "sessions/default/runs/001-train"
LISTS = commands(
    "runs list", "runs list --json", "sessions show default", "report default", "compare"
)

READERS: dict[str, Reader] = {
    "run record": Reader(f"{RUN}/run.json", damage_json, all_of(LISTS, watch)),
    "session record": Reader(
        "sessions/default/session.json",
        damage_json,
        all_of(LISTS, watch, lambda home, _: SavedState(home.session("default"))),
    ),
    "events": Reader(f"{RUN}/events.jsonl", damage_json_lines, all_of(LISTS, watch)),
    "samples": Reader(
        "sessions/default/samples.jsonl",
        damage_json_lines,
        lambda home, _: SavedSamples(home.session("default")).read(),
    ),
    "vocabulary": Reader(
        "sessions/default/vocabulary/7bb895970bbf5fb8eed1c4e1591bc6ac.txt",
        damage_bytes,
        lambda home, _: load_run(home.find_run("1", "default")),
    ),
    "weights": Reader(
        f"{RUN}/best/model.safetensors",
        damage_safetensors,
        all_of(
            lambda home, _: load_run(home.find_run("1", "default")),
            lambda home, path: load_file(path),
            commands("summary 1"),
        ),
    ),
    "facts about a checkpoint": Reader(
        f"{RUN}/best/meta.json", damage_json, lambda _, path: checkpoint_step(path.parent)
    ),
    "state of a training": Reader(
        f"{RUN}/last/trainer.json", damage_json, lambda home, path: read_checkpoint(path.parent)
    ),
    "quantized model": Reader(
        "sessions/default/runs/003-quantize/best/quantization.json",
        damage_json,
        lambda home, _: load_run(home.find_run("3", "default")),
    ),
    "statistics": Reader(
        "sessions/default/runs/003-quantize/stats.yaml",
        damage_yaml,
        lambda _, path: load_stats(path),
    ),
    "packed file": Reader(
        "sessions/default/runs/006-pack/model.lmpack",
        damage_packed,
        lambda _, path: load_packed(path),
    ),
    "archive": Reader("archive.lmbench", damage_zip(_member), _unpack),
    "checkpoint of PyTorch": Reader(
        "model.pt", damage_zip(_member), lambda _, path: import_model(path)
    ),
    "older checkpoint of PyTorch": Reader(
        "older.pt", damage_bytes, lambda _, path: import_model(path)
    ),
    "schedule": Reader(
        "sessions/default/runs/002-prune/schedule.yaml",
        damage_yaml,
        commands("schedule check {path}"),
    ),
    "quantization settings": Reader(
        "quantization.yaml", damage_yaml, lambda _, path: load_quantization_settings(path)
    ),
    "recipe": Reader("recipe.yaml", damage_yaml, lambda _, path: recipe_settings(str(path))),
    "settings of the workbench": Reader(
        "settings.yaml", damage_yaml, lambda _, path: load_settings(path)
    ),
    "settings of places": Reader(
        "places.toml",
        damage_bytes,
        lambda _, path: parse_place_settings(path.read_bytes(), path),
    ),
    "sweep": Reader(
        "sessions/swept/sweep.yaml",
        damage_yaml,
        commands("sweep check {path}", "sweep status swept", "sweep status swept --json"),
    ),
    "proposals of a sweep": Reader(
        "sessions/proposed/proposals.json",
        damage_json,
        lambda home, _: kept_plan(home.session("proposed")),
    ),
    "corpus": Reader(
        "data/tiny/train.txt", damage_bytes, lambda home, _: open_corpus("tiny", home.data)
    ),
    "card of a corpus": Reader(
        "data/made/corpus.json",
        damage_json,
        commands("data list", "data info {path.parent}", "data info {path.parent} --json"),
    ),
    "records to make a corpus of": Reader(
        "records.jsonl", damage_json_lines, lambda _, path: data_preview([path], NO_TOKENIZER, 9)
    ),
    "text to make a corpus of": Reader(
        "data/tiny/valid.txt", damage_bytes, lambda _, path: data_preview([path], NO_TOKENIZER, 99)
    ),
    "ids": Reader(IDS, damage_ids, lambda home, _: open_corpus("tiny", home.data)),
    "n-best list": Reader(
        "nbest.jsonl",
        damage_json_lines,
        all_of(lambda _, path: read_nbest(path), lambda _, path: read_references(path)),
    ),
    "text to score": Reader("data/tiny/test.txt", damage_bytes, lambda _, path: _lines(path)),
    "last session": Reader(
        "sessions/.workbench.json", damage_json, lambda home, _: last_session(home)
    ),
    "message": Reader("request.json", damage_json, lambda _, path: _message(path)),
}
