"""A working folder with a tiny corpus and a small sweep."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lmbench.jobs.sweeps import control
from lmbench.session import Home, Run, Session

SMALL = "data: tiny, emsize: 8, nhid: 8, nlayers: 1, tied: true, epochs: 2, threads: 1, lr: 1.0"

SCHEDULE = """version: 1
pruners:
  all:
    class: AutomatedGradualPruner
    initial_sparsity: 0.0
    final_sparsity: {level}
    weights: [rnn.weight_ih_l0, rnn.weight_hh_l0]
policies:
  - pruner: {{instance_name: all}}
    starting_epoch: 0
    ending_epoch: 2
    frequency: 1
"""

SWEEP = f"""version: 1
name: study
seeds: 2
stages:
  - kind: train
    settings: {{{SMALL}}}
  - kind: prune
    axes:
      compress: [levels/agp-50.yaml, levels/agp-80.yaml]
"""


def write_sweep(folder: Path, text: str = SWEEP) -> Path:
    """A sweep's file in a folder of its own, with the schedules that it names."""
    (folder / "levels").mkdir(parents=True, exist_ok=True)
    for level in (50, 80):
        text_of = SCHEDULE.format(level=level / 100)
        (folder / "levels" / f"agp-{level}.yaml").write_text(text_of)
    file = folder / "sweep.yaml"
    file.write_text(text)
    return file


def start_sweep(home: Home, text: str = SWEEP) -> tuple[Session, list[Run]]:
    file = write_sweep(home.path.parent / "study", text)
    return control.start(control.prepare(file, home), home)


@pytest.fixture
def sweep_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    folder = tmp_path / "home" / "data" / "tiny"
    folder.mkdir(parents=True)
    generator = random.Random(5)
    for split in ("train", "valid", "test"):
        words = [f"w{int(30 * generator.random() ** 2)}" for _ in range(900)]
        (folder / f"{split}.txt").write_text(" ".join(words) + "\n", encoding="utf-8")
    monkeypatch.setenv("LMBENCH_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home")
