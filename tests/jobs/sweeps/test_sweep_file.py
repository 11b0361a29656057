"""Every mistake of a sweep's file is a line that names its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweep_world import SMALL, SWEEP

from lmbench.errors import LmbenchError
from lmbench.jobs.sweeps.sweep_file import Sweep, parse_sweep


def read(text: str) -> Sweep:
    return parse_sweep(text.encode(), Path("some/levels.yaml"))


def mistakes(text: str) -> list[str]:
    with pytest.raises(LmbenchError) as refused:
        read(text)
    return refused.value.message.split("\n")


def test_a_whole_file_is_read() -> None:
    sweep = read(SWEEP)
    assert (sweep.name, sweep.seeds) == ("study", (1111, 1112))
    train, prune = sweep.stages
    assert (train.name, train.sources) == ("train", ())
    assert prune.sources == ("train",)
    assert list(prune.axes["compress"]) == ["levels/agp-50.yaml", "levels/agp-80.yaml"]


def test_a_sweep_without_a_name_has_its_files() -> None:
    assert read("version: 1\nstages: [{kind: train}]\n").name == "levels"


def test_values_of_number_settings_are_numbers_however_they_are_written() -> None:
    axes = "{lr: [1e-3, 2, 1e-1], nonmono: {from: 1, to: 4, count: 3}, data: ['1e3']}"
    [stage] = read(f"version: 1\nstages: [{{kind: train, axes: {axes}}}]\n").stages
    assert stage.axes == {"lr": [0.001, 2, 0.1], "nonmono": [1, 2, 4], "data": ["1e3"]}


def test_all_mistakes_are_told_at_once_in_the_order_of_their_lines() -> None:
    text = f"""version: 1
sedes: 3
seeds: [1, 2, 1]
stages:
  - kind: train
    settings: {{{SMALL}, lrr: 3}}
    axes:
      nhid: []
      dropout: [0.1, high]
      weight_decay: {{from: 0, to: 1}}
  - kind: quantize
    settings: {{preset: int8-best}}
    axes: {{preset: [int8-best]}}
"""
    found = mistakes(text)
    assert [line.split(":")[1] for line in found] == [f" line {n}" for n in (2, 3, 6, 8, 9, 10, 13)]
    assert "'sedes' is not a key of a sweep (closest: seeds" in found[0]
    assert "1 is there twice" in found[1]
    assert "'lrr' is not a setting of train (closest: lr" in found[2]
    assert "nhid: is empty" in found[3]
    assert "dropout: 2: 'high'" in found[4]
    assert "either step: or count:" in found[5]
    assert "preset: is among the settings, too" in found[6]


@pytest.mark.parametrize(
    "text, words",
    [
        ("[]", "is not a mapping"),
        ("stages: [{kind: train}]", "write version: 1"),
        ("version: 2\nstages: [{kind: train}]", "2 is not known"),
        ("version: 1", "list at least one"),
        ("version: 1\nstages: [{kind: pack}]", "must be one of train, prune, quantize"),
        ("version: 1\nstages: [{kind: train, from: 3}]", "a training starts from nothing"),
        (
            "version: 1\nstages: [{kind: prune, from: two, settings: {compress: small-80}}, "
            "{kind: quantize, name: two}]",
            "stage two comes later",
        ),
        ("version: 1\nstages: [{kind: quantize}]", "quantizes nothing"),
        ("version: 1\nstages: [{kind: prune}]", "has no schedule"),
        ("version: 1\nstages: [{kind: prune, settings: {compress: null}}]", "has no schedule"),
        ("version: 1\nstages: [{kind: prune, axes: {compress: [x, null]}}]", "has no schedule"),
        (
            "version: 1\nstages: [{kind: train}, {kind: quantize}, {kind: quantize, name: q}]",
            "is quantized already",
        ),
        ("version: 1\nstages: [{kind: train}, {kind: train}]", "two stages are called train"),
        ("version: 1\nseeds: 2\nstages: [{kind: train, settings: {seed: 3}}]", "given twice"),
        ("version: 1\nseeds: 0\nstages: [{kind: train}]", "write how many"),
        ("version: 1\nstages: [{kind: train, seeds: 2}]", "write seeds: at the top of the file"),
        ("version: 1\nstages: [{kind: train, axes: {seed: [1, 2]}}]", "seeds are no axis"),
        ("version: 1\nseeds: 2\nstages: [{kind: quantize, from: 3}]", "have its seed"),
        ("version: 1\nsearch: tpo\nstages: [{kind: train}]", "'tpo' is unknown (closest: tpe"),
        ("version: 1\nsearch: tpe\nstages: [{kind: train}]", "say how many combinations"),
        (
            "version: 1\nsearch: tpe\nruns: 1\nstages: [{kind: train}, {kind: quantize}, "
            "{kind: quantize, name: q, from: train}]",
            "one chain of stages; let this one start from quantize",
        ),
        (
            "version: 1\nsearch: tpe\nruns: 1\nearly_stopping: true\nstages: [{kind: train}]",
            "goes with search: grid or random",
        ),
        ("version: 1\nsearch: random\nstages: [{kind: train}]", "say how many"),
        ("version: 1\nruns: 3\nstages: [{kind: train}]", "goes with search: random"),
        (
            "version: 1\nsearch: random\nruns: 3\nstages: [{kind: train, axes: {lr: [1, 2]}}]",
            "3 of 2 combinations",
        ),
        ("version: 1\nversion: 1", "line 2 the key 'version' is given twice"),
    ],
)
def test_a_mistake_is_named(text: str, words: str) -> None:
    assert any(words in line for line in mistakes(text)), mistakes(text)


def test_a_thousand_million_combinations_are_refused_without_being_made() -> None:
    thousand = "{from: 1, to: 1000, step: 1}"
    text = (
        "version: 1\nstages: [{kind: train, axes: "
        f"{{nhid: {thousand}, emsize: {thousand}, batch_size: {thousand}}}}}]"
    )
    assert "1,000,000,000 runs, and 10,000 are the most" in mistakes(text)[0]


def test_the_lines_of_what_an_alias_repeats_are_those_of_its_anchor() -> None:
    text = """version: 1
stages:
  - kind: train
    settings: &small
      lr: 3
      nhdi: 3
  - {kind: prune, settings: *small}
"""
    found = mistakes(text)
    assert [line for line in found if "nhdi" in line and " line 6:" in line]
