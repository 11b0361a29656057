"""What a worker sets before torch is loaded, and what it leaves to the user."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from places import REPOSITORY

from lmbench.training.thread_environment import worker_environment

OURS = {"THP_MEM_ALLOC_ENABLE", "GOMP_SPINCOUNT"}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*OURS, "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "name, left",
    [
        (None, OURS),
        ("GOMP_SPINCOUNT", {"THP_MEM_ALLOC_ENABLE"}),
        ("OMP_WAIT_POLICY", {"THP_MEM_ALLOC_ENABLE"}),
        ("THP_MEM_ALLOC_ENABLE", {"GOMP_SPINCOUNT"}),
    ],
)
def test_what_the_user_set_stays(
    monkeypatch: pytest.MonkeyPatch, name: str | None, left: set[str]
) -> None:
    if name:
        monkeypatch.setenv(name, "0")
    assert set(worker_environment()) == left


STEPS = """
import os, sys
from lmbench.training.thread_environment import worker_environment
os.environ.update(worker_environment())
import psutil, torch
from lmbench.model.rnn import RNNModel
from lmbench.training.loss import DecoderLoss
from lmbench.training.process_setup import prepare_worker
from lmbench.training.step import (clipped_update, compute_gradients, gradient_norm)
prepare_worker(threads=2)
model = RNNModel("LSTM", 5_000, 48, 48, 2, 0.2, True).train()
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
loss = DecoderLoss(sys.argv[1], into_grad=True)
state = model.init_hidden(20)
for step in range(45):
    if step == 15:
        before = psutil.Process().memory_info().rss
    ids = torch.randint(5_000, (36, 20))
    optimizer.zero_grad()
    _, state = compute_gradients(model, loss, ids[:-1], ids[1:].flatten(), state)
    clipped_update(optimizer, gradient_norm(model.parameters()), 0.25)
print((psutil.Process().memory_info().rss - before) // 2**20)
"""


@pytest.mark.parametrize(
    "compiled, precision", [("0", "fp32"), pytest.param("1", "bf16", marks=pytest.mark.slow)]
)
def test_a_workers_memory_stays_as_it_is_from_step_to_step(compiled: str, precision: str) -> None:
    """Of which each frees megabytes that malloc keeps and must find again."""
    environment = {"LMBENCH_NATIVE": compiled, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", STEPS, precision],
        env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 10
