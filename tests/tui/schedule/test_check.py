"""Mistakes of a schedule with the line they are on."""

from __future__ import annotations

import pytest

from lmbench.config import PruneConfig
from lmbench.distiller.schedules.preset_files import preset_names, preset_path
from lmbench.tui.schedule.check import check_text, curves
from lmbench.tui.schedule.yaml_editor import spans

TIED = PruneConfig(tied=True, epochs=6)
TEXT = preset_path("small-80").read_text(encoding="utf-8")


def problem_lines(text: str) -> list[str | None]:
    """The text of each line that is found wrong; None where none is named."""
    lines = text.splitlines()
    found = check_text(text, TIED, 33_278).problems
    return [None if p.line is None else lines[p.line].strip() for p in found]


def test_a_preset_is_in_order_and_comes_with_its_plan():
    checked = check_text(TEXT, TIED, 33_278)
    assert checked.problems == ()
    assert checked.plan is not None
    assert checked.plan.final_nonzero == 1_457_587


def test_a_training_that_follows_its_schedule_is_judged_at_the_length_it_will_have():
    short = TIED.model_copy(update={"epochs": 2})
    as_set = check_text(TEXT, short, 33_278)
    assert as_set.plan is not None
    (warning,) = as_set.plan.notes
    assert "--epochs 6 completes it" in warning
    lengthened = check_text(TEXT, short, 33_278, lengthened=True)
    assert lengthened.plan is not None
    assert lengthened.plan.notes == ()
    assert lengthened.plan.epochs == 6
    longer = check_text(TEXT, TIED.model_copy(update={"epochs": 9}), 33_278, lengthened=True)
    assert longer.plan is not None
    assert longer.plan.epochs == 9


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_can_be_drawn(name):
    checked = check_text(preset_path(name).read_text(encoding="utf-8"), TIED, 33_278)
    assert checked.problems == ()
    assert checked.plan is not None
    assert all(len(one.x) for one in curves(checked.plan, [None] * 8))


@pytest.mark.parametrize(
    "right, wrong, line",
    [
        ("final_sparsity: 0.806", "final_sparsity: 1.5", "final_sparsity: 1.5"),
        ("rnn.weight_ih_l1", "rnn.weight_ih_l9", "weights: [rnn.weight_ih_l9, rnn.weight_hh_l1]"),
        ("weights: [encoder.weight]", "wieghts: [encoder.weight]", "wieghts: [encoder.weight]"),
        ("policies:", "policies", "- pruner: {instance_name: l0_rnn_pruner}"),
        ("version: 1", "version: 9", "version: 9"),
        ("pruners:", "prunes:", "prunes:"),
        (
            "instance_name: embedding_pruner",
            "instance_name: nobody",
            "- pruner: {instance_name: nobody}",
        ),
    ],
)
def test_each_mistake_names_its_line(right, wrong, line):
    assert line in problem_lines(TEXT.replace(right, wrong, 1))


def test_a_mistake_in_a_later_entry_is_not_looked_for_in_an_earlier_one():
    text = TEXT[::-1].replace("frequency: 1"[::-1], "frequncy: 1"[::-1], 1)[::-1]
    found = check_text(text, TIED, 33_278).problems
    lines = text.splitlines()
    assert {p.line for p in found} == {lines.index("    frequncy: 1"), len(lines) - 4}


def test_yaml_that_is_torn_names_the_line_where_it_tears():
    text = "version: 1\npruners:\n  a: {class: X\npolicies: []\n"
    (problem,) = check_text(text, TIED, 100).problems
    assert problem.line in (2, 3)


@pytest.mark.parametrize("text", ["", "- a", "just words", "\t", "a: &a [*a]"])
def test_what_is_no_schedule_at_all_is_told_and_crashes_nothing(text):
    checked = check_text(text, TIED, 100)
    assert checked.problems
    assert checked.plan is None


def test_tensors_that_go_alike_share_a_curve_and_the_model_has_one():
    plan = check_text(TEXT, TIED, 33_278).plan
    assert plan is not None
    labels = [one.label for one in curves(plan, [None])]
    assert labels == [
        "rnn.weight_ih_l0, hh_l0, ih_l1, hh_l1",
        "encoder.weight",
        "whole model",
    ]


def test_yaml_is_coloured_by_what_stands_where():
    line = '  - pruner: {instance_name: "a # b"}  # 12: no key'
    parts = {line[start:end].strip(): kind for start, end, kind in spans(line)}
    assert parts["pruner"] == parts["instance_name"] == "key"
    assert parts['"a # b"'] == "string"
    assert parts["# 12: no key"] == "comment"
    assert ("5.0", "number") in [(line[a:b], k) for line in ["lr: 5.0"] for a, b, k in spans(line)]
