"""What a worker sets before torch is loaded, and what it leaves to the user."""

from __future__ import annotations

import pytest

from lmbench.training.environment import worker_environment

OURS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def test_openmp_is_made_less_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OURS:
        monkeypatch.delenv(name, raising=False)
    assert set(worker_environment()) == {"GOMP_SPINCOUNT"}


@pytest.mark.parametrize("name", OURS)
def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for other in OURS:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "1")
    assert not worker_environment()
