"""One event, one line of strict JSON, and back."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmbench.session import events as ev
from lmbench.session.events import Event, event_line, parse_event

KINDS = [e for e in vars(ev).values() if isinstance(e, type) and issubclass(e, Event)][1:]

numbers = st.floats(allow_nan=False)
texts = st.text(st.characters(), max_size=20)
rows = st.dictionaries(
    texts,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9) | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)
BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "Number": numbers,
    "Number | None": st.none() | numbers,
    "int": st.integers(-(2**63), 2**63),
    "str": texts,
    "bool": st.booleans(),
    "Row": rows,
    "tuple[Number, ...]": st.lists(numbers, max_size=3).map(tuple),
    "tuple[Row, ...]": st.lists(rows, max_size=3).map(tuple),
}


def any_event(kind: type[Event]) -> st.SearchStrategy[Event]:
    return st.builds(kind, **{f.name: BY_TYPE[str(f.type)] for f in own_fields(kind)})


def own_fields(kind: type[Event] | Event) -> list[dataclasses.Field[Any]]:
    """Without those that say which kind of event it is."""
    return [f for f in dataclasses.fields(kind) if f.name not in ("v", "kind")]


any_events = st.sampled_from(KINDS).flatmap(any_event)


@given(any_events)
def test_an_event_comes_back_from_its_line_as_it_was(event: Event) -> None:
    line = event_line(event)
    assert parse_event(line) == event
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1


@given(any_events)
def test_a_line_is_json_for_readers_that_know_nothing_of_nan(event: Event) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    document = json.loads(event_line(event).decode("utf-8"), parse_constant=refuse)
    assert document["kind"] == event.kind
    assert document["v"] == 1


@given(st.binary(max_size=200))
def test_no_bytes_whatever_are_fatal(line: bytes) -> None:
    parse_event(line)


@given(any_events, st.data())
def test_a_torn_line_is_passed_over(event: Event, data: st.DataObject) -> None:
    line = event_line(event).rstrip(b"\n")
    length = data.draw(st.integers(0, len(line) - 1))
    assert parse_event(line[:length]) is None


@given(any_events, st.data())
def test_a_field_of_a_wrong_type_makes_no_event(event: Event, data: st.DataObject) -> None:
    document = json.loads(event_line(event))
    field = data.draw(st.sampled_from([f for f in own_fields(event) if f.name != "t"]))
    document[field.name] = {"str": 3, "bool": 1}.get(str(field.type), True)
    assert parse_event(json.dumps(document)) is None


def test_a_field_of_a_wrong_type_makes_no_event_beside_half_a_surrogate_pair() -> None:
    score = ev.Score(split="\ud800", loss=1.5, ppl=1.5, tokens=1, tokens_per_s=1.0)
    line = event_line(score).decode()
    assert parse_event(line) == score
    assert parse_event(line.replace('"loss": 1.5', '"loss": true')) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_without_a_word_in_json_come_back(value: float) -> None:
    score = ev.Score(split="test", loss=value, ppl=1.5, tokens=1, tokens_per_s=1.0)
    event = parse_event(event_line(score))
    assert isinstance(event, ev.Score)
    assert str(event.loss) == str(value)


@pytest.mark.parametrize(
    "event",
    [
        ev.Warned(message="caf\udce9.txt"),
        ev.Warned(t=math.inf, message="caf\udce9.txt"),
        ev.Calibration(module="m", stats={"caf\udce9": None}),
        ev.Calibration(t=math.inf, module="m", stats={"caf\udce9": None}),
    ],
)
def test_half_a_surrogate_pair_is_kept(event: Event) -> None:
    assert parse_event(event_line(event)) == event
    event_line(event).decode("utf-8")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"null",
        b'{"v": 1}',
        b'{"v": 1, "kind": []}',
        b'{"v": 1, "kind": "unheard_of", "t": 1}',
        b'{"v": 2, "kind": "warning", "t": 1, "message": "later"}',
        b'{"v": 1, "kind": "warning", "t": NaN, "message": "no JSON"}',
        b'{"v": 1, "kind": "sparsity", "t": 1, "step": 1, "epoch": 1, "tensors": [3], '
        b'"parameters": 1, "nonzero": 1, "total": 0.0}',
        b"[" * 100_000,
        b"\x00" * 64,
    ],
)
def test_what_is_no_event_of_ours_is_passed_over(line: bytes) -> None:
    assert parse_event(line) is None


def test_fields_of_a_later_version_are_passed_over() -> None:
    line = b'{"v": 1, "kind": "warning", "t": 1.0, "message": "hot", "degrees": 90}'
    assert parse_event(line) == ev.Warned(t=1.0, message="hot")
