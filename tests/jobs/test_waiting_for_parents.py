"""A run of a sweep begins when the run that it starts from has finished, and not before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from jobs_world import World

from lmbench.errors import LmbenchError
from lmbench.jobs import launch
from lmbench.jobs.kinds.common import parent_of
from lmbench.jobs.queue import awaited_parent


@pytest.mark.parametrize("status", ["lost", "stopped"])
def test_the_queue_goes_past_a_run_whose_parent_ended_too_early(world: World, status: str) -> None:
    parent = world.run(total=1)
    parent.update(status=status)
    child = world.run(total=1, parent=parent, point="prune 1")
    other = world.run(total=1)
    launch.start(child)
    world.until_status(other, "finished")
    world.until(lambda: not world.processes())
    assert child.status() == "queued"
    assert awaited_parent(child) == parent
    launch.requeue(parent)
    launch.start(parent)
    world.until_status(child, "finished")
    assert parent.status() == "finished"


def test_a_run_of_no_sweep_waits_for_none(world: World) -> None:
    parent = world.run(total=1)
    parent.update(status="stopped")
    child = world.run(total=1, parent=parent)
    launch.start(child)
    world.until_status(child, "finished")


def test_a_run_behind_a_failed_one_begins_and_says_why_it_cannot(world: World) -> None:
    parent = world.run()
    parent.update(status="failed")
    child = world.run(parent=parent, point="prune 1")
    assert awaited_parent(child) is None
    job: Any = SimpleNamespace(
        record=child.read(), run=child, home=world.home, session=child.session
    )
    # Without a checkpoint the kind of run says that there is none to start from.
    assert parent_of(job) == parent
    for which in ("last", "best"):
        (parent.path / which).mkdir()
        with pytest.raises(LmbenchError, match="is failed: a sweep compares whole runs alone"):
            parent_of(job)
        (parent.path / which).rmdir()
