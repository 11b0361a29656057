"""The schedule editor by keys alone."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import driving
import pytest
from driving import bench_of, screen_of
from driving import press_then_rest as press
from textual.pilot import Pilot
from textual.widgets import Input

from lmbench.distiller.schedules.preset_files import preset_path
from lmbench.jobs.input_files import schedule_file
from lmbench.session.manage import rename_session
from lmbench.tui.bench.saved_state import SavedState
from lmbench.tui.kit import choices
from lmbench.tui.kit.choice_dialog import ChoiceDialog
from lmbench.tui.kit.dialog import QuestionDialog, TextDialog
from lmbench.tui.main_screen import MainScreen
from lmbench.tui.new_run.screen import NewRunScreen
from lmbench.tui.schedule.screen import ScheduleScreen
from lmbench.tui.schedule.unsaved import LONGEST, drafts, keep_draft


def opened(world: Any) -> AbstractAsyncContextManager[Pilot[None]]:
    return driving.opened(world, "S")


def screen(pilot: Pilot[None]) -> ScheduleScreen:
    return screen_of(pilot, ScheduleScreen)


def verdict(pilot: Pilot[None]) -> str:
    return str(screen(pilot).query_one("#verdict").render())


async def test_it_begins_with_a_preset_in_order_drawn_beside_the_text(full):
    async with opened(full) as pilot:
        assert screen(pilot).editor.text == preset_path("small-80").read_text()
        assert "in order" in verdict(pilot)
        drawn = "\n".join(strip.text for strip in pilot.app.screen._compositor.render_strips())
        assert "whole model" in drawn
        assert "100%" in drawn


async def test_the_schedule_that_was_made_for_a_model_can_be_had_again(full):
    run = full.new("train", "gated")
    run.update(config={**run.read().config, "model": "GRU", "nlayers": 1})
    async with driving.opened(full, "S", run=run.path.name) as pilot:
        made = screen(pilot).editor.text
        assert "# Each matrix pruned to 80%" in made
        screen(pilot).editor.load_text(f"# mine\n{made}")
        await press(pilot, "escape", "S")
        assert screen(pilot).editor.text.startswith("# mine")
        assert "The draft of gradual-80 is back; Ctrl+O can start anew." in verdict(pilot)
        await press(pilot, "ctrl+o")
        offered = screen_of(pilot, ChoiceDialog)
        await press(pilot, "g", "enter")
        assert offered is not pilot.app.screen
        await press(pilot, "a")
        assert screen(pilot).editor.text == made


async def test_every_curve_has_its_line_in_the_legend_or_is_counted(full):
    run = full.new("train", "deep")
    run.update(config={**run.read().config, "nlayers": 4})
    names = [f"rnn.weight_{way}_l{layer}" for layer in range(4) for way in ("ih", "hh")]
    names += ["encoder.weight", "decoder.weight"]
    levels = "".join(f"\n      {name}: 0.{n}" for n, name in enumerate(names, 11))
    text = (
        f"pruners:\n  p:\n    class: SparsityLevelParameterPruner\n    levels: {levels}\n"
        "policies:\n  - pruner: {instance_name: p}\n    epochs: [0]\n"
    )
    for size, left_out in (((160, 50), 0), ((80, 24), 3)):
        async with driving.opened(full, "S", run=run.path.name, size=size) as pilot:
            screen(pilot).editor.load_text(text)
            await press(pilot)
            shown = driving.words(pilot)
            for n, name in enumerate(names[: len(names) - left_out], 11):
                assert f"{n}.0%  {name}" in shown
            assert ("… 3 more" in shown) == bool(left_out)
            assert "whole model" in shown


async def test_where_that_fits_not_the_model_it_begins_with_one_made_for_it(world):
    run = world.new("train", "gru")
    run.update(config={**run.read().config, "model": "GRU", "nlayers": 1, "epochs": 3})
    async with driving.opened(world, "S", run=run.path.name) as pilot:
        assert "for GRU 1x" in driving.words(pilot)
        assert "in order" in verdict(pilot)
        assert "not saved yet" in driving.words(pilot)
        await press(pilot, "escape")
        assert "draft" not in driving.words(pilot)
        await press(pilot, "S", *"# mine")
        await press(pilot, "escape", "S")
        assert screen(pilot).editor.text.startswith("# mine")


async def test_a_mistake_that_is_cut_ends_in_an_ellipsis(full):
    async with opened(full) as pilot:
        editor = screen(pilot).editor
        editor.load_text(editor.text.replace("_hh_", f"_{'mistaken_' * 9}_"))
        await press(pilot, "down")
        told = driving.words(pilot).splitlines()[-5:-1]
        assert [line[:10] for line in told[::2]] == [" ✗ line 11", " ✗ line 17"]
        assert [line.rstrip()[-1] for line in told[1::2]] == ["…", "…"]
        await pilot.resize_terminal(200, 50)
        await press(pilot)
        assert "…" not in driving.words(pilot)
        first = preset_path("small-80").read_text()
        editor.load_text(first.replace("rnn.weight_ih_l0", ", ".join("abcdefg")))
        await press(pilot, "down")
        assert "✗ 3 more: Ctrl+G goes through them" in driving.words(pilot)


async def test_a_mistake_is_told_with_its_line_and_ctrl_g_goes_there(full):
    async with opened(full) as pilot:
        await press(pilot, *["down"] * 9, "end", *"9")
        assert "line 10: pruners: l0_rnn_pruner: final_sparsity" not in verdict(pilot)
        await press(pilot, *["backspace"] * 4, *"1.5")
        assert "line 10: pruners: l0_rnn_pruner: final_sparsity: 1.5" in verdict(pilot)
        await press(pilot, "ctrl+home", "ctrl+g")
        assert screen(pilot).editor.cursor_location == (9, 4)
        await press(pilot, "end", "backspace", "backspace", "backspace", *"0.5")
        assert "in order" in verdict(pilot)


async def test_enter_keeps_the_indent_and_steps_in_after_a_colon(full):
    async with opened(full) as pilot:
        editor = screen(pilot).editor
        editor.load_text("")
        await press(pilot, *"pruners:", "enter", *"a:", "enter", *"class: X", "enter", *"b")
        assert editor.text == "pruners:\n  a:\n    class: X\n    b"


async def test_ctrl_o_starts_from_another_preset(full):
    async with opened(full) as pilot:
        await press(pilot, "ctrl+o")
        assert isinstance(pilot.app.screen, ChoiceDialog)
        await press(pilot, "l", "enter")
        assert screen(pilot).editor.text == preset_path("large-70").read_text()


async def test_ctrl_o_opens_a_file_by_its_path_and_tells_where_there_is_none(full):
    (full.home.path / "mine.yaml").write_text("version: 1\npolicies: []\n")
    async with opened(full) as pilot:
        await press(pilot, "ctrl+o", "up", "enter", *"mine.yaml", "enter")
        assert screen(pilot).editor.text.startswith("version: 1\npolicies")
        await press(pilot, "ctrl+o", "up", "enter", *"nowhere.yaml", "enter")
        assert isinstance(pilot.app.screen, QuestionDialog)
        await press(pilot, "escape")
        assert screen(pilot).editor.text.startswith("version: 1\npolicies")


async def test_a_name_saves_into_the_session_and_a_path_anywhere(full):
    async with opened(full) as pilot:
        await press(pilot, "ctrl+s", *"mine", "enter")
        assert (full.session.path / "schedules" / "mine.yaml").is_file()
        await press(pilot, "ctrl+s")
        assert isinstance(pilot.app.screen, TextDialog)
        await press(pilot, "ctrl+u", *"sub/other.yaml", "enter")
        assert (full.home.path / "sub" / "other.yaml").is_file()


async def test_what_cannot_be_opened_leaves_the_text_unsaved_and_its_path(full):
    async with opened(full) as pilot:
        await press(pilot, "ctrl+s", *"mine", "enter", *"# more ")
        text = screen(pilot).editor.text
        await press(pilot, "ctrl+o", "up", "enter", *"nowhere.yaml", "enter", "escape")
        assert screen(pilot).editor.text == text
        assert "mine.yaml *" in str(screen(pilot).query_one("#text").border_title)
        await press(pilot, "escape")
        assert isinstance(pilot.app.screen, MainScreen)
        await press(pilot, "S")
        assert screen(pilot).editor.text == text
        await press(pilot, "ctrl+s", "enter")
    assert (full.session.path / "schedules" / "mine.yaml").read_text() == text


async def test_a_file_that_was_not_opened_is_only_replaced_when_asked(full):
    other = full.session.path / "schedules" / "other.yaml"
    other.parent.mkdir()
    other.write_text("version: 1\n")
    async with opened(full) as pilot:
        await press(pilot, "ctrl+s", *"other", "enter")
        assert isinstance(pilot.app.screen, QuestionDialog)
        await press(pilot, "escape")
        assert other.read_text() == "version: 1\n"
        await press(pilot, "ctrl+s", *"other", "enter", "r")
        assert other.read_text() == screen(pilot).editor.text
        # From now on it is this one's file.
        await press(pilot, *"# ", "ctrl+s", "enter")
        assert isinstance(pilot.app.screen, ScheduleScreen)
        assert other.read_text().startswith("# ")


async def test_a_file_that_was_opened_is_saved_without_a_question(full):
    path = full.home.path / "mine.yaml"
    path.write_text("version: 1\npolicies: []\n")
    async with opened(full) as pilot:
        await press(pilot, "ctrl+o", "up", "enter", *"mine.yaml", "enter", *"# ")
        await press(pilot, "ctrl+s", "end", "ctrl+u", *"./mine.yaml", "enter")
        assert isinstance(pilot.app.screen, ScheduleScreen)
    assert path.read_text().startswith("# version")


@pytest.mark.parametrize("theirs", [b"theirs\n", b"\xff\xfe"])
async def test_what_another_program_wrote_meanwhile_is_only_replaced_when_asked(full, theirs):
    path = full.home.path / "mine.yaml"
    path.write_text("version: 1\npolicies: []\n")
    async with opened(full) as pilot:
        await press(pilot, "ctrl+o", "up", "enter", *"mine.yaml", "enter", *"# ")
        path.write_bytes(theirs)
        await press(pilot, "ctrl+s", "end", "ctrl+u", *"./mine.yaml", "enter")
        assert isinstance(pilot.app.screen, QuestionDialog)
        await press(pilot, "escape")
        assert path.read_bytes() == theirs
        await press(pilot, "ctrl+s", "end", "ctrl+u", *"./mine.yaml", "enter", "r")
        assert path.read_text() == screen(pilot).editor.text


@pytest.mark.parametrize("folder", ["my/schedules", "sessions/demo/schedules", ""])
async def test_the_name_that_is_proposed_is_that_of_the_file_that_was_opened(full, folder):
    path = full.home.path / folder / "mine.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("version: 1\n")
    own = [name for name, _ in choices.own_schedules(full.session)]
    assert own == [f"{folder}/mine.yml"] * folder.startswith("sessions")
    async with opened(full) as pilot:
        screen(pilot)._begin_from(str(path.relative_to(full.home.path)))
        await press(pilot, *"# ", "ctrl+s", "enter")
        assert isinstance(pilot.app.screen, ScheduleScreen)
    assert path.read_text() == "# version: 1\n"


async def test_a_name_that_no_file_can_have_is_told(full):
    async with opened(full) as pilot:
        await press(pilot, "ctrl+s")
        pilot.app.screen.query_one(Input).value = "x" * 300
        await press(pilot, "enter")
        assert "cannot be written (File name too long)" in " ".join(driving.words(pilot).split())
        await press(pilot, "escape", "ctrl+o", "up", "enter", *"~nobody-9/x", "enter")
        assert "there is no such user" in " ".join(driving.words(pilot).split())


async def test_a_quantized_run_has_the_model_that_it_was_made_of(full):
    config = {"nlayers": 1, "nhid": 100, "emsize": 100}
    full.session.run(1).update(config=config, shape={"ntoken": 5000})
    async with driving.opened(full, "S", run="003-quantize") as pilot:
        assert "for LSTM 1x100" in driving.words(pilot)
        assert screen(pilot)._types == 5000


async def test_a_name_that_is_none_is_refused(full):
    async with opened(full) as pilot:
        await press(pilot, "ctrl+s", *"?!", "enter")
        assert isinstance(pilot.app.screen, TextDialog)


async def test_ctrl_r_saves_and_fills_a_pruning_with_it(full):
    async with opened(full) as pilot:
        await press(pilot, "ctrl+r", *"mine", "enter")
        form = screen_of(pilot, NewRunScreen)
        assert form.form.values["compress"] == "sessions/demo/schedules/mine.yaml"
        assert form.form.values["@kind"] == "prune"


async def test_a_key_that_is_refused_says_why(full):
    async with opened(full) as pilot:
        await press(pilot, "ctrl+g")
        assert "no line has a mistake" in driving.words(pilot)
    async with driving.opened(full, "n", "ctrl+e") as pilot:
        await press(pilot, "ctrl+r")
        assert "the form waits for it" in driving.words(pilot)


async def test_a_schedule_with_mistakes_cannot_be_pruned_with(full):
    async with opened(full) as pilot:
        screen(pilot).editor.load_text("version: 1")
        await press(pilot, "ctrl+r")
        assert isinstance(pilot.app.screen, ScheduleScreen)


async def test_a_draft_is_there_again_when_one_comes_back(full):
    async with opened(full) as pilot:
        screen(pilot).editor.load_text("# half done")
        await press(pilot, "escape")
        assert isinstance(pilot.app.screen, MainScreen)
    async with opened(full) as pilot:
        assert screen(pilot).editor.text == "# half done"


async def test_each_source_has_a_draft_of_its_own_that_comes_back(full):
    """From the form, too: the draft, not the text that it began from, and it is said."""
    async with opened(full) as pilot:
        await press(pilot, *"# small ", "escape", "n", "p")
        form = screen_of(pilot, NewRunScreen)
        form.form.set_value("compress", "large-70")
        await press(pilot, "ctrl+e")
        assert screen(pilot).editor.text == preset_path("large-70").read_text()
        assert "is back" not in verdict(pilot)
        await press(pilot, *"# large ", "escape", "ctrl+e")
        assert screen(pilot).editor.text.startswith("# large ")
        assert "The draft of large-70 is back" in verdict(pilot)
        await press(pilot, *"and ")
        assert screen(pilot).editor.text.startswith("and # large ")
        assert "is back" not in verdict(pilot)
        await press(pilot, "escape")
        form.form.set_value("compress", "small-80")
        await press(pilot, "ctrl+e")
        assert screen(pilot).editor.text.startswith("# small ")


async def test_starting_from_a_source_with_a_draft_asks_which_of_the_two(full):
    async with opened(full) as pilot:
        await press(pilot, *"# mine ", "ctrl+o", "l", "enter")
        assert screen(pilot).editor.text == preset_path("large-70").read_text()
        screen(pilot)._begin_from("small-80")
        await press(pilot, "d")
        assert screen(pilot).editor.text.startswith("# mine ")
        screen(pilot)._begin_from("small-80")
        await press(pilot, "escape")
        assert screen(pilot).editor.text.startswith("# mine ")
        screen(pilot)._begin_from("small-80")
        await press(pilot, "a")
        assert screen(pilot).editor.text == preset_path("small-80").read_text()
        assert "small-80" not in drafts(screen(pilot).bench)


async def test_a_draft_that_was_saved_or_undone_is_none_any_more(full):
    async with opened(full) as pilot:
        await press(pilot, *"# ")
        assert list(drafts(screen(pilot).bench)) == ["small-80"]
        await press(pilot, "backspace", "backspace")
        assert drafts(screen(pilot).bench) == {}
        await press(pilot, *"# ", "ctrl+s", *"mine", "enter")
        assert drafts(screen(pilot).bench) == {}


async def test_the_draft_of_a_session_s_schedule_goes_with_a_renamed_session(full):
    """And not into a folder of the old name."""
    for number in (2, 4):
        full.session.run(number).update(status="finished")
    async with opened(full) as pilot:
        await press(pilot, *"# ", "ctrl+s", *["backspace"] * 30, *"mine", "enter")
        assert list(drafts(screen(pilot).bench)) == []
        await press(pilot, *"# ", "escape")
        bench = bench_of(pilot)
        assert list(drafts(bench)) == ["sessions/demo/schedules/mine.yaml"]
        await bench._save()
    rename_session(full.home, "demo", "next")
    app = full.bench(full.home.session("next"))
    async with app.run_test(size=(80, 24)) as pilot:
        await driving.settled(pilot)
        await press(pilot, "S")
        assert list(drafts(app)) == ["sessions/next/schedules/mine.yaml"]
        await press(pilot, "ctrl+s", "enter")
    assert not (full.home.path / "sessions" / "demo").exists()
    saved = full.home.path / "sessions" / "next" / "schedules" / "mine.yaml"
    assert saved.read_text().startswith("# # ")


async def test_a_draft_that_an_earlier_version_kept_is_there_until_it_is_saved(full):
    schedules = full.session.path / "schedules"
    schedules.mkdir()
    (schedules / "mine.yaml").write_text("version: 1\n")
    source = "sessions/demo/schedules/mine.yaml"
    kept = {f"schedule_drafts/{source}": {"t": 1.0, "text": "# version: 1\n"}}
    full.session.update(workbench=kept)
    async with opened(full) as pilot:
        assert screen(pilot).editor.text == "# version: 1\n"
        await press(pilot, "ctrl+s", "enter")
        assert drafts(screen(pilot).bench) == {}
    assert (schedules / "mine.yaml").read_text() == "# version: 1\n"


async def test_a_draft_replaces_no_file_that_was_changed_since_without_a_question(full):
    path = full.home.path / "mine.yaml"
    path.write_text("version: 1\n")
    async with opened(full) as pilot:
        await press(pilot, "ctrl+o", "up", "enter", *"mine.yaml", "enter", *"# ", "escape")
        path.write_text("version: 1\n# two hours of work\n")
        await press(pilot, "S")
        assert screen(pilot).editor.text == "# version: 1\n"
        await press(pilot, "ctrl+s", "enter")
        assert isinstance(pilot.app.screen, QuestionDialog)
        assert "two hours" in path.read_text()
        await press(pilot, "r")
        assert path.read_text() == "# version: 1\n"
        await press(pilot, *"# ", "ctrl+s", "enter")
        assert path.read_text() == "# # version: 1\n"


async def test_the_editor_shows_the_file_that_a_run_takes_by_that_name(
    full, tmp_path_factory, monkeypatch
):
    here = tmp_path_factory.mktemp("here")
    for folder in (here, full.home.path):
        (folder / "my.yaml").write_text(f"# {folder}\n" + preset_path("small-80").read_text())
    monkeypatch.chdir(here)
    async with opened(full) as pilot:
        await press(pilot, "ctrl+o", "up", "enter", *"my.yaml", "enter")
        taken = schedule_file("my.yaml", full.home)
        assert screen(pilot).editor.text == taken.read_text()
        assert str(here) in screen(pilot).editor.text


async def test_a_folder_is_no_name_of_a_schedule(full):
    (full.home.path / "sub").mkdir()
    async with opened(full) as pilot:
        await press(pilot, "ctrl+s", "ctrl+u", *"sub/", "enter")
        assert "This is a folder." in driving.words(pilot)
    assert not list((full.home.path / "sub").iterdir())


async def test_the_draft_of_a_file_that_is_gone_is_still_there(full):
    path = full.home.path / "mine.yaml"
    path.write_text("version: 1\n")
    async with opened(full) as pilot:
        await press(pilot, "ctrl+o", "up", "enter", *"mine.yaml", "enter", *"# ", "escape")
        path.unlink()
        await press(pilot, "S")
        assert screen(pilot).editor.text == "# version: 1\n"


async def test_what_is_too_long_for_a_draft_is_not_left_without_a_question(full):
    async with opened(full) as pilot:
        screen(pilot).editor.load_text("#" * (LONGEST + 1))
        await press(pilot, "escape")
        assert isinstance(pilot.app.screen, QuestionDialog)
        await press(pilot, "escape")
        assert isinstance(pilot.app.screen, ScheduleScreen)
        # Nor for another one.
        await press(pilot, "ctrl+o", "enter")
        assert isinstance(pilot.app.screen, QuestionDialog)
        await press(pilot, "escape")
        assert screen(pilot).editor.text == "#" * (LONGEST + 1)
        await press(pilot, "escape", "l")
        assert isinstance(pilot.app.screen, MainScreen)


async def test_brackets_in_the_name_of_a_file_are_no_markup(full):
    (full.home.path / "a[b].yaml").write_text("version: 1\n")
    async with opened(full) as pilot:
        await press(pilot, "ctrl+o", "up", "enter", *"a[b].yaml", "enter")
        assert "Schedule a[b].yaml" in driving.words(pilot)


async def test_two_workbenches_on_a_session_keep_each_other_s_drafts(full):
    async with driving.opened(full) as pilot:
        bench, other = bench_of(pilot), SavedState(full.session)
        keep_draft(bench, "large-70", "before")
        bench.flush()
        other.put("schedule_drafts/small-80", {"t": 1.0, "text": "# other"})
        other.flush()
        keep_draft(bench, "large-85", "# mine")
        bench.flush()
    async with driving.opened(full) as pilot:
        assert list(drafts(bench_of(pilot))) == ["small-80", "large-70", "large-85"]


async def test_the_newest_eight_drafts_are_kept(full):
    async with opened(full) as pilot:
        bench = screen(pilot).bench
        for number in range(10):
            keep_draft(bench, f"{number}.yaml", "text")
        assert list(drafts(bench)) == [f"{number}.yaml" for number in range(2, 10)]
