"""Recipes: what comes with the package fits, and each mistake in one's own has its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmbench.config import TrainConfig, validate
from lmbench.errors import LmbenchError
from lmbench.training.recipe_files import recipe_names, recipe_settings, recipe_summary


@pytest.mark.parametrize("name", recipe_names())
def test_each_recipe_fits_and_says_what_it_is(name: str) -> None:
    config = validate(TrainConfig, recipe_settings(name))
    assert config.model_fields_set == recipe_settings("plain").keys(), "takes back every other one"
    assert 20 < len(recipe_summary(name)) < 120


def test_the_plain_recipe_is_the_defaults() -> None:
    assert validate(TrainConfig, recipe_settings("plain")) == TrainConfig()


def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("version: 1\nsettings: {lr: 3}\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert recipe_settings("~/mine.yaml") == {"lr": 3}


def test_the_recipes_are_of_their_papers() -> None:
    awd = validate(TrainConfig, recipe_settings("awd"))
    assert (awd.nonmono, awd.lr, awd.decay, awd.rate_schedule) == (5, 30.0, 1.0, "decay")
    assert validate(TrainConfig, recipe_settings("onecycle")).rate_schedule == "onecycle"


def test_one_of_ones_own_is_read_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("version: 1\nsettings: {optimizer: adamw, lr: 0.002, nonmono: null}\n")
    assert recipe_settings(str(file)) == {"optimizer": "adamw", "lr": 0.002, "nonmono": None}


@pytest.mark.parametrize(
    "text, lines",
    [
        (
            "version: 1\nsettings:\n  lr: 3\n  nonmon: 5\n  clip: -1\n",
            [
                "line 4: unknown setting 'nonmon'; did you mean 'nonmono'?",
                "line 5: --clip: -1: input should be greater than or equal to 0",
            ],
        ),
        (
            "version: 1\nsetings: {}\n",
            [
                "line 1: settings: is to be a mapping of settings, as lr: 20",
                "line 2: 'setings' is not a key of a recipe (closest: settings)",
            ],
        ),
        (
            "version: 1\nsettings:\n  epochs: true\n",
            ["line 3: --epochs: True: input should be a number"],
        ),
        ("version: 2\nsettings: {lr: 3}\n", ["line 1: write version: 1"]),
        (
            "version: 1\nsettings:\n  lr: 3\n  lr: 4\n",
            ["line 4 the key 'lr' is given twice; rename one"],
        ),
    ],
)
def test_each_mistake_is_a_line_with_the_file_and_its_line(
    text: str, lines: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(LmbenchError) as refused:
        recipe_settings(str(file))
    assert refused.value.message.splitlines() == [f"recipe mine.yaml: {line}" for line in lines]


@pytest.mark.parametrize(
    "content, says",
    [(b"- lr\n", "is not a mapping"), ("version: ä".encode("latin-1"), "recipe mine.yaml: ")],
    ids=["list", "latin-1"],
)
def test_what_is_no_recipe_at_all_is_refused(content: bytes, says: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(LmbenchError, match=says):
        recipe_settings(str(file))


def test_a_name_that_there_is_not_is_told_which_there_are() -> None:
    with pytest.raises(LmbenchError, match=r"--recipe adw: neither .* \(recipes: awd"):
        recipe_settings("adw")
