"""How far a validation is, told at most once a second."""

from __future__ import annotations

import torch

from lmbench.model.rnn import RNNModel
from lmbench.session.events import Event, Progress
from lmbench.training import evaluate as module
from lmbench.training.evaluate import evaluate, report_progress


def test_a_long_validation_is_told_once_a_second_and_a_short_one_not(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    said: list[Event] = []
    progress = report_progress(said.append, "validating")
    for done in range(1, 11):
        now[0] += 0.3
        progress(done, 10)
    told = [event for event in said if isinstance(event, Progress)]
    assert [(event.what, event.done) for event in told] == [("validating", 4), ("validating", 8)]


def test_evaluate_tells_each_window(monkeypatch):
    monkeypatch.setattr(module, "_REPORT_EVERY_S", 0.0)
    model = RNNModel("LSTM", 7, 4, 4, 1)
    data = torch.arange(22).reshape(11, 2) % 7
    said: list[Event] = []
    evaluate(model, data, 4, report_progress(said.append, "validating"))
    progress = [event for event in said if isinstance(event, Progress)]
    assert [(event.done, event.total) for event in progress] == [(4, 10), (8, 10), (10, 10)]
