"""What the workbench sees of run folders, whatever happens to them."""

from __future__ import annotations

import json
import shutil

import pytest
from workbench_world import STARTED, looked, step

from lmbench.session import EventWriter, Run
from lmbench.session import events as ev
from lmbench.session.event_log import EventReader
from lmbench.session.events import event_line
from lmbench.tui.bench import session_watcher
from lmbench.tui.bench.run_history import describe_event
from lmbench.tui.bench.session_watcher import Watcher
from lmbench.tui.bench.snapshots import RunView, lineage


@pytest.fixture
def reader(tmp_path):
    return EventReader(tmp_path / "events.jsonl")


@pytest.mark.parametrize(
    "results, said",
    [
        ({}, "finished, test 100.21"),
        ({"test_cache_ppl": 73.961}, "finished, test with cache 73.96"),
        (
            {"test_dynamic_ppl": 90.0, "test_cache_dynamic_ppl": 70.0},
            "finished, test with dynamic evaluation 90.00, "
            "test with cache and dynamic evaluation 70.00",
        ),
    ],
)
def test_the_end_of_an_evaluation_says_what_it_was_asked_for(results, said):
    end = ev.Finished(status="finished", seconds=1.0, test_ppl=100.208, results=results)
    assert describe_event(end) == said


def test_a_resume_that_was_there_from_the_start_is_no_new_generation(reader):
    writer = EventWriter(reader.path)
    writer.write(step(1))
    offset = writer.offset
    writer.write(step(2))
    writer.write(ev.RunResumed(offset=offset, step=1, epoch=1))
    events = list(reader.read())
    assert [type(e).__name__ for e in events] == ["Step", "RunResumed"]
    assert reader.generation == 0


def test_a_replaced_or_shortened_log_is_read_anew(reader):
    writer = EventWriter(reader.path)
    for number in range(5):
        writer.write(step(number))
    list(reader.read())
    reader.path.write_bytes(b"")
    EventWriter(reader.path).write(step(9))
    assert [e.step for e in reader.read()] == [9]
    assert reader.generation == 1


def test_a_long_log_is_read_in_slices(reader):
    writer = EventWriter(reader.path)
    for number in range(10_000):
        writer.write(step(number))
    found, shares = [e.step for e in reader.read(deadline=0.0)], []
    while reader.unfinished:
        shares.append(reader.share_read)
        assert reader.changed()
        found += [e.step for e in reader.read(deadline=0.0)]
    assert found == list(range(10_000))
    assert reader.generation == 0
    assert len(shares) >= 2
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] <= 1.0
    assert reader.share_read == 1.0
    assert not reader.changed()


def test_a_resume_in_a_later_slice_takes_back_what_was_read_before_it_was_written(reader):
    writer = EventWriter(reader.path)
    writer.write(step(0))
    offset = writer.offset
    for number in range(1, 5000):
        writer.write(step(number))
    assert len(list(reader.read(deadline=0.0))) < 5000
    writer.write(ev.RunResumed(offset=offset, step=0, epoch=1))
    writer.write(step(1))
    assert [getattr(e, "step", None) for e in reader.read()] == [0, 0, 1]
    assert reader.generation == 1


def test_a_resume_that_is_written_while_the_log_is_read_counts(reader):
    writer = EventWriter(reader.path)
    writer.write(step(0))
    offset = writer.offset
    writer.write(step(1))
    reading = reader.read()
    next(reading)
    # The search for resumes is over, the lines are being read.
    for number in range(2, 2000):
        writer.write(step(number))
    writer.write(ev.RunResumed(offset=offset, step=0, epoch=1))
    list(reading)
    writer.write(step(1))
    assert [getattr(e, "step", None) for e in reader.read()] == [0, 0, 1]


def test_nothing_new_gives_no_snapshot(full):
    watcher = Watcher(full.session)
    assert watcher.poll() is not None
    assert watcher.poll() is None
    assert watcher.poll() is None


def test_a_run_s_untouched_view_is_the_same_object_in_the_next_snapshot(full):
    watcher = Watcher(full.session)
    before = looked(watcher)
    full.write(full.session.run(2), step(3700))
    after = looked(watcher)
    assert after.run("001-train") is before.run("001-train")
    assert after.run("002-prune") is not before.run("002-prune")


def test_a_run_that_someone_else_starts_appears_and_a_deleted_one_goes(full):
    watcher = Watcher(full.session)
    watcher.poll()
    new = full.new("train", "from the command line")
    snapshot = looked(watcher)
    assert snapshot.run(new.path.name) is not None
    shutil.rmtree(new.path)
    snapshot = looked(watcher)
    assert snapshot.run(new.path.name) is None


def test_children_of_a_deleted_parent_become_roots(full):
    watcher = Watcher(full.session)
    shutil.rmtree(full.session.run(1).path)
    snapshot = looked(watcher)
    assert [(v.id, v.depth) for v in snapshot.runs] == [(2, 0), (4, 1), (3, 0)]


def test_two_records_that_name_each_other_as_parents_do_not_hang_the_tree(full):
    full.session.run(1).update(parent="demo/002-prune")
    snapshot = looked(Watcher(full.session))
    assert len(snapshot.runs) == 4


def test_a_damaged_record_says_what_is_wrong_and_the_others_are_shown(full):
    (full.session.run(1).path / "run.json").write_text("{ not json")
    snapshot = looked(Watcher(full.session))
    view = snapshot.by_key["001-train"]
    assert view.record is None
    assert view.problem.startswith("cannot be read as JSON")
    assert "run.json" in view.problem
    assert len(snapshot.runs) == 4


def test_a_run_of_a_newer_version_says_to_upgrade(full):
    path = full.session.run(1).path / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 99}))
    # On a busy machine one look reads no more than that run.
    snapshot = looked(Watcher(full.session, first=("001-train",)))
    view = snapshot.by_key["001-train"]
    assert "upgrade lmbench" in view.problem


def test_a_session_of_a_newer_version_says_to_upgrade(full):
    path = full.session.path / "session.json"
    path.write_text(json.dumps({"version": 99, "name": "demo"}))
    snapshot = looked(Watcher(full.session))
    assert "upgrade lmbench" in snapshot.problem


def test_a_corrupt_log_is_a_problem_in_words_and_what_can_be_read_is_shown(full):
    run = full.session.run(2)
    with run.events_path.open("ab") as file:
        file.write(b"\x93\x00nonsense\n" * 3)
    snapshot = looked(Watcher(full.session))
    view = snapshot.by_key["002-prune"]
    assert "3 lines passed over" in view.problem
    assert len(view.curves.steps) == 366


def test_a_session_folder_that_vanishes_is_a_problem_and_no_crash(full):
    watcher = Watcher(full.session)
    watcher.poll()
    shutil.rmtree(full.session.path)
    snapshot = looked(watcher)
    assert snapshot.runs == ()
    assert "no such file" in snapshot.problem
    assert watcher.poll() is None


def test_a_run_that_waits_again_does_not_say_why_it_failed_before(full):
    run = full.session.run(3)
    full.write(run, ev.Failed(t=1.0, reason="out of memory", traceback=""))
    watcher = Watcher(full.session)
    run.update(status="failed", reason="")
    assert looked(watcher).by_key[run.path.name].reason == "out of memory"
    run.update(status="queued")
    assert looked(watcher).by_key[run.path.name].reason == ""


def test_a_worker_that_died_is_lost_only_after_its_witness_had_time_to_tell(full, monkeypatch):
    run = full.session.run(2)
    clock = [100.0]
    monkeypatch.setattr("lmbench.tui.bench.session_watcher.time.monotonic", lambda: clock[0])
    watcher = Watcher(full.session, why_lost=lambda run: "killed, probably out of memory")
    watcher.poll()
    run.update(process_started=1.0)
    snapshot = looked(watcher)
    assert snapshot.by_key["002-prune"].status == "running"
    clock[0] += 10
    snapshot = looked(watcher)
    view = snapshot.by_key["002-prune"]
    assert view.status == "lost"
    assert view.reason == "killed, probably out of memory"


def test_the_pace_is_measured_over_the_last_steps_and_anew_after_a_pause(world):
    run = world.new("train", "a")
    world.live(run)
    world.write(run, STARTED, *(step(n) for n in range(1, 51)))
    watcher = Watcher(world.session)
    snapshot = looked(watcher)
    progress = snapshot.runs[0].progress
    assert progress is not None
    assert (progress.what, progress.fraction, progress.left_s) == ("epoch 1/2", 0.5, 50.0)
    world.write(
        run,
        ev.StatusChanged(t=60.0, status="paused"),
        ev.StatusChanged(t=5000.0, status="running"),
        step(51, t=5001.0),
        step(52, t=5003.0),
    )
    snapshot = looked(watcher)
    progress = snapshot.runs[0].progress
    assert progress is not None
    assert progress.left_s == 96.0


def test_the_pace_of_each_part_of_a_run_is_its_own(world):
    run = world.new("quantize", "a")
    world.live(run)
    parts = [
        *(ev.Progress(t=float(t), what="calibrating", done=t, total=100) for t in range(60, 101)),
        *(
            ev.Progress(t=101.0 + t, what="scoring valid", done=2000 * t, total=200_000)
            for t in range(3)
        ),
    ]
    world.write(run, *parts)
    progress = looked(Watcher(world.session)).runs[0].progress
    assert progress is not None
    assert (progress.what, progress.left_s) == ("scoring valid", 98.0)


def test_many_tensors_pruned_in_one_step_are_one_line_of_the_story(full):
    snapshot = looked(Watcher(full.session))
    notes = [n.text for n in snapshot.by_key["002-prune"].notes if n.kind == "prune_step"]
    assert len(notes) == 36
    assert notes[-1] == "pruned 5 tensors to between 69.3% and 79.6% at step 3,600"


def test_following_a_log_keeps_none_of_its_steps(full):
    watcher = Watcher(full.session)
    watcher.poll()
    history = watcher._runs["001-train"]._history
    kept = [e for events in history._lists.values() for e in events]
    assert not any(isinstance(e, ev.Step) for e in kept)


def test_a_live_run_s_log_is_news_and_that_of_one_that_has_ended_is_not(full):
    watcher = Watcher(full.session)
    first = looked(watcher)
    assert watcher.poll() is None
    full.session.run(2).log_path.write_text("a line\n")
    second = looked(watcher)
    assert second.by_key["002-prune"].log != first.by_key["002-prune"].log
    full.session.run(1).log_path.write_text("a line\n")
    assert watcher.poll() is None


@pytest.mark.parametrize("threads, said", [(1, "1 thread,"), (2, "2 threads,")])
def test_the_story_begins_with_the_threads_counted_in_words(threads, said):
    begun = ev.RunStarted(t=0.0, device="cpu", threads=threads, precision="fp32")
    assert describe_event(begun) == f"began on cpu, {said} fp32"


def test_of_many_runs_those_that_have_ended_are_looked_at_in_turns(full, monkeypatch):
    monkeypatch.setattr(session_watcher, "_FEW", 1)
    watcher = Watcher(full.session)
    watcher.poll()
    ended = full.session.run(1)
    ended.update(name="another")
    seen = [
        snapshot.by_key["001-train"].name
        for _ in range(session_watcher._TURNS)
        if (snapshot := watcher.poll(in_turns=True)) is not None
    ]
    assert seen == ["another"]
    ended.update(name="one more")
    snapshot = looked(watcher)
    assert snapshot.by_key["001-train"].name == "one more"


def test_what_has_not_changed_is_the_same_view_in_the_next_snapshot(full):
    watcher = Watcher(full.session)
    before = looked(watcher)
    full.session.update(workbench={"theme": "light"})
    now = looked(watcher)
    assert before is not now
    assert any(view.depth for view in now.runs)
    for key, view in now.by_key.items():
        assert view is before.by_key[key] or view.live


def test_a_chain_of_a_thousand_runs_is_a_tree(world):
    views = []
    for number in range(999, 2300):
        run = Run(world.session.runs_path / f"{number:03d}-prune")
        parent = f"{number - 1:03d}-prune"
        views.append(RunView(run, run.path.name, None, None, parent=parent))
    ordered = lineage(views)
    assert [view.depth for view in ordered] == list(range(1301))
    assert [view.id for view in ordered] == list(range(999, 2300))


def test_a_number_beyond_all_bounds_is_passed_over_and_what_follows_is_read(full):
    run = full.session.run(3)
    with run.events_path.open("ab") as file:
        line = event_line(step(7))
        file.write(line.replace(b'"step":7', b'"step":1' + 400 * b"0"))
    full.write(run, step(8))
    snapshot = looked(Watcher(full.session))
    view = snapshot.by_key[run.path.name]
    assert list(view.curves.steps["step"]) == [8.0]
    assert "1 line passed over, damaged" in view.problem


def test_runs_that_could_not_be_listed_for_a_moment_are_back(full):
    watcher = Watcher(full.session)
    first = looked(watcher)
    aside = full.session.runs_path.rename(full.session.path / "aside")
    full.session.runs_path.touch()
    hidden = looked(watcher)
    assert hidden.problem.startswith("Not a directory (")
    assert not hidden.complete
    full.session.runs_path.unlink()
    aside.rename(full.session.runs_path)
    again = looked(watcher)
    assert (len(again.runs), again.problem, again.complete) == (len(first.runs), "", True)


def test_of_many_resumes_the_one_that_goes_back_furthest_counts(reader):
    writer = EventWriter(reader.path)
    for number in range(300):
        writer.write(step(number + 1))
        writer.write(ev.RunResumed(offset=0 if number % 2 else 10**9, step=0, epoch=1))
    writer.write(step(999))
    kept = [event.step for event in reader.read() if isinstance(event, ev.Step)]
    # The last one goes back to the beginning.
    assert kept == [999]
