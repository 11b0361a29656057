"""What was measured once is found again; a cache that is of no use costs only measuring."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmbench.errors import LmbenchError
from lmbench.session.remembered import recall, remember


def test_each_kind_keeps_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LMBENCH_CACHE", str(tmp_path / "deep"))
    assert recall("speed", "here") is None
    remember("speed", "here", 2.5)
    remember("speed", "there", {"bytes": 3})
    remember("size", "here", "large")
    assert recall("speed", "here") == 2.5
    assert recall("speed", "there") == {"bytes": 3}
    assert recall("size", "here") == "large"


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"version": 1, "found": 3})])
def test_what_is_damaged_is_written_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    monkeypatch.setenv("LMBENCH_CACHE", str(tmp_path))
    (tmp_path / "speed.json").write_text(text)
    assert recall("speed", "here") is None
    remember("speed", "here", 2.5)
    assert recall("speed", "here") == 2.5


def test_where_nothing_can_be_written_nothing_is_remembered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LMBENCH_CACHE", str(tmp_path / "file"))
    remember("speed", "here", 2.5)
    assert recall("speed", "here") is None


def test_a_lock_that_another_process_keeps_costs_what_was_measured_and_no_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def kept(_: Path) -> None:
        raise LmbenchError("another process keeps the lock")

    monkeypatch.setenv("LMBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr("lmbench.session.remembered.locked", kept)
    remember("speed", "here", 2.5)
    assert recall("speed", "here") is None
