"""Which requests of the user a handler is given, in whatever order and however they come."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lmbench.config import EvaluateConfig
from lmbench.errors import LmbenchError
from lmbench.jobs import wait_while_paused
from lmbench.jobs.control_file import ask, asked
from lmbench.jobs.job import Job
from lmbench.session import Home, read_events
from lmbench.session.events import Event, StatusChanged, Warned


@pytest.fixture
def job(tmp_path: Path) -> Job:
    run = Home(tmp_path).open_session().new_run(EvaluateConfig(), "evaluate")
    record = run.update(status="running")
    return Job(run, record, EvaluateConfig(), resuming=False)


@pytest.fixture
def while_waiting(job: Job, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], list[str]]:
    """Have the user ask for one thing after the other whenever the paused job waits; gives the
    statuses that run.json showed meanwhile."""

    def arrange(words: list[str]) -> list[str]:
        seen: list[str] = []

        def sleep(_: float) -> None:
            seen.append(job.run.read().status)
            ask(job.run, words.pop(0))  # pyright: ignore[reportArgumentType]

        monkeypatch.setattr(wait_while_paused.time, "sleep", sleep)
        return seen

    return arrange


def events(job: Job) -> list[Event]:
    return read_events(job.run.events_path)


def statuses(job: Job) -> list[str]:
    return [event.status for event in events(job) if isinstance(event, StatusChanged)]


def test_where_nothing_is_asked_nothing_is_heard(job: Job) -> None:
    assert job.control() is None
    assert not job.stopped


def test_a_checkpoint_is_heard_once(job: Job) -> None:
    ask(job.run, "checkpoint")
    assert job.control() == "checkpoint"
    assert job.control() is None


def test_a_stop_is_heard_from_then_on(job: Job) -> None:
    ask(job.run, "stop")
    assert [job.control(), job.control()] == ["stop", "stop"]
    assert job.stopped


def test_what_a_worker_tells_its_ranks_is_a_stop(job: Job) -> None:
    ask(job.run, "end")
    assert job.control() == "stop"


def test_no_later_wish_hides_a_stop(job: Job) -> None:
    for word in ("stop", "pause", "checkpoint", "continue"):
        ask(job.run, word)
    assert job.control() == "stop"
    assert job.run.read().status == "running"


def test_a_job_that_is_to_stop_by_a_signal_hears_stop(job: Job) -> None:
    job.stop()
    assert job.control() == "stop"


def test_a_pause_is_waited_out_and_seen(
    job: Job, while_waiting: Callable[[list[str]], list[str]]
) -> None:
    ask(job.run, "pause")
    seen = while_waiting(["pause", "continue"])
    assert job.control() is None
    assert seen == ["paused", "paused"]
    assert job.run.read().status == "running"
    assert statuses(job) == ["paused", "running"]
    assert job._requests.paused_s > 0.0


def test_a_paused_job_can_be_stopped(
    job: Job, while_waiting: Callable[[list[str]], list[str]]
) -> None:
    ask(job.run, "pause")
    while_waiting(["stop"])
    assert job.control() == "stop"
    assert statuses(job) == ["paused", "running"]


def test_a_paused_job_writes_a_checkpoint_and_waits_on(
    job: Job, while_waiting: Callable[[list[str]], list[str]]
) -> None:
    ask(job.run, "pause")
    seen = while_waiting(["checkpoint", "continue"])
    assert job.control() == "checkpoint"
    assert job.run.read().status == "paused"
    assert job.control() is None
    assert seen == ["paused", "paused"]
    assert statuses(job) == ["paused", "running"]


def test_a_pause_that_is_taken_back_before_it_is_heard_is_none(job: Job) -> None:
    ask(job.run, "pause")
    ask(job.run, "continue")
    assert job.control() is None
    assert statuses(job) == []


def test_half_a_word_is_not_heard_before_the_rest(job: Job) -> None:
    job.run.control_path.write_bytes(b"check")
    assert job.control() is None
    job.run.control_path.write_bytes(b"checkpoint\n")
    assert job.control() == "checkpoint"


def test_a_file_written_by_hand_is_heard(job: Job) -> None:
    ask(job.run, "checkpoint")
    assert job.control() == "checkpoint"
    job.run.control_path.write_bytes(b"stop\n")
    assert job.control() == "stop"


def test_the_same_word_written_by_hand_again_is_heard_again(job: Job) -> None:
    for second in (1, 2):
        job.run.control_path.write_bytes(b"checkpoint\n")
        os.utime(job.run.control_path, (second, second))
        assert [job.control(), job.control()] == ["checkpoint", None]


def test_a_pause_written_by_hand_is_taken_back_by_a_longer_word(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.run.control_path.write_bytes(b"pause\n")
    written = iter([b"continue\n"])
    sleep = lambda _: job.run.control_path.write_bytes(next(written))  # noqa: E731
    monkeypatch.setattr(wait_while_paused.time, "sleep", sleep)
    assert job.control() is None
    assert statuses(job) == ["paused", "running"]


@pytest.mark.parametrize("data", [b"dance\n", b"\xff\xfe\n", b"\n\n", b"STOP\n", b"stopped\n"])
def test_words_that_mean_nothing_are_passed_over(job: Job, data: bytes) -> None:
    job.run.control_path.write_bytes(data)
    assert job.control() is None


def test_words_of_many_processes_at_once_are_all_there(job: Job) -> None:
    threads = [
        threading.Thread(target=lambda: [ask(job.run, "checkpoint") for _ in range(50)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked(job.run) == ["checkpoint"] * 200


def test_results_are_added_and_keep_strict_json(job: Job) -> None:
    job.add_results(test_ppl=float("inf"), nested={"a": [float("nan"), 1.5]})
    job.add_results(valid_ppl=3.0)
    document = json.loads((job.run.path / "run.json").read_text(), parse_constant=lambda _: 1 / 0)
    assert document["results"] == {
        "test_ppl": None,
        "nested": {"a": [None, 1.5]},
        "valid_ppl": 3.0,
    }


def test_a_change_from_elsewhere_outlives_the_jobs_own(job: Job) -> None:
    job.run.update(name="renamed")
    job.update(device="cpu")
    assert job.run.read().name == "renamed"


def test_a_warning_is_an_event_and_a_line_of_the_log(
    job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    job.warn("hot")
    assert [e.message for e in events(job) if isinstance(e, Warned)] == ["hot"]
    assert capsys.readouterr().err == "warning: hot\n"


def test_the_seconds_of_earlier_attempts_are_counted(tmp_path: Path) -> None:
    run = Home(tmp_path).open_session().new_run(EvaluateConfig(), "evaluate")
    record = run.update(results={"seconds": 1000.0})
    job = Job(run, record, EvaluateConfig(), resuming=True)
    assert job.seconds() >= 1000.0
    job.add_results(seconds=3.0)
    assert job.seconds() == 3.0


def test_a_folder_named_control_stops_no_run_and_a_request_says_what_is_wrong(job: Job) -> None:
    job.run.control_path.mkdir()
    assert job.control() is None
    with pytest.raises(LmbenchError, match=r"control: .* move it away"):
        ask(job.run, "pause")


def test_a_run_whose_events_were_removed_goes_on_logging(job: Job) -> None:
    job.warn("first")
    job.run.events_path.unlink()
    assert job.events_offset == 0
    job.warn("second")
    assert [e.message for e in events(job) if isinstance(e, Warned)] == ["second"]
