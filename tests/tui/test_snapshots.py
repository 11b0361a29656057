"""How the main screen, help and welcome look, with a clock that stands still."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import Snap, at_each_size, pressing
from workbench_world import NOON

from lmbench.session import Home
from lmbench.tui.app import Workbench
from lmbench.tui.demo import Player, recording

# Into the pruning, when half of it is done.
MIDWAY_S = 70.0


def bench(folder: Path, seconds: float = MIDWAY_S) -> Workbench:
    home = Home(folder)
    player = Player(recording(), home)
    session = player.start(NOON)
    return Workbench(home, session, player=player, clock=lambda: NOON + seconds, follow=False)


@at_each_size
def test_the_main_screen_midway_through_pruning(snap_compare: Snap, tmp_path, size):
    assert snap_compare(bench(tmp_path), terminal_size=size, run_before=pressing())


@at_each_size
def test_two_runs_overlaid_and_read_off_with_the_cursor(snap_compare: Snap, tmp_path, size):
    keys = ("up", "space", "down", "2", *["left"] * 9)
    assert snap_compare(bench(tmp_path), terminal_size=size, run_before=pressing(*keys))


@at_each_size
def test_the_sparsity_of_each_tensor(snap_compare: Snap, tmp_path, size):
    keys = ("2", "right_square_bracket", "right_square_bracket", "t")
    assert snap_compare(bench(tmp_path), terminal_size=size, run_before=pressing(*keys))


@at_each_size
def test_the_log_of_a_run(snap_compare: Snap, tmp_path, size):
    assert snap_compare(bench(tmp_path), terminal_size=size, run_before=pressing("5"))


@pytest.mark.parametrize("name", ["light", "contrast", "ansi"])
def test_the_other_themes(snap_compare: Snap, tmp_path, name):
    before = pressing("up", "space", "down", theme=f"lmbench-{name}")
    assert snap_compare(bench(tmp_path), terminal_size=(120, 30), run_before=before)


@at_each_size
def test_a_filter_and_its_answer(snap_compare: Snap, tmp_path, size):
    keys = ("slash", *"int8")
    assert snap_compare(bench(tmp_path), terminal_size=size, run_before=pressing(*keys))


@at_each_size
def test_an_empty_session(snap_compare: Snap, tmp_path, size):
    home = Home(tmp_path)
    app = Workbench(home, home.open_session("new"), clock=lambda: NOON, follow=False)
    assert snap_compare(app, terminal_size=size, run_before=pressing())


@at_each_size
def test_the_help(snap_compare: Snap, full, size):
    before = pressing("question_mark")
    assert snap_compare(full.bench(), terminal_size=size, run_before=before)


@at_each_size
def test_the_words_of_a_text_of_ones_own(snap_compare: Snap, tmp_path, monkeypatch, size):
    async def preview(*_: object) -> list[str]:
        return ["It 's a long text , as it seems .", "Its second sentence \x1b[31m ." + " and" * 30]

    (tmp_path / "notes.txt").write_text("It's a long text.")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lmbench.tui.welcome_screen.preview", preview)
    app = Workbench(Home(Path()), None, clock=lambda: NOON, follow=False)
    before = pressing("m", *"notes.txt", "enter")
    assert snap_compare(app, terminal_size=size, run_before=before)


@at_each_size
def test_the_welcome(snap_compare: Snap, size):
    app = Workbench(Home(Path()), None, clock=lambda: NOON, follow=False)
    assert snap_compare(app, terminal_size=size, run_before=pressing())
