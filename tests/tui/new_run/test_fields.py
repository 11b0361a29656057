"""Settings in a form: every one that there is, and each text back to its value."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmbench.config import Config, PruneConfig, QuantizeConfig, SensitivityConfig, TrainConfig
from lmbench.config.training import laid_over
from lmbench.tui.new_run.fields import Setting, parse, problems, settings_of, shown

MODELS = (TrainConfig, PruneConfig, QuantizeConfig, SensitivityConfig)


def setting(model: type[Config], name: str) -> Setting:
    return next(one for one in settings_of(model) if one.name == name)


@pytest.mark.parametrize("model", MODELS)
def test_each_setting_is_asked_for_once_but_for_those_about_the_command(model):
    names = [one.name for one in settings_of(model)]
    assert sorted(names) == sorted(set(model.model_fields) - {"cuda", "allow_cpu", "nodes"})


@pytest.mark.parametrize("model", MODELS)
def test_the_settings_of_a_heading_stand_together(model):
    groups = [one.group for one in settings_of(model)]
    changes = sum(a != b for a, b in itertools.pairwise(groups))
    assert changes == len(set(groups)) - 1


@pytest.mark.parametrize("model", MODELS)
def test_each_default_comes_back_from_its_text(model):
    for one in settings_of(model):
        assert parse(one, shown(one, one.default)) == one.default, one.name


@given(st.floats(min_value=1e-9, max_value=1e6))
def test_a_number_comes_back_exactly_from_its_text(value: float):
    one = setting(TrainConfig, "lr")
    assert parse(one, shown(one, value)) == value


@pytest.mark.parametrize(
    "name, words",
    [
        ("emsize", "1 or more"),
        ("nlayers", "1 to 64"),
        ("dropout", "0 to below 1"),
        ("decay", "above 0 to 1"),
        ("lr", "above 0"),
        ("seed", "0 or more"),
    ],
)
def test_bounds_are_told_in_words_and_those_that_only_catch_slips_are_left_out(name, words):
    assert setting(TrainConfig, name).bounds == words


def test_what_may_be_left_open_begins_with_that_choice():
    one = setting(QuantizeConfig, "per_channel")
    assert one.choices == ("–", "no", "yes")
    assert [parse(one, text) for text in one.choices] == [None, False, True]


def test_a_number_that_may_be_left_open_can_be_none():
    assert [parse(setting(TrainConfig, "nonmono"), text) for text in ("", "none")] == [None, None]
    assert parse(setting(TrainConfig, "teacher"), "none") == "none"
    with pytest.raises(ValueError, match="a number is wanted"):
        parse(setting(TrainConfig, "lr"), "none")


def test_several_numbers_are_parted_by_blanks_or_commas():
    one = setting(SensitivityConfig, "levels")
    assert parse(one, "0, 0.5  .9") == (0.0, 0.5, 0.9)


def test_a_comma_parts_thousands_alone():
    one = setting(TrainConfig, "emsize")
    assert [parse(one, text) for text in ("1,500", "12,000,000")] == [1500, 12_000_000]
    for text in ("1,5", "2,0,0", "1,50", "1500,000", ","):
        with pytest.raises(ValueError, match="a whole number is wanted"):
            parse(one, text)


def test_several_texts_are_parted_by_blanks_alone():
    one = setting(QuantizeConfig, "override")
    given = ("decoder:bits_weights=8,clip_acts=avg", r"rnn\..*:fp16=yes")
    assert parse(one, shown(one, given)) == given
    assert problems(QuantizeConfig, {"override": given}) == {}
    assert "write PATTERN" in problems(QuantizeConfig, {"override": ("decoder",)})["override"]


@pytest.mark.parametrize("values", [{"auto": True}, {"budget": "4MB"}])
def test_a_search_and_its_budget_need_each_other(values: dict[str, Any]):
    assert set(problems(QuantizeConfig, values)) == {"budget"}
    assert problems(QuantizeConfig, {"auto": True, "budget": "4MB"}) == {}


@pytest.mark.parametrize(
    "values, wrong",
    [
        ({}, {}),
        ({"dropout": 1.0, "epochs": 0}, {"dropout": "0 to below 1", "epochs": "1 or more"}),
        ({"lr": 1e7, "emsize": 70_000}, {"lr": "at most 1e+06", "emsize": "at most 65,536"}),
        ({"lr": 0.0}, {"lr": "above 0"}),
        (
            {"tied": True, "emsize": 3},
            {"tied": "tied needs emsize = nhid or a projection, and 3 is not 200"},
        ),
        (
            {"warmup": 40.0},
            {"warmup": "the rate would rise for all of the training; use less than --epochs 40"},
        ),
        (
            {"lr_schedule": "decay"},
            {"lr_schedule": "needs --decay, by which the rate is multiplied after each epoch"},
        ),
        ({"gpus": 3}, {"batch_size": "cannot be shared equally by --gpus 3; use a multiple of 3"}),
    ],
)
def test_every_mistake_is_found_at_once(values: dict[str, Any], wrong: dict[str, str]):
    assert problems(TrainConfig, values) == wrong


def test_of_settings_that_contradict_a_parents_the_given_one_is_taken():
    assert laid_over({"decay": 0.9, "lr": 3}, {"lr_schedule": "cosine"}) == {
        "lr": 3, "lr_schedule": "cosine",
    }  # fmt: skip
    assert laid_over({"lr_schedule": "cosine"}, {"decay": 0.9}) == {"decay": 0.9}
    assert laid_over({"lr_schedule": "cosine"}, {"decay": None})["lr_schedule"] == "cosine"


def test_a_device_that_there_is_not_is_a_mistake():
    assert set(problems(TrainConfig, {"device": "abacus"})) == {"device"}
