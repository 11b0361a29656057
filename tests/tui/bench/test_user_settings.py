"""The user's settings file: what holds, and what is said of the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lmbench.errors import LmbenchError
from lmbench.tui.bench.user_settings import (
    Settings,
    lists_keys,
    load_settings,
    save_settings,
    settings_path,
    unknown_keys,
    write_keys,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lmbench" / "workbench.yaml"


def written(path: Path, text: str) -> Settings:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return load_settings(path)


def test_without_a_file_everything_is_as_it_comes(path):
    assert load_settings(path) == Settings(path=path)


def test_theme_motion_and_keys_are_taken(path):
    settings = written(path, "theme: light\nmotion: false\nkeys:\n  main.new: n,ctrl+n\n")
    assert (settings.theme, settings.motion) == ("lmbench-light", False)
    assert settings.keys == {"main.new": "n,ctrl+n"}
    assert settings.problems == ()


def test_a_digit_is_a_key(path):
    assert written(path, "keys:\n  main.new: 5\n").keys == {"main.new": "5"}


@pytest.mark.parametrize(
    "text, said",
    [
        ("theme: pink\nmotion: false\n", "theme: 'pink' is none of dark, light, contrast, ansi"),
        ("motion: maybe\n", "motion: 'maybe' is neither true nor false"),
        ("keys: [a]\n", "keys: each is written as"),
        ("colour: red\n", "'colour' is unknown"),
        ("theme: [\n", "line 2:"),
        ("- a\n", "write theme:, motion:, notify: and keys:"),
    ],
)
def test_what_is_wrong_is_told_with_the_file_and_the_rest_holds(path, text, said):
    settings = written(path, text)
    (problem,) = settings.problems
    assert str(path) in problem
    assert said in problem
    assert settings.motion is ("motion: false" not in text)


def test_an_action_that_there_is_not_is_told_with_the_one_probably_meant(path):
    settings = written(path, "keys: {main.nwe: n}\n")
    (line,) = unknown_keys(settings, ["main.new", "runs.filter"])
    assert "no action 'main.nwe': did you mean main.new?" in line


def test_saving_keeps_comments_and_keys(path):
    settings = written(path, "# mine\nmotion: true  # glide\nkeys:\n  main.new: N\n")
    save_settings(replace(settings, theme="lmbench-ansi", motion=False), path)
    text = path.read_text()
    assert "# mine" in text
    assert "motion: false  # glide" in text
    again = load_settings(path)
    assert (again.theme, again.motion, again.keys) == ("lmbench-ansi", False, settings.keys)


ROWS = [("main.new", "n", "New run"), ("app.quit", "q", "Leave the workbench")]


def test_the_written_keys_change_nothing_until_a_line_is_uncommented(path):
    assert write_keys(ROWS, Settings(), path)
    assert load_settings(path) == Settings(path=path)
    uncommented = path.read_text().replace("# main.new: n", "main.new: N")
    assert written(path, uncommented).keys == {"main.new": "N"}


@pytest.mark.parametrize("text", ["theme: ansi\nmotion: false\n", "# mine", ""])
def test_keys_are_added_to_a_file_that_has_none(path, text):
    before = written(path, text)
    assert not lists_keys(path)
    assert write_keys(ROWS, Settings(), path)
    assert path.read_text().startswith(text)
    assert load_settings(path) == before
    assert lists_keys(path)
    uncommented = path.read_text().replace("# app.quit: q", "app.quit: Q")
    assert written(path, uncommented).keys == {"app.quit": "Q"}


def test_a_file_that_has_keys_is_left_alone(path):
    text = "theme: ansi\nkeys: {main.new: N}\n"
    written(path, text)
    assert not write_keys(ROWS, Settings(), path)
    assert path.read_text() == text


@pytest.mark.parametrize("text", ["{theme: ansi}\n", "theme: [\n", "- a\n"])
def test_keys_are_not_added_where_that_would_make_no_settings(path, text):
    written(path, text)
    with pytest.raises(LmbenchError, match="no settings by lines"):
        write_keys(ROWS, Settings(), path)
    assert path.read_text() == text


def test_a_theme_below_the_keys_keeps_the_keys_together(path):
    before = written(path, "keys:\n  main.new: N\ntheme: light\n")
    save_settings(replace(before, theme="lmbench-dark", motion=False, notify=True), path)
    again = load_settings(path)
    assert (again.theme, again.motion, again.notify) == ("lmbench-dark", False, True)
    assert (again.keys, again.problems) == ({"main.new": "N"}, ())


def test_a_folder_that_cannot_be_written_is_told(path):
    path.parent.parent.mkdir(exist_ok=True)
    path.parent.write_text("a file where the folder should be")
    with pytest.raises(LmbenchError, match="cannot be written"):
        save_settings(Settings(), path)


def test_the_file_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("LMBENCH_CONFIG", str(tmp_path))
    assert settings_path() == tmp_path / "workbench.yaml"


def test_an_action_is_found_by_the_name_that_it_had_before(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("keys: {lab.price: x}\n", encoding="utf-8")
    assert load_settings(file).keys == {"lab.evaluate": "x"}


@pytest.mark.parametrize(
    "text",
    [
        "# gr\xfc\xdfe\nkeys: {main.new: N}\n".encode("latin-1"),
        "keys: {main.new: N}\n".encode("utf-16"),
        b"---\nkeys: {main.new: N}\n",
        b"{motion: true, keys: {main.new: N}}\n",
        b"  motion: true\n  keys: {main.new: N}\n",
        b"theme: [\n",
    ],
    ids=["latin-1", "utf-16", "document mark", "flow", "indented", "no YAML"],
)
def test_a_file_that_lines_cannot_be_added_to_is_left_as_it_is(path, text):
    path.parent.mkdir(parents=True)
    path.write_bytes(text)
    with pytest.raises(LmbenchError, match="mend or move it"):
        save_settings(replace(load_settings(path), theme="lmbench-ansi"), path)
    assert path.read_bytes() == text


def test_a_byte_order_mark_is_no_part_of_the_first_setting(path):
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xef\xbb\xbfmotion: false\n")
    save_settings(replace(load_settings(path), theme="lmbench-ansi"), path)
    again = load_settings(path)
    assert (again.theme, again.motion, again.problems) == ("lmbench-ansi", False, ())
