"""The form of a new run, and the chains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pictures import Snap, at_each_size, looks, pressing


@pytest.fixture(autouse=True)
def _same_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A corpus of one name, and paths that are the same on every machine."""
    monkeypatch.setattr("lmbench.tui.new_run.screen.default_corpus", lambda home: "wikitext-2")
    monkeypatch.chdir(tmp_path)


@at_each_size
def test_the_form_with_a_published_command_and_an_estimate(snap_compare: Snap, full, size):
    full.session.run(1).update(shape={"ntoken": 33_278}, device="cpu", config={"tied": True})
    before = pressing("n", "down", "right", "right", "down", "down")
    assert snap_compare(full.bench(), terminal_size=size, run_before=before)


@at_each_size
def test_the_form_with_a_mistake(snap_compare: Snap, full, size):
    before = pressing("n", *["down"] * 7, *"1.5")
    assert snap_compare(full.bench(), terminal_size=size, run_before=before)


@at_each_size
def test_the_form_of_a_pruning_with_the_list_of_schedules(snap_compare: Snap, full, size):
    before = pressing("n", "p", "down", "down", "down", "enter")
    assert snap_compare(full.bench(), terminal_size=size, run_before=before)


@at_each_size
@pytest.mark.usefixtures("started")
def test_the_chains(snap_compare: Snap, lab: Any, size: tuple[int, int]):
    assert looks(snap_compare, lab, size, "N", "down", "down")
