"""The trial that tells how fast a machine trains before any training has run there."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from lmbench.config import TrainConfig
from lmbench.jobs import speed_trial
from lmbench.jobs.supervisor import python
from lmbench.report.training_speed import known_trial, operations

SMALL = TrainConfig(emsize=8, nhid=8, nlayers=1, batch_size=2, bptt=4, device="cpu", threads=1)


def test_a_trial_measures_a_training_with_these_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_trial, "_SECONDS", 0.05)
    found = speed_trial.measure(SMALL, words=50)
    assert found.device == "cpu"
    assert found.operations == operations(SMALL, 50)
    assert found.tokens_per_s > 0


def test_the_process_keeps_what_it_found_for_this_machine_and_torch_alone(tmp_path: Path) -> None:
    environment = os.environ | {"LMBENCH_NATIVE": "0"}
    assert known_trial() is None
    subprocess.run(python("lmbench.jobs.speed_trial"), check=True, env=environment)
    found = known_trial()
    assert found is not None
    assert found.operations == operations(TrainConfig(), 33_278)
    path = Path(os.environ["LMBENCH_CACHE"]) / "trial.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | {"made_by": {**kept["made_by"], "torch": "1.0"}}))
    assert known_trial() is None
    for damaged in ("{", "[]", json.dumps({"version": 1}), json.dumps({**kept, "measured": 3})):
        path.write_text(damaged)
        assert known_trial() is None
