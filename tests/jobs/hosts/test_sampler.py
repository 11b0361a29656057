"""What the sampler answers, without a process around it."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_runs import make_live
from sampler_world import WORDS, ask, save_weights, speaking_run, words_of
from waiting import until

from lmbench.deploy.runtimes import choose
from lmbench.errors import LmbenchError
from lmbench.jobs.control_file import asked
from lmbench.jobs.hosts.sampler import SamplerHost
from lmbench.jobs.hosts.sampler_messages import (
    MESSAGES,
    Alternative,
    Began,
    Ended,
    Forget,
    Halt,
    Message,
    Offered,
    Opening,
    Refused,
    Write,
    Wrote,
)
from lmbench.session import Home, Run


class World:
    def __init__(self, path: Path) -> None:
        self.home = Home(path)
        self.run = speaking_run(self.home)
        self.received: list[Message] = []
        self.host = SamplerHost(self.received.append)

    def tell(self, request: Message, steps: int | None = None) -> None:
        """Hand over a request and write so many words, or until nothing is left to do."""
        self.host.handle(request)
        while self.host.busy and steps != 0:
            self.host.step()
            steps = None if steps is None else steps - 1

    def write(self, id: int, run: Run | None = None, **changes: Any) -> list[str]:
        self.tell(ask(id, run or self.run, **changes))
        return words_of(self.received, id)

    def of(self, kind: type[Message]) -> list[Any]:
        return [message for message in self.received if isinstance(message, kind)]

    def samples(self) -> list[dict[str, Any]]:
        path = self.run.session.samples_path
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_runtimes_of_the_model_are_offered_when_the_text_is_there(world):
    world.write(1)
    assert [type(message) for message in world.received[-2:]] == [Ended, Offered]
    (offered,) = world.of(Offered)
    assert offered.id == 1
    assert {"naive", "torch", "int8"} <= set(offered.runtimes)
    assert "cuda" not in offered.runtimes
    for turn, name in enumerate(offered.runtimes):
        assert len(world.write(10 + turn, runtime=name)) == 8


def test_auto_is_as_near_to_fp32_as_is_asked_for(world, monkeypatch):
    asked = []

    def chosen(_, purpose, accuracy):
        asked.append((purpose, accuracy))
        return "torch" if accuracy == "exact" else "int8"

    monkeypatch.setattr(choose, "choose_runtime", chosen)
    for turn, accuracy in enumerate(("close", "exact")):
        world.write(1 + turn, runtime="auto", accuracy=accuracy)
    assert asked == [("step", "close"), ("step", "exact")]
    assert [began.runtime for began in world.of(Began)] == ["int8", "torch"]


def test_a_text_has_the_words_that_were_asked_for_each_with_its_alternatives(world):
    text = world.write(1)
    assert len(text) == 8
    assert set(text) <= set(WORDS)
    wrote = world.of(Wrote)
    assert [w.at for w in wrote] == list(range(8))
    assert all(len(w.alternatives) == 5 for w in wrote)
    assert all(
        a.before >= b.before
        for w in wrote
        for a, b in zip(w.alternatives, w.alternatives[1:], strict=False)
    )
    assert [type(m) for m in world.received[:2]] == [Opening, Began]
    assert world.of(Ended) == [Ended(id=1, halted=False)]


def test_the_seconds_of_a_text_only_grow(world):
    world.write(1)
    seconds = [w.seconds for w in world.of(Wrote)]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0


def test_the_same_seed_writes_the_same_and_another_seed_something_else(world):
    assert world.write(1) == world.write(2)
    assert world.write(3, seed=4) != world.write(4)


def test_a_model_is_read_once_and_again_when_its_file_has_changed(world):
    first = world.write(1)
    world.write(2)
    assert len(world.of(Opening)) == 1
    save_weights(world.run, seed=9)
    assert world.write(3) != first
    assert len(world.of(Opening)) == 2


def test_two_texts_are_written_in_turn(world):
    other = speaking_run(world.home, seed=1)
    world.host.handle(ask(1, world.run))
    world.tell(ask(2, other))
    order = [w.id for w in world.of(Wrote)]
    assert order == [1, 2] * 8
    assert words_of(world.received, 1) != words_of(world.received, 2)


def test_a_branch_keeps_the_words_before_it_and_takes_the_chosen_one(world):
    world.write(1)
    wrote = world.of(Wrote)
    kept = tuple(w.word for w in wrote[:3])
    other = next(a.id for a in wrote[3].alternatives if a.id != wrote[3].word)
    text = world.write(2, kept=kept, chosen=other, of=1)
    assert text[0] == WORDS[other]
    assert len(text) == 8 - 3
    assert [w.at for w in world.of(Wrote) if w.id == 2] == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_a_branch_is_the_same_whether_the_sampler_still_has_the_text_or_not(
    world, tmp_path, temperature
):
    world.write(1, temperature=temperature)
    kept = tuple(w.word for w in world.of(Wrote)[:4])
    rewound = world.write(2, kept=kept, chosen=5, of=1, temperature=temperature)
    forgotten = SamplerHost(world.received.append)
    world.host = forgotten
    again = world.write(3, kept=kept, chosen=5, of=1, temperature=temperature)
    assert rewound == again


def test_a_branch_of_a_text_without_a_prompt_begins_after_the_same_unseen_word(world):
    world.write(1, prompt="")
    (opening,) = (began.opening for began in world.of(Began))
    offered = world.of(Wrote)[0].alternatives
    other = next(a for a in offered if a.text != words_of(world.received, 1)[0])

    def branched(id: int, of: int = 0, **changes: Any) -> list[Wrote]:
        world.write(id, prompt="", of=of, opening=opening, **changes)
        return [wrote for wrote in world.of(Wrote) if wrote.id == id]

    held = branched(2, of=1, chosen=other.id)
    assert held[0].alternatives == offered
    # Read again, here with another seed, too, the words are as surprising as those that were held.
    kept = (other.id, held[1].word)
    again = branched(3, of=2, kept=kept, chosen=5)
    world.host = SamplerHost(world.received.append)
    assert [w.bits for w in branched(4, kept=kept, chosen=5)] == [w.bits for w in again]
    assert branched(5, seed=9, chosen=other.id)[0].bits == held[0].bits


def test_a_branch_is_written_by_the_checkpoint_that_the_run_has_by_now(world):
    world.write(1)
    kept = tuple(w.word for w in world.of(Wrote)[:2])
    save_weights(world.run, seed=9)
    text = world.write(2, kept=kept, chosen=5, of=1)
    world.host = SamplerHost(world.received.append)
    assert text == world.write(3, kept=kept, chosen=5)


def test_a_branch_of_another_seed_or_prompt_is_not_a_rewinding(world):
    world.write(1)
    kept = tuple(w.word for w in world.of(Wrote)[:2])
    text = world.write(2, kept=kept, chosen=5, of=1, prompt="March")
    world.host = SamplerHost(world.received.append)
    assert text == world.write(3, kept=kept, chosen=5, prompt="March")


def test_a_branch_with_a_cache_recalls_the_words_that_were_written_without_one(world):
    world.write(1)
    kept = tuple(w.word for w in world.of(Wrote)[:2])
    text = world.write(2, kept=kept, chosen=5, of=1, cache=50, cache_lambda=1.0)
    # With all of the share, only words of the text can come again: the prompt's and the kept ones.
    assert set(text[1:]) <= {"game", *(WORDS[id] for id in kept), text[0]}
    world.host = SamplerHost(world.received.append)
    assert text == world.write(3, kept=kept, chosen=5, cache=50, cache_lambda=1.0)


def test_unk_is_not_written_where_it_is_ruled_out(world):
    text = world.write(1, words=200, no_unk=True)
    assert "<unk>" not in text
    assert "<unk>" in world.write(2, words=200)


def test_words_that_the_model_does_not_know_are_told(world):
    world.write(1, prompt="the zyzzyva game")
    assert world.of(Began)[0].unknown == ("zyzzyva",)


def test_a_halted_text_writes_no_more_is_recorded_and_can_be_branched(world):
    world.tell(ask(1, world.run, words=1000), steps=5)
    world.host.handle(Halt(id=1))
    assert world.of(Ended) == [Ended(id=1, halted=True)]
    assert not world.host.busy
    assert len(world.samples()[0]["text"].split()) == 5
    kept = tuple(w.word for w in world.of(Wrote)[:2])
    assert len(world.write(2, kept=kept, chosen=4, of=1)) == 6


def test_a_forgotten_text_is_not_recorded(world):
    world.tell(ask(1, world.run, words=1000), steps=5)
    world.host.handle(Forget(id=1))
    assert not world.host.busy
    assert world.samples() == []


def test_each_text_is_added_to_the_session_s_samples_with_all_that_repeats_it(world):
    text = world.write(1, temperature=0.5)
    kept = tuple(w.word for w in world.of(Wrote)[:2])
    world.write(2, kept=kept, chosen=4, of=1, temperature=0.5)
    first, second = world.samples()
    assert first["text"].split() == text
    assert (first["run"], first["prompt"], first["seed"]) == (world.run.ref, "the game", 3)
    assert first["settings"]["temperature"] == 0.5
    assert first["tokens_per_s"] > 0
    assert second["settings"]["branch"] == {"at": 2, "word": WORDS[4]}
    assert second["text"].split()[:2] == text[:2]


def test_a_text_that_cannot_be_recorded_is_written_all_the_same_and_says_so(world):
    world.run.session.samples_path.mkdir()
    assert len(world.write(1)) == 8
    assert "not recorded" in world.of(Ended)[-1].problem


def test_a_text_of_a_session_that_another_process_holds_is_written_all_the_same(world, monkeypatch):
    def held(*_: object) -> None:
        raise LmbenchError("another process has held a lock")

    monkeypatch.setattr("lmbench.jobs.hosts.sampler.append_sample", held)
    assert len(world.write(1)) == 8
    assert "another process has held a lock" in world.of(Ended)[-1].problem
    assert world.of(Refused) == []


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"temperature": -1}, "--temperature"),
        ({"top_p": 0}, "--top-p"),
        ({"words": 0}, "--words"),
        ({"colour": "red"}, "unknown setting 'colour'"),
        ({"runtime": "abacus"}, "runtime 'abacus'"),
        ({"checkpoint": "last"}, "no checkpoint 'last' yet"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words_and_the_next_request_works(world, settings, words):
    world.write(1, **settings)
    assert isinstance(world.received[-1], Refused)
    assert world.received[-1].id == 1
    assert words in world.received[-1].reason
    assert len(world.write(2)) == 8


def test_a_run_that_is_not_there_a_word_that_is_none_and_damaged_weights_are_refused(world):
    world.tell(Write(id=1, run="/nowhere/003-train", settings={}))
    assert "/nowhere/003-train" in world.received[-1].reason
    world.write(2, kept=(1,), chosen=10**6)
    assert "no word 1000000" in world.received[-1].reason
    (world.run.path / "best" / "model.safetensors").write_bytes(b"rubbish")
    world.write(3)
    assert "cannot be read as safetensors" in world.received[-1].reason


def test_weights_that_are_not_finite_are_refused_in_words(world):
    import torch
    from safetensors.torch import load_file, save_file

    path = world.run.path / "best" / "model.safetensors"
    save_file({n: torch.full_like(t, torch.nan) for n, t in load_file(path).items()}, path)
    world.write(1)
    assert "not finite" in world.received[-1].reason


def test_an_answer_cannot_be_asked(world):
    world.host.handle(Ended(id=4, halted=False))
    assert world.received[-1] == Refused(id=4, reason="'ended' is an answer, not a request")


def test_only_so_many_texts_and_models_are_kept(world):
    runs = [speaking_run(world.home, seed=seed) for seed in range(6)]
    for id, run in enumerate(runs, start=1):
        world.write(id, run)
    for id in range(20, 40):
        world.write(id)
    assert len(world.host._texts) <= 8
    assert len(world.host._models) <= 4


def test_a_text_that_is_being_written_is_never_let_go_of(world):
    for id in range(1, 10):
        world.host.handle(ask(id, world.run))
    while world.host.busy:
        world.host.step()
    assert {ended.id for ended in world.of(Ended)} == set(range(1, 10))
    assert all(len(words_of(world.received, id)) == 8 for id in range(1, 10))


_text = st.text(st.characters(exclude_categories=["Cs"]))
_alternatives = st.builds(
    Alternative, id=st.integers(0, 99), text=_text, before=st.floats(0, 1), after=st.floats(0, 1)
)
_messages = st.one_of(
    st.builds(
        Write,
        id=st.integers(0),
        run=_text,
        settings=st.dictionaries(_text, st.integers() | _text),
        kept=st.lists(st.integers(0, 99)).map(tuple),
        chosen=st.none() | st.integers(0, 99),
        of=st.integers(0, 9),
    ),
    st.builds(
        Wrote,
        at=st.integers(0, 99),
        word=st.integers(0, 99),
        text=_text,
        bits=st.floats(0, 99),
        probability=st.floats(0, 1),
        seconds=st.floats(0, 99),
        alternatives=st.lists(_alternatives, max_size=3).map(tuple),
    ),
    st.builds(Began, runtime=_text, unknown=st.lists(_text).map(tuple)),
    st.builds(Refused, reason=_text),
    st.builds(Ended, halted=st.booleans(), problem=_text),
    st.builds(Offered, runtimes=st.lists(_text).map(tuple)),
)


@given(_messages)
def test_a_message_survives_the_line_it_is_sent_as(message):
    line = MESSAGES.line(message)
    assert line.count(b"\n") == 1
    assert MESSAGES.parse(line) == message


@given(st.binary())
def test_a_line_of_rubbish_is_a_value_error_and_nothing_else(line):
    with contextlib.suppress(ValueError):
        MESSAGES.parse(line)


@pytest.mark.parametrize(
    "line, words",
    [
        (b"[]", "Input should be an object"),
        (b'{"kind": "sing"}', "Input tag 'sing' found using 'kind' does not match"),
        (b'{"kind": ["write"]}', "Input tag '['write']'"),
        (b'{"kind": "write"}', "write.run: Field required"),
        (b'{"kind": "write", "run": 3}', "write.run: Input should be a valid string"),
        (b'{"kind": "write", "run": "x", "kept": [1, "b"]}', "write.kept.1: Input should be"),
        (b'{"kind": "halt", "id": true}', "halt.id: Input should be a valid integer"),
        (b'{"kind": "halt", "loudly": 1}', "halt.loudly: Unexpected keyword argument"),
        (b'{"kind": "wrote", "alternatives": [{"id": 1}]}', "wrote.at: Field required"),
        (b"[" * 5000, "nested too deeply"),
    ],
)
def test_a_wrong_message_says_what_is_wrong_with_it(line, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        MESSAGES.parse(line)


def test_a_run_at_work_that_has_saved_nothing_is_asked_to(world):
    run = world.run
    (run.path / "best").rename(run.path / "kept")
    make_live(run)

    def work() -> None:
        until(lambda: "checkpoint" in asked(run))
        (run.path / "kept").rename(run.path / "last")

    worker = threading.Thread(target=work)
    worker.start()
    assert len(world.write(1, checkpoint="last")) == 8
    worker.join()


def test_a_run_that_ended_without_a_checkpoint_is_not_waited_for(world):
    (world.run.path / "best").rename(world.run.path / "kept")
    world.write(1, checkpoint="last")
    (refused,) = world.of(Refused)
    assert "has no checkpoint 'last' yet" in refused.reason
