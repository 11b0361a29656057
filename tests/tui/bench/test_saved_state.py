"""What the workbench remembers, from two threads and two workbenches."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lmbench.session import Home, Session
from lmbench.tui.bench.saved_state import SavedState


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Home(tmp_path).open_session("s")


def test_a_flush_waits_for_one_that_is_under_way(session: Session, monkeypatch) -> None:
    memory = SavedState(session)
    memory.put("draft", "half done")
    begun, go_on = threading.Event(), threading.Event()
    write = Session.write

    def slow(self: Session, record) -> None:
        begun.set()
        go_on.wait(30)
        write(self, record)

    monkeypatch.setattr(Session, "write", slow)
    first = threading.Thread(target=memory.flush)
    first.start()
    assert begun.wait(30)
    threading.Timer(0.2, go_on.set).start()
    memory.flush()
    assert SavedState(session).get("draft") == "half done"
    first.join()


def test_two_workbenches_keep_out_of_each_others_way(session: Session) -> None:
    one, other = SavedState(session), SavedState(session)
    one.put("theme", "lmbench-light")
    other.put("selected", "001-train")
    one.flush()
    other.flush()
    found = SavedState(session)
    assert (found.get("theme"), found.get("selected")) == ("lmbench-light", "001-train")


def test_what_is_kept_of_each_run_is_not_lost_to_a_workbench_that_keeps_another_run_s(session):
    one, other = SavedState(session), SavedState(session)
    one.put("lab/001-train", {"tries": 1})
    other.put("lab/002-prune", {"tries": 2})
    one.flush()
    other.flush()
    assert SavedState(session).each("lab") == {"001-train": {"tries": 1}, "002-prune": {"tries": 2}}


def test_of_an_earlier_session_the_runs_under_one_key_are_found_until_each_is_kept_anew(session):
    session.update(workbench={"lab": {"001-train": "old", "002-prune": "old"}, "labour": "no"})
    memory = SavedState(session)
    memory.put("lab/002-prune", "new")
    assert memory.each("lab") == {"001-train": "old", "002-prune": "new"}
    session.update(workbench={"lab": "hostile"})
    assert SavedState(session).each("lab") == {}


def test_what_others_have_written_is_taken_over_but_not_over_one_s_own(session):
    memory = SavedState(session)
    memory.put("lab/001-train", "mine")
    memory.flush()
    memory.renew({"lab/001-train": "theirs", "lab/002-prune": "theirs"})
    assert memory.each("lab") == {"001-train": "mine", "002-prune": "theirs"}
