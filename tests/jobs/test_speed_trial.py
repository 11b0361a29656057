"""The trial that tells how fast a machine trains before any training has run there."""

from __future__ import annotations

import json
import os
import time
from functools import partial
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lmbench.config import TrainConfig
from lmbench.distiller.quantization.trained_codes import TrainedCodes
from lmbench.jobs import speed_trial
from lmbench.report.training_speed import known_trial, operations
from lmbench.training import native
from lmbench.training.native import process

SMALL = TrainConfig(emsize=8, nhid=8, nlayers=1, batch_size=2, bptt=4, device="cpu", threads=1)


def test_a_trial_measures_a_training_with_these_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_trial, "_SECONDS", 0.05)
    found = speed_trial.measure(SMALL, words=50)
    assert found.device == "cpu"
    assert found.operations == operations(SMALL, 50)
    assert found.tokens_per_s > 0


def test_what_other_work_took_of_the_machine_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moments = chain.from_iterable((at, at + took) for at, took in ((0, 9), (9, 2), (11, 7)))
    monkeypatch.setattr(speed_trial, "_LEAST", 3)
    monkeypatch.setattr(speed_trial, "time", SimpleNamespace(
        perf_counter=partial(next, moments), time=time.time,
    ))  # fmt: skip
    assert speed_trial.measure(SMALL, words=50).tokens_per_s == 2 * 4 / 2


def test_what_it_found_is_kept_for_this_machine_and_torch_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(speed_trial, "_SECONDS", 0.05)
    monkeypatch.setattr(speed_trial, "measure", partial(speed_trial.measure, SMALL, 50))
    # It settles them for its whole process.
    monkeypatch.setattr(process, "_allowed", None)
    monkeypatch.setattr(TrainedCodes, "passes", None)
    allowed = []
    enable = native.enable_kernels
    monkeypatch.setattr(native, "enable_kernels", lambda: (allowed.append(1), enable())[1])
    assert known_trial() is None
    speed_trial.main()
    assert len(allowed) == (not torch.cuda.is_available())
    found = known_trial()
    assert found is not None
    assert found.operations == operations(SMALL, 50)
    path = Path(os.environ["LMBENCH_CACHE"]) / "trial.json"
    kept = json.loads(path.read_text())
    [(made_by, measured)] = kept["found"].items()
    path.write_text(json.dumps(kept | {"found": {f"{made_by}.0": measured}}))
    assert known_trial() is None
    for found in ({made_by: 3}, {made_by: {"ref": ""}}, {made_by: {**measured, "operations": ""}}):
        path.write_text(json.dumps(kept | {"found": found}))
        assert known_trial() is None
    for damaged in ("{", "[]", json.dumps({"version": 1}), json.dumps({**kept, "found": 3})):
        path.write_text(damaged)
        assert known_trial() is None
