"""Quitting while runs are at work, or wait in the queue."""

from __future__ import annotations

from typing import Any

import pytest
from driving import bench_of, opened, settled, until, words

from lmbench.errors import LmbenchError
from lmbench.jobs import launch
from lmbench.jobs.control_file import asked
from lmbench.session import Run
from lmbench.tui.kit.dialog import QuestionDialog
from lmbench.tui.log_file import log_path


async def test_the_dialog_names_what_works_and_what_waits(full):
    async with opened(full, "q") as pilot:
        told = " ".join(words(pilot).split())
        assert "Still at work: 2 agp-80." in told
        assert "Waiting in the queue: 4 int8 of agp." in told


async def test_between_two_workers_the_queue_alone_is_asked_about(full):
    full.session.run(2).update(status="finished")
    async with opened(full, "q") as pilot:
        assert isinstance(pilot.app.screen, QuestionDialog)
        assert pilot.app.is_running
        told = " ".join(words(pilot).split())
        assert "Still at work" not in told
        assert "Waiting in the queue: 4 int8 of agp." in told


async def test_with_nothing_alive_and_nothing_queued_it_quits_at_once(full):
    for number in (2, 4):
        full.session.run(number).update(status="stopped")
    async with opened(full, "q") as pilot:
        assert not isinstance(pilot.app.screen, QuestionDialog)
        assert pilot.app._exit


async def test_stop_takes_the_queue_away_before_the_live_run_is_stopped(full, monkeypatch):
    order: list[tuple[int, str]] = []
    request = launch.request

    def noted(run: Run, action: Any) -> None:
        order.append((run.id, full.session.run(4).status()))
        request(run, action)

    monkeypatch.setattr(launch, "request", noted)
    async with opened(full, "q", "s") as pilot:
        await until(pilot, lambda: pilot.app._exit)
    assert order == [(4, "queued"), (2, "stopped")]
    assert full.session.run(4).read().reason == "stopped in the queue"
    assert asked(full.session.run(2)) == ["stop"]


async def test_a_queued_run_that_a_worker_takes_meanwhile_is_stopped_too(full, monkeypatch):
    request = launch.request

    def late(run: Run, action: Any) -> None:
        if run.id == 4:
            full.session.run(2).update(status="finished")
            full.live(run)
        request(run, action)

    monkeypatch.setattr(launch, "request", late)
    async with opened(full, "q", "s") as pilot:
        await until(pilot, lambda: pilot.app._exit)
    assert set(asked(full.session.run(4))) == {"stop"}


async def test_a_run_that_cannot_be_stopped_is_told_and_the_workbench_stays(full, monkeypatch):
    def refused(run: Run, action: str) -> None:
        raise LmbenchError(f"run {run.ref}: its folder is read-only")

    monkeypatch.setattr(launch, "request", refused)
    async with opened(full, "q", "s") as pilot:
        await until(pilot, lambda: "its folder is read-only" in " ".join(words(pilot).split()))
        assert not pilot.app._exit


async def test_left_running_nothing_is_asked_of_any_run(full):
    async with opened(full, "q", "l") as pilot:
        await until(pilot, lambda: pilot.app._exit)
    assert full.session.run(4).status() == "queued"
    assert not asked(full.session.run(2))


async def test_a_run_that_is_stopped_in_the_queue_is_said_to_have_left_it(full):
    async with opened(full, "home", "down", "down", "s") as pilot:
        await until(pilot, lambda: "out of the queue" in bench_of(pilot).last_message)
        assert bench_of(pilot).last_message == "4 int8 of agp: taken out of the queue"
    assert full.session.run(4).read().status == "stopped"


async def test_a_live_run_that_is_stopped_finishes_its_batch(full):
    async with opened(full, "home", "down", "s") as pilot:
        await until(pilot, lambda: "asked to stop" in bench_of(pilot).last_message)
        assert bench_of(pilot).last_message.startswith("2 agp-80: asked to stop; it finishes")
    assert asked(full.session.run(2)) == ["stop"]


@pytest.mark.parametrize(
    "kind, then", [("benchmark", ""), ("sensitivity", "; what it has measured stays")]
)
async def test_work_that_has_no_batch_is_not_said_to_finish_one(full, kind, then):
    full.live(full.new(kind, "work", full.session.run(1)))
    async with opened(full, "s", run=f"005-{kind}") as pilot:
        await until(pilot, lambda: bench_of(pilot).last_message == f"5 work: asked to stop{then}")


async def test_leaving_when_whoever_showed_it_is_gone_is_no_defect(full, monkeypatch):
    def refuse() -> None:
        raise BrokenPipeError(32, "Broken pipe")

    async def leave() -> None:
        app = full.bench()
        async with app.run_test() as pilot:
            await settled(pilot)
            monkeypatch.setattr(app._driver, "stop_application_mode", refuse)
            app.exit()

    with pytest.raises(BrokenPipeError):
        await leave()
    assert not log_path(full.home).exists()
