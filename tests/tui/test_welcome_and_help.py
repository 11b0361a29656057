"""The first time, help, and the user's settings, by keys alone."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import driving
import pytest
from driving import bench_of, screen_of, settled, until
from driving import press_in_turn as press
from textual.pilot import Pilot
from textual.widgets import Input, Static

from lmbench.corpus import data_info
from lmbench.errors import LmbenchError
from lmbench.session import Home
from lmbench.tui.app import Workbench
from lmbench.tui.bench.saved_state import remember_session
from lmbench.tui.bench.user_settings import Settings, load_settings
from lmbench.tui.help_screen import HelpScreen
from lmbench.tui.kit.dialog import QuestionDialog
from lmbench.tui.main_screen import MainScreen
from lmbench.tui.make_corpus import name_for, path_of
from lmbench.tui.new_run.screen import NewRunScreen
from lmbench.tui.sessions.screen import SessionsScreen
from lmbench.tui.settings.screen import SettingsScreen
from lmbench.tui.start import session_to_open
from lmbench.tui.welcome_screen import WelcomeScreen


@asynccontextmanager
async def first_time(path: Path) -> AsyncIterator[Pilot[None]]:
    app = Workbench(Home(path), None, follow=False)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        assert isinstance(app.screen, WelcomeScreen)
        yield pilot


def said(pilot: Pilot[None]) -> str:
    return " ".join(str(widget.render()) for widget in pilot.app.screen.query("Static"))


def test_the_workbench_opens_the_last_session_and_else_the_one_that_changed_last(tmp_path):
    home = Home(tmp_path)
    assert session_to_open(home, None) is None
    for name, changed in ("first", 100), ("second", 300), ("third", 200):
        session = home.open_session(name)
        session.write(session.read().model_copy(update={"created": float(changed)}))
        os.utime(session.path / "session.json", (changed, changed))
    assert session_to_open(home, None) == home.session("second")
    remember_session(home, "first")
    assert session_to_open(home, None) == home.session("first")
    assert session_to_open(home, "third") == home.session("third")


async def test_t_starts_a_training_on_the_embedded_corpus_and_shows_it(tmp_path, started):
    async with first_time(tmp_path) as pilot:
        await press(pilot, "t")
        assert isinstance(pilot.app.screen, MainScreen)
        assert bench_of(pilot).selected == "001-train"
    record = started[0].read()
    assert record.config["data"] == "pydoc"
    assert record.name == "first-steps"
    assert record.command.startswith("lmbench train --data pydoc")


async def test_the_ways_can_be_clicked(tmp_path, started):
    async with first_time(tmp_path) as pilot:
        lines = driving.words(pilot).splitlines()
        [row] = [row for row, line in enumerate(lines) if "or a packed session file" in line]
        await pilot.click(offset=(12, row))
        await press(pilot)
        assert isinstance(pilot.app.screen, SessionsScreen)


async def test_w_gets_wikitext_2_and_says_what_to_do_with_it(tmp_path, started, monkeypatch):
    asked = []

    def get(name: str, home: Path, progress: Any) -> Path:
        asked.append(name)
        progress("train.txt", 5, 10)
        return home / "data" / name

    monkeypatch.setattr("lmbench.tui.welcome_screen.data_get", get)
    async with first_time(tmp_path) as pilot:
        await press(pilot, "w")
        assert asked == ["wikitext-2"]
        assert "p trains on it" in said(pilot)


async def test_a_failed_fetch_is_told_and_the_other_ways_stay_open(tmp_path, started, monkeypatch):
    def get(*_: Any) -> Path:
        raise LmbenchError(f"WikiText-2 could not be fetched ({'no network; ' * 20}): the_end")

    monkeypatch.setattr("lmbench.tui.welcome_screen.data_get", get)
    async with first_time(tmp_path) as pilot:
        await press(pilot, "w")
        assert "no network" in said(pilot)
        assert "the_end" in driving.words(pilot)
        assert "╰" in driving.words(pilot)
        await press(pilot, "t")
        assert isinstance(pilot.app.screen, MainScreen)


async def test_m_makes_a_corpus_of_a_text_and_opens_the_form_on_it(tmp_path, started, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "my notes.txt"
    text.write_text("\n\n".join(f"It's the note number {n} of these." for n in range(60)))
    async with first_time(tmp_path / "home") as pilot:
        await press(pilot, "m")
        pilot.app.screen.query_one(Input).value = f"'{text}'"  # as terminals drop a file
        await press(pilot, "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, QuestionDialog))
        assert "It 's the note number 0 of these ." in said(pilot)
        assert not (tmp_path / "home" / "data").exists()
        await press(pilot, "m")
        await until(pilot, lambda: isinstance(pilot.app.screen, NewRunScreen))
        form = screen_of(pilot, NewRunScreen)
        assert form.given == {"data": "my-notes"}
    assert data_info("my-notes", tmp_path / "home")["made"]["splits"]["train"]["documents"] == 54


async def test_a_text_of_which_no_corpus_comes_is_told(tmp_path, started, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.txt").write_bytes(b"\x89PNG\0")
    async with first_time(tmp_path / "home") as pilot:
        await press(pilot, "m", *"gone.txt", "enter")
        assert "there is no such file or folder" in said(pilot)
        for none in ("~nobody-here/text", "x" * 300):
            pilot.app.screen.query_one(Input).value = none
            await press(pilot, "enter")
            assert "there is no such file or folder" in said(pilot)
        pilot.app.screen.query_one(Input).value = "photo.txt"
        await press(pilot, "enter")
        await until(pilot, lambda: "is not UTF-8" in said(pilot))
        assert isinstance(pilot.app.screen, WelcomeScreen)


def test_paths_are_taken_as_terminals_drop_them_and_names_are_free(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = tmp_path / "my notes.txt"
    there.write_text("text")
    for dropped in (f"{there} ", f"'{there}'", str(there).replace(" ", "\\ "), there.as_uri()):
        assert path_of(dropped) == there
    assert name_for(there, Home(tmp_path)) == "my-notes"
    (tmp_path / "data" / "my-notes").mkdir(parents=True)
    assert name_for(there, Home(tmp_path)) == "my-notes-2"
    (tmp_path / "pydoc").mkdir()
    assert name_for(tmp_path / "pydoc", Home(tmp_path)) == "pydoc-2"


async def test_p_fills_the_form_with_a_published_command_on_wikitext_2(tmp_path, started):
    async with first_time(tmp_path) as pilot:
        await press(pilot, "p", "down", "enter")
        form = screen_of(pilot, NewRunScreen)
        assert form.given == {"data": "wikitext-2", "epochs": 6, "tied": True}


async def test_o_shows_the_sessions_and_escape_the_empty_main_screen(tmp_path, started):
    async with first_time(tmp_path) as pilot:
        await press(pilot, "o")
        assert isinstance(pilot.app.screen, SessionsScreen)
        await press(pilot, "escape", "escape")
        assert isinstance(pilot.app.screen, MainScreen)
        assert bench_of(pilot).session == Home(tmp_path).session("default")


def words(pilot: Pilot[None]) -> str:
    """All of the help, as wide as the screen."""
    from rich.console import Console

    screen = screen_of(pilot, HelpScreen)
    console = Console(width=90, color_system=None)
    with console.capture() as capture:
        for part in screen._parts(screen._below()):
            console.print(part)
    return capture.get()


@pytest.mark.parametrize("key", ["question_mark", "f1"])
async def test_help_tells_of_the_focused_panel_first_and_of_every_key(full, key):
    async with full.bench().run_test(size=(80, 24)) as pilot:
        await press(pilot, "2", key)
        told = words(pilot)
        assert told.index("Keys of plots") < told.index("Keys of the screen")
        assert "Keys of runs" in told
        for line in ("New run", "Filter the runs", "Next plot", "Next theme"):
            assert line in told
        await press(pilot, "escape")
        assert isinstance(pilot.app.screen, MainScreen)


async def test_help_in_the_form_tells_of_the_form_while_one_types(full, started):
    async with full.bench().run_test(size=(80, 24)) as pilot:
        await press(pilot, "n", "down", "down", "f1")
        assert "what differs from the default" in words(pilot)
        await press(pilot, "escape")
        assert isinstance(pilot.app.screen, NewRunScreen)


async def test_help_names_no_key_of_everywhere_that_is_typed(full, started):
    async with full.bench().run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        for key, own in (("g", "Write from this prompt"), ("S", "Go to the next mistake")):
            await press(pilot, key, "f1")
            told = words(pilot)
            assert own in told
            assert "Settings: theme, motion, keys" not in told
            assert "Leave the workbench, also while typing" in told
            assert "f1" in told[told.index("Everywhere") :]
            assert "?" not in told[told.index("Everywhere") :]
            await press(pilot, "escape", "escape")


async def test_help_follows_the_theme_and_shows_code_in_its_colours(full):
    async with full.bench().run_test(size=(80, 100)) as pilot:
        await settled(pilot)
        await press(pilot, "g", "f1")
        assert isinstance(pilot.app, Workbench)

        def styles(of: str) -> set[Any]:
            lines = pilot.app.screen._compositor.render_strips()
            return {part.style for line in lines for part in line if of in part.text}

        before = styles("Keys of generate")
        await press(pilot, "ctrl+t")
        accent = pilot.app.colour_style("accent").color
        assert all(style.color == accent for style in styles("Keys of generate"))
        assert styles("Keys of generate") != before
        (code,) = styles("samples.jsonl")
        (plain,) = styles("All texts")
        assert (code.color, code.bgcolor) == (plain.color, plain.bgcolor)


async def test_help_names_z_where_there_is_a_panel_to_maximise(full):
    async with full.bench().run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await press(pilot, "f1")
        assert "Give the panel the whole screen" in words(pilot)
        await press(pilot, "escape", "comma", "f1")
        assert "Give the panel the whole screen" not in words(pilot)


async def test_help_tells_the_keys_of_each_part_of_generation_apart(full):
    async with full.bench().run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await press(pilot, "g", "f1")
        told = words(pilot)
        parts = [
            told.index(f"Keys of generate{part}")
            for part in (
                "\n",
                ", in the prompt",
                ", in the settings",
                ", in the text",
                ", in the list of alternatives",
            )
        ]
        assert parts == sorted(parts)
        assert "To the next match, once something was searched" in told
        apart = told[parts[1] : parts[2]], told[parts[3] : parts[4]]
        assert ["Write from this prompt" in part for part in apart] == [True, False]
        assert ["Choose another word here" in part for part in apart] == [False, True]


async def test_help_shows_the_keys_that_a_user_gave(full):
    settings = Settings(keys={"main.new": "f9"})
    async with full.bench(settings=settings).run_test(size=(80, 24)) as pilot:
        await press(pilot, "question_mark")
        lines = [line.split() for line in words(pilot).splitlines()]
        assert ["f9", "New", "run"] in lines


async def test_keys_of_the_settings_file_hold_and_a_wrong_one_is_told(full, started, tmp_path):
    settings = Settings(keys={"main.new": "f9", "main.nwe": "x"}, path=tmp_path / "w.yaml")
    async with full.bench(settings=settings).run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        assert "no action 'main.nwe': did you mean main.new?" in said(pilot)
        await press(pilot, "escape", "n")
        assert isinstance(pilot.app.screen, MainScreen)
        await press(pilot, "f9")
        assert isinstance(pilot.app.screen, NewRunScreen)


async def test_settings_hold_at_once_and_are_kept(full, tmp_path):
    path = tmp_path / "config" / "workbench.yaml"
    async with full.bench(settings=Settings(path=path)).run_test(size=(80, 24)) as pilot:
        await press(pilot, "comma")
        assert isinstance(pilot.app.screen, SettingsScreen)
        await press(pilot, "right", "down", "right")
        assert pilot.app.theme == "lmbench-light"
        assert pilot.app.animation_level == "none"
    kept = load_settings(path)
    assert (kept.theme, kept.motion) == ("lmbench-light", False)


async def test_ctrl_e_writes_a_file_with_every_action_s_keys(full, tmp_path):
    path = tmp_path / "workbench.yaml"
    async with full.bench(settings=Settings(path=path)).run_test(size=(80, 24)) as pilot:
        await press(pilot, "comma", "ctrl+e", "ctrl+y")
        assert pilot.app.clipboard == str(path)
        await press(pilot, "escape")
        assert isinstance(pilot.app.screen, MainScreen)
    text = path.read_text()
    for name in ("main.new: n", "runs.filter: ", "plots.next: ", "new.start: ctrl+s"):
        assert f"# {name}" in text
    assert load_settings(path) == Settings(path=path)


async def test_ctrl_e_adds_the_keys_to_the_file_that_a_change_of_theme_began(full, tmp_path):
    path = tmp_path / "workbench.yaml"
    async with full.bench(settings=Settings(path=path)).run_test(size=(80, 24)) as pilot:
        await press(pilot, "comma", "right")
        file = pilot.app.screen.query_one("#file", Static)
        assert "no keys yet; Ctrl+E adds" in str(file.render())
        await press(pilot, "ctrl+e")
        bench = bench_of(pilot)
        assert bench.last_message == f"keys: {path}"
        assert "Edit it to give actions other keys" in str(file.render())
        await press(pilot, "ctrl+e")
        assert bench.last_message == f"keys are there already: {path}"
        await press(pilot, "f1")
        assert "Ctrl+E writes every action" in words(pilot)
    text = path.read_text()
    assert text.count("keys:\n") == 1
    assert "# main.new: n" in text
    assert load_settings(path).theme == "lmbench-light"


async def test_without_motion_nothing_glides(full):
    async with full.bench(settings=Settings(motion=False)).run_test() as pilot:
        assert pilot.app.animation_level == "none"
