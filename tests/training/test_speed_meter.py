"""What a run takes of the machine, read now and then."""

from __future__ import annotations

import psutil
import pytest
import torch

from lmbench.training.speed_meter import Meter


def test_a_reading_that_fails_is_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(torch.device("cpu"))
    before = meter.memory()
    assert before > 0

    def refuse(process: psutil.Process) -> None:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "memory_info", refuse)
    monkeypatch.setattr(psutil.Process, "cpu_percent", refuse)

    assert meter.memory() == before
    assert meter.utilisation() >= 0
    assert Meter(torch.device("cpu")).memory() == 0
