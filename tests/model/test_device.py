"""Which device the settings lead to."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lmbench.config import TrainConfig, validate
from lmbench.errors import LmbenchError
from lmbench.model.device import choose_device


def config(**settings: Any) -> TrainConfig:
    return validate(TrainConfig, settings)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_each_process_of_a_run_has_a_gpu_of_its_own(device: str, two_gpus: None) -> None:
    settings = config(device=device, gpus=2)
    assert [str(choose_device(settings, 2, local)) for local in (0, 1)] == ["cuda:0", "cuda:1"]


def test_more_gpus_than_there_are_is_an_error(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LmbenchError, match="--gpus 4: torch sees 2 CUDA devices; ask for no more"):
        choose_device(config(gpus=4), 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    # It does not become a run of several processes on the CPU.
    with pytest.raises(LmbenchError, match="--gpus 2: torch sees 0 CUDA devices"):
        choose_device(config(gpus=2), 2)
    with pytest.raises(LmbenchError, match="--device cuda: torch sees 0 CUDA devices"):
        choose_device(config(device="cuda"))


def test_several_processes_on_the_cpu_share_it() -> None:
    settings = config(device="cpu", gpus=2, allow_cpu=True)
    assert choose_device(settings, 2, 1) == torch.device("cpu")
