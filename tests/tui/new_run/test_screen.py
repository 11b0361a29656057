"""The new-run form: made from the settings, usable by keys alone, and what it starts."""

from __future__ import annotations

import asyncio
import platform
import shlex
import shutil
from contextlib import AbstractAsyncContextManager
from typing import Any

import driving
import pytest
from driving import at_rest, bench_of, line_of, screen_of, until
from driving import press_then_rest as press
from textual.containers import Vertical
from textual.pilot import Pilot
from textual.widgets import OptionList
from workbench_world import looked

from lmbench.cli.app import build
from lmbench.config import TrainConfig
from lmbench.distiller.schedules.preset_files import preset_path
from lmbench.errors import LmbenchError
from lmbench.report.published_figures import FIRST_STEPS, PUBLISHED
from lmbench.report.training_speed import Measured, operations, remember_trial
from lmbench.session import Run
from lmbench.session import events as ev
from lmbench.training.recipe_files import recipe_settings
from lmbench.tui.bench.session_watcher import Watcher
from lmbench.tui.kit.choice_dialog import ChoiceDialog
from lmbench.tui.kit.dialog import QuestionDialog
from lmbench.tui.kit.form import ChoiceField, FieldSpec, Form
from lmbench.tui.kit.status_lines import KeyBar
from lmbench.tui.main_screen import MainScreen
from lmbench.tui.new_run.corpus_size import CorpusSize, size_of
from lmbench.tui.new_run.form_lines import training_of
from lmbench.tui.new_run.screen import NewRunScreen
from lmbench.tui.schedule.screen import ScheduleScreen

NARROW, WIDE = (80, 24), (120, 30)


@pytest.fixture
def started(started: list[Run], monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """No corpus is opened, either."""
    monkeypatch.setattr("lmbench.tui.kit.make_and_launch.check_training", lambda *_, **__: None)
    return started


def opened(
    world: Any, size: tuple[int, int] = NARROW, *keys: str, select: str = ""
) -> AbstractAsyncContextManager[Pilot[None]]:
    """The form, opened by its key from the main screen, with a run selected."""
    return driving.opened(world, "n", *keys, run=select, size=size)


def form(pilot: Pilot[None]) -> NewRunScreen:
    return screen_of(pilot, NewRunScreen)


def words(pilot: Pilot[None]) -> str:
    return str(form(pilot).query_one("#words").render())


async def go_to(pilot: Pilot[None], name: str) -> None:
    form(pilot).form.focus_field(name)
    await pilot.pause()


async def go_down_to(pilot: Pilot[None], name: str) -> None:
    """With the arrow alone."""
    for _ in range(60):
        if form(pilot).form.focused_name == name:
            return
        await pilot.press("down")
    raise AssertionError(f"{name} is not reached by going down")


async def start(pilot: Pilot[None]) -> None:
    await press(pilot, "ctrl+s")


async def test_the_form_opens_with_its_fields(world, started, monkeypatch):
    async def rebuild(form: Form, specs: Any) -> None:
        raise AssertionError("empty at first")

    monkeypatch.setattr(Form, "rebuild", rebuild)
    async with opened(world) as pilot:
        assert len(form(pilot).query("ChoiceField, TextField")) > 10
        assert form(pilot).form.focused_name == "@kind"


async def test_ctrl_s_starts_what_the_form_says_and_only_differences_are_stored(world, started):
    async with opened(world) as pilot:
        await go_down_to(pilot, "emsize")
        await press(pilot, *"64")
        await go_down_to(pilot, "nhid")
        await press(pilot, *"64")
        await go_down_to(pilot, "tied")
        await press(pilot, "right")
        await go_down_to(pilot, "epochs")
        await press(pilot, *"3")
        await start(pilot)
        assert isinstance(pilot.app.screen, MainScreen)
        assert bench_of(pilot).selected == started[0].path.name == "001-train"
    (run,) = started
    record = run.read()
    changed = {"emsize": 64, "nhid": 64, "tied": True, "epochs": 3}
    assert record.config == {**changed, "data": "pydoc"}
    assert record.name == "lstm-2x64-tied"
    assert record.status == "queued"
    assert record.command == (
        "lmbench train --emsize 64 --nhid 64 --tied --epochs 3 --session demo"
    )


async def test_a_value_out_of_bounds_is_marked_as_one_types_and_nothing_starts(world, started):
    async with opened(world) as pilot:
        await go_to(pilot, "dropout")
        await press(pilot, *"1.5")
        assert "dropout: 0 to below 1" in words(pilot)
        assert "✗ 0 to below 1" in line_of(pilot, "dropout")
        await press(pilot, "down")
        await start(pilot)
        assert form(pilot).form.focused_name == "dropout"
        await press(pilot, "ctrl+u", *"0.5")
        assert "✗" not in line_of(pilot, "dropout")
        assert "$ lmbench train --dropout 0.5" in words(pilot)
    assert started == []


async def test_a_name_that_no_run_can_have_is_told_and_nothing_starts(world, started):
    async with opened(world) as pilot:
        await go_to(pilot, "@name")
        await press(pilot, *"x" * 65)
        assert "name: A run's name has 1 to 64" in words(pilot)
        await start(pilot)
        assert form(pilot).form.focused_name == "@name"
    assert started == []


async def test_a_word_where_a_number_belongs_is_told(world, started):
    async with opened(world) as pilot:
        await go_to(pilot, "batch_size")
        await press(pilot, *"many")
        assert "a whole number is wanted" in words(pilot)


async def test_an_empty_field_is_its_default(world, started):
    async with opened(world) as pilot:
        await go_to(pilot, "emsize")
        await press(pilot, "backspace")
        assert "$ lmbench train --session demo" in words(pilot)


async def test_tied_with_unequal_sizes_is_told_at_the_field_that_asks_for_it(world, started):
    async with opened(world) as pilot:
        await go_to(pilot, "emsize")
        await press(pilot, *"100")
        await go_to(pilot, "tied")
        await press(pilot, "space")
        assert "✗" in line_of(pilot, "tied")
        assert "100 is not 200" in words(pilot)


async def test_each_published_command_and_recipe_fills_the_form_and_the_defaults_empty_it(
    world, started
):
    async with opened(world, NARROW, "down") as pilot:
        for published in (*PUBLISHED, FIRST_STEPS):
            await press(pilot, "right")
            assert form(pilot).given == dict(published.settings)
        for name in ("awd", "cosine", "onecycle"):
            await press(pilot, "right")
            assert form(pilot).form.values["@preset"] == f"recipe {name}"
            plain = recipe_settings("plain")
            changed = {k: v for k, v in recipe_settings(name).items() if v != plain[k]}
            assert form(pilot).given == changed
        await press(pilot, "right")
        assert form(pilot).form.values["@preset"] == "defaults"
        assert form(pilot).given == {}


async def test_a_form_of_a_published_command_has_it_as_what_it_starts_from(world, started):
    large = next(published for published in PUBLISHED if published.name == "large")
    async with driving.opened(world) as pilot:
        bench_of(pilot).open("new_run", preset="large")
        await at_rest(pilot)
        assert form(pilot).form.values["@preset"] == "large"
        assert form(pilot).given == dict(large.settings)
        await go_to(pilot, "@preset")
        await press(pilot, "d")
        assert form(pilot).form.values["@preset"] == "defaults"
        assert form(pilot).given == {}


async def test_what_was_typed_stays_when_a_recipe_is_chosen_and_comes_back_after_it(world, started):
    async with opened(world) as pilot:
        await go_to(pilot, "lr")
        await press(pilot, *"5")
        await go_to(pilot, "seed")
        await press(pilot, *"7")
        for preset in ("recipe awd", "recipe cosine"):
            form(pilot).form.set_value("@preset", preset)
            await pilot.pause()
            name = preset.removeprefix("recipe ")
            assert form(pilot).given["seed"] == 7
            assert form(pilot).form.values["lr"] == f"{recipe_settings(name)['lr']:g}"
        form(pilot).form.set_value("@preset", "defaults")
        await pilot.pause()
        assert form(pilot).given == {"lr": 5.0, "seed": 7}


async def test_a_recipe_s_settings_are_of_no_other_kind_of_run_and_come_back_with_training(
    full, started
):
    async with opened(full, select="001-train") as pilot:
        form(pilot).form.set_value("@preset", "recipe onecycle")
        await pilot.pause()
        recipe = form(pilot).given
        assert recipe
        form(pilot).form.set_value("seed", "7")
        for kind, given in (("prune", {"seed": 7}), ("train", {**recipe, "seed": 7})):
            form(pilot).form.set_value("@kind", kind)
            await at_rest(pilot)
            assert form(pilot).given == given


async def test_a_letter_chooses_and_no_letter_reaches_the_screen(world, started):
    async with opened(world) as pilot:
        await press(pilot, "s")
        assert form(pilot).form.values["@kind"] == "sensitivity"
        await press(pilot, "q", "x")
        assert form(pilot).form.values["@kind"] == "quantize"


async def test_the_command_is_one_that_the_command_line_takes_and_means_the_same(world, started):
    async with opened(world, NARROW, "down", "right", "right", "right", "right", "right") as pilot:
        command = form(pilot).command
    program, kind, *flags = shlex.split(command)
    assert (program, kind) == ("lmbench", "train")
    _, bound, _ = build().parse_args([kind, *flags], exit_on_error=False)
    settings = {k: v for k, v in bound.arguments.items() if k in TrainConfig.model_fields}
    assert settings == dict(PUBLISHED[4].settings)


async def test_a_pruning_starts_from_the_selected_run_with_its_settings(full, started):
    dense = full.session.run(1)
    dense.update(config={"tied": True, "emsize": 64, "nhid": 64, "epochs": 9, "lr": 5.0})
    async with opened(full, WIDE) as pilot:
        pilot.app.pop_screen()
        await press(pilot, "up", "n", "p")
        assert form(pilot).form.values["@parent"] == "1 dense"
        # Which an empty field stands for.
        assert form(pilot).form.specs["epochs"].placeholder == "9"
        assert form(pilot).form.specs["nonmono"].placeholder == "none"
        assert "emsize" not in form(pilot).form.values
        assert form(pilot).form.values["epochs"] == "9"
        await start(pilot)
        assert form(pilot).form.focused_name == "compress"
        await press(pilot, *"small-80")
        await go_to(pilot, "epochs")
        await press(pilot, *"4")
        assert form(pilot).command == (
            "lmbench prune demo/001-train --schedule small-80 --epochs 4"
        )
        await start(pilot)
    record = started[0].read()
    assert record.parent == "demo/001-train"
    assert record.config == {
        "tied": True, "emsize": 64, "nhid": 64, "epochs": 4, "lr": 5.0, "compress": "small-80",
        "data": "wikitext-2",
    }  # fmt: skip
    assert record.name == "small-80"
    assert "AutomatedGradualPruner" in (started[0].path / "schedule.yaml").read_text()


@pytest.mark.parametrize(
    "config, offered",
    [
        ({"tied": True}, True),
        ({"tied": True, "projection": True}, False),
        ({"emsize": 64}, False),
    ],
)
async def test_a_projection_is_offered_where_the_parent_can_be_rotated(full, config, offered):
    full.session.run(1).update(config=config)
    async with opened(full, WIDE) as pilot:
        pilot.app.pop_screen()
        await press(pilot, "up", "n", "p")
        assert form(pilot).form.values["@parent"] == "1 dense"
        assert ("projection" in form(pilot).form.values) == offered


async def test_a_pruning_takes_as_many_epochs_as_its_schedule_needs(full, started):
    dense = full.session.runs()[0]
    dense.update(config={"tied": True, "emsize": 64, "nhid": 64, "epochs": 2, "lr": 5.0})
    async with opened(full, WIDE) as pilot:
        pilot.app.pop_screen()
        await press(pilot, "up", "n", "p")
        assert form(pilot).form.values["epochs"] == "2"
        form(pilot).form.set_value("compress", "small-80")
        await until(pilot, lambda: form(pilot).form.values["epochs"] == "6")
        assert "default 6" in line_of(pilot, "epochs")
        await press(pilot)
        assert form(pilot).command == "lmbench prune demo/001-train --schedule small-80"
        form(pilot).form.set_value("compress", "")
        await until(pilot, lambda: form(pilot).form.values["epochs"] == "2")
        form(pilot).form.set_value("epochs", "3")
        await press(pilot)
        form(pilot).form.set_value("compress", "small-80")
        await press(pilot)
        assert form(pilot).command == (
            "lmbench prune demo/001-train --schedule small-80 --epochs 3"
        )
        form(pilot).form.set_value("epochs", "6")
        await press(pilot)
        await start(pilot)
    assert started[0].read().config["epochs"] == 6


async def test_epochs_and_forecast_follow_a_schedule_s_file_that_is_edited_meanwhile(lab, started):
    """The path stays the same, as after Ctrl+E and Ctrl+S."""
    small, file = preset_path("small-80").read_text(), lab.home.path / "mine.yaml"
    file.write_text(small)
    async with opened(lab, WIDE, "p", select="001-train") as pilot:
        form(pilot).form.set_value("compress", "mine.yaml")
        await until(pilot, lambda: "80.0% of the weights are zero" in words(pilot))
        file.write_text(small.replace("0.806", "0.5").replace("epoch: 6", "epoch: 20"))
        form(pilot).form.set_value("compress", "mine.yaml")
        await until(pilot, lambda: "52.1% of the weights are zero" in words(pilot))
        assert form(pilot).form.values["epochs"] == "20"
        assert form(pilot).command == "lmbench prune demo/001-train --schedule mine.yaml"


async def test_a_run_to_start_from_that_is_gone_is_replaced_by_no_other(full, started):
    second = full.new("train", "second", status="finished")
    async with opened(full, NARROW, "q", select=second.path.name) as pilot:
        assert form(pilot).form.values["@parent"] == "5 second"
        full.session.run(1).update(name="renamed")
        shutil.rmtree(second.path)
        await driving.settled(pilot)
        await start(pilot)
        assert "✗ that run is gone" in line_of(pilot, "start from")
        # In the list it has the name that it had.
        form(pilot).form.set_value("@parent", "1 dense")
        await at_rest(pilot)
        assert form(pilot).form.values["@parent"] == "1 renamed"
        await start(pilot)
    assert [run.read().parent for run in started] == ["demo/001-train"]


async def test_what_was_typed_stays_while_other_fields_change(full, started):
    async with opened(full, WIDE, select="001-train") as pilot:
        for name, text in (("@name", "my model"), ("emsize", "77"), ("lr", "2o")):
            form(pilot).form.set_value(name, text)
        await press(pilot, "right")
        assert form(pilot).form.values["@kind"] == "prune"
        assert "emsize" not in form(pilot).form.values
        form(pilot).form.set_value("@parent", "2 agp-80")
        await at_rest(pilot)
        values = form(pilot).form.values
        assert (values["@name"], values["lr"]) == ("my model", "2o")
        assert "✗" in line_of(pilot, "lr")
        await press(pilot, "left")
        assert form(pilot).form.values["emsize"] == "77"
        assert form(pilot).given == {"emsize": 77}


async def test_a_preset_that_is_none_is_not_started(full, started):
    async with opened(full, NARROW, "q", select="001-train") as pilot:
        form(pilot).form.set_value("preset", "nosuch")
        await start(pilot)
        assert "✗ no such preset; Enter lists them" in line_of(pilot, "preset")
    assert started == []


async def test_a_corpus_that_has_come_meanwhile_is_found(world, started, monkeypatch):
    there: list[CorpusSize] = []

    async def size(*_: Any) -> CorpusSize:
        if not there:
            raise LmbenchError("no corpus mine")
        return there[0]

    monkeypatch.setattr("lmbench.tui.new_run.about_panel.size_of", size)
    async with opened(world) as pilot:
        assert "no corpus mine" in words(pilot)
        there.append(CorpusSize("mine", 33_278, 2_088_628, 217_646))
        await press(pilot, "down")
        assert "mine: 2,088,628 tokens" in words(pilot)


def test_the_corpus_of_a_training_is_where_its_command_was_given(world, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "mine").mkdir()
    world.new("train", "dense").update(config={"data": "mine"}, cwd=str(elsewhere))
    snapshot = looked(Watcher(world.session))
    training = training_of(snapshot.runs[0])
    assert training is not None
    assert training.data == str(elsewhere / "mine")


async def test_a_pruning_from_scratch_asks_for_the_model_too(full, started):
    async with opened(full, NARROW, "p", "down") as pilot:
        field = form(pilot).form.field("@parent")
        assert isinstance(field, ChoiceField)
        await press(pilot, "f")
        assert form(pilot).form.values["@parent"] == "from scratch"
        assert "emsize" in form(pilot).form.values
        await press(pilot, "x")
        assert form(pilot).form.values["@parent"] == "from scratch"
        assert bench_of(pilot).recent_message == "nothing begins with x"


async def test_a_letter_goes_to_the_next_entry_of_a_list_that_begins_with_it(full, started):
    async with opened(full, select="001-train") as pilot:
        await press(pilot, "right")
        await go_to(pilot, "compress")
        await press(pilot, "enter")
        dialog = screen_of(pilot, ChoiceDialog)
        values = [value for value, _ in dialog._options]
        options = dialog.query_one(OptionList)
        those = [at for at, value in enumerate(values) if value.startswith("l")]
        for at in (*those, those[0]):
            await press(pilot, "l")
            assert options.highlighted == at
        await press(pilot, "ä")
        assert options.highlighted == those[0]
        assert "nothing begins with ä" in str(dialog.query_one(Vertical).border_subtitle)
        await press(pilot, "l")
        assert "nothing begins" not in str(dialog.query_one(Vertical).border_subtitle)
        await press(pilot, "f1")
        assert str(dialog.query_one(Vertical).border_subtitle).startswith("f1 does nothing here: ")
        await press(pilot, "l", "down")
        assert "does nothing" not in str(dialog.query_one(Vertical).border_subtitle)


async def test_enter_on_the_schedule_lists_the_presets_and_takes_one(full, started):
    async with opened(full, NARROW, "p") as pilot:
        await go_to(pilot, "compress")
        await press(pilot, "enter")
        assert isinstance(pilot.app.screen, ChoiceDialog)
        await press(pilot, "escape")
        assert form(pilot).form.values["compress"] == ""
        await press(pilot, "ctrl+l", "j", "j", "k", "enter")
        assert form(pilot).form.values["compress"] == "code2"


async def test_ctrl_e_opens_the_editor_and_what_is_saved_there_comes_back(full, started):
    async with opened(full, NARROW, "p", "ctrl+e") as pilot:
        assert isinstance(pilot.app.screen, ScheduleScreen)
        await press(pilot, "ctrl+s", *"mine", "enter")
        assert form(pilot).form.values["compress"] == "sessions/demo/schedules/mine.yaml"
    assert (full.session.path / "schedules" / "mine.yaml").is_file()


async def test_the_editor_draws_the_length_and_the_words_of_the_run_to_be(full, started):
    run = full.session.run(2)
    run.update(shape={"ntoken": 5000}, config={**run.read().config, "epochs": 3})
    async with opened(full, NARROW, "p") as pilot:
        await go_to(pilot, "compress")
        await press(pilot, *"large-70")
        epochs = form(pilot).form.values["epochs"]
        assert int(epochs) > 20
        await press(pilot, "ctrl+e")
        assert "5,000 words" in driving.words(pilot)
        assert f"after {epochs} epochs" in driving.words(pilot)
        assert "completes it" not in driving.words(pilot)
        await press(pilot, "escape")
        await go_to(pilot, "epochs")
        await press(pilot, *"7", "ctrl+e")
        assert "after 7 epochs" in driving.words(pilot)


async def test_the_field_of_the_schedule_offers_its_list_and_the_editor(full, started):
    async with opened(full, NARROW, "p") as pilot:
        keys = form(pilot).query_one(KeyBar)
        assert "^l list" not in str(keys.render())
        await go_to(pilot, "compress")
        assert "^l list" in str(keys.render())
        assert "^e edit schedule" in str(keys.render())
        await press(pilot, *"large-70", "ctrl+e")
        assert isinstance(pilot.app.screen, ScheduleScreen)
        assert pilot.app.screen.editor.text == preset_path("large-70").read_text()


@pytest.mark.parametrize("letter, kind", [("q", "quantize"), ("s", "sensitivity")])
async def test_quantize_and_sensitivity_start_from_a_trained_run(full, started, letter, kind):
    async with opened(full, NARROW, letter, "down", "left", "right") as pilot:
        await start(pilot)
    record = started[0].read()
    assert (record.kind, record.parent, record.config) == (kind, "demo/002-prune", {})


async def test_pack_starts_from_the_selected_run_which_may_be_a_quantized_one(full, started):
    async with opened(full, NARROW, "p", "p", *["down"] * 3, "right") as pilot:
        assert form(pilot).form.values["@kind"] == "pack"
        assert form(pilot).command == "lmbench pack demo/002-prune --weights fp32"
        await start(pilot)
    async with opened(full, NARROW, select="003-quantize") as pilot:
        assert form(pilot).origin is None
        await press(pilot, "p", "p")
        assert form(pilot).form.values["@parent"] == "3 int8"
        await start(pilot)
    first, second = (run.read() for run in started)
    assert (first.kind, first.name, first.parent) == ("pack", "packed", "demo/002-prune")
    assert first.config == {"weights": "fp32"}
    assert (second.parent, second.config) == ("demo/003-quantize", {})


async def test_what_a_quantized_run_was_made_from_is_what_it_is_quantized_from_again(full, started):
    async with opened(full, NARROW, "q", select="003-quantize") as pilot:
        assert form(pilot).form.values["@parent"] == "1 dense"
        await start(pilot)
    assert started[0].read().parent == "demo/001-train"


@pytest.mark.parametrize("letter", ["q", "s", "p"])
async def test_a_run_that_ended_without_a_model_is_none_to_start_from(full, started, letter):
    dead = full.new("train", "dead", status="failed", reason="out of memory")
    async with opened(full, NARROW, letter, select=dead.path.name) as pilot:
        if letter == "p":
            form(pilot).form.set_value("compress", "large-70")
        await start(pilot)
        assert "it ended without a model: resume it first" in words(pilot)
    assert started == []


@pytest.mark.parametrize("typed", ["~b", "x" * 300], ids=["no user", "long"])
async def test_a_name_that_no_schedule_can_have_is_told(full, started, typed):
    async with opened(full, NARROW, "p") as pilot:
        await go_to(pilot, "compress")
        form(pilot).form.set_value("compress", typed[:-1])
        await press(pilot, typed[-1])
        assert form(pilot).form.values["compress"] == typed
        await start(pilot)
        assert isinstance(pilot.app.screen, QuestionDialog)
        await press(pilot, "escape")
        assert isinstance(pilot.app.screen, NewRunScreen)
    assert started == []


async def test_what_fails_after_the_last_key_is_shown_and_ends_nothing(world, started, monkeypatch):
    def fail(*_: object) -> None:
        raise LmbenchError("cannot be judged")

    async with opened(world) as pilot:
        await go_to(pilot, "@name")
        monkeypatch.setattr(NewRunScreen, "_read", fail)
        await press(pilot, "x")
        assert "cannot be judged" in driving.words(pilot)


async def test_a_look_into_another_schedule_leaves_the_form_s(full, started):
    own = full.home.path / "mine.yaml"
    own.write_text(preset_path("large-90").read_text())
    async with opened(full, NARROW, "p") as pilot:
        form(pilot).form.set_value("compress", "large-70")
        await press(pilot, "ctrl+e", "ctrl+o", "up", "enter", *"mine.yaml", "enter", "escape")
        assert form(pilot).form.values["compress"] == "large-70"


async def test_without_a_trained_run_quantize_says_what_to_do(world, started):
    async with opened(world, NARROW, "q") as pilot:
        assert "train a model first" in words(pilot)
        await start(pilot)
        assert isinstance(pilot.app.screen, NewRunScreen)
    assert started == []


async def test_the_estimate_counts_parameters_and_judges_time_by_an_earlier_run(full, started):
    shape = {"ntoken": 33_278}
    full.session.run(1).update(shape=shape, device="cpu", config={"tied": True})
    async with opened(full, WIDE, "down", "right", "right") as pilot:
        told = words(pilot)
    assert "7,332,078 parameters" in told
    assert "an epoch" in told
    assert "in demo/001-train" in told
    assert "for 6 epochs" in told


async def test_without_an_earlier_run_no_time_is_made_up(world, started):
    async with opened(world) as pilot:
        assert "time: unknown until a training has run here" in words(pilot)


async def test_before_any_training_a_trial_tells_the_time(world, started, monkeypatch):
    tried = asyncio.Event()
    found = Measured("a trial", "cpu", "auto", operations(TrainConfig(), 33_278), 1000.0, 0.0)

    async def try_out() -> None:
        await tried.wait()
        remember_trial(found)

    monkeypatch.setattr("lmbench.tui.new_run.training_speed.try_out", try_out)
    async with driving.opened(world) as pilot:
        await pilot.press("n")
        await until(pilot, lambda: isinstance(pilot.app.screen, NewRunScreen))
        await until(pilot, lambda: "this machine's speed is being measured" in words(pilot))
        tried.set()
        await at_rest(pilot)
        assert "(1,000 tok/s in a trial)" in words(pilot)
    monkeypatch.setattr("lmbench.tui.new_run.training_speed.try_out", None)
    async with opened(world) as pilot:
        assert "(1,000 tok/s in a trial)" in words(pilot)


async def test_leaving_the_form_ends_the_trial(world, started, monkeypatch):
    begun, ended = asyncio.Event(), asyncio.Event()

    async def try_out() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set()
            raise

    monkeypatch.setattr("lmbench.tui.new_run.training_speed.try_out", try_out)
    async with driving.opened(world) as pilot:
        await pilot.press("n")
        await until(pilot, begun.is_set)
        await pilot.press("escape")
        await until(pilot, ended.is_set)


async def test_the_time_of_a_sensitivity_is_judged_by_an_earlier_training(full, started):
    dense = full.session.run(1)
    dense.update(shape={"ntoken": 33_278}, config={"tied": True})
    full.session.run(2).update(status="finished", shape={"ntoken": 33_278})
    for device, said in (("", "unknown until a training has run here"), ("cpu", "in demo/001")):
        dense.update(device=device, host=platform.node())
        async with opened(full, WIDE, "escape", "home", "n", "s") as pilot:
            told = words(pilot)
        assert "points of" in told
        assert said in told


def quantized_before(world: Any) -> Run:
    """The run whose time is known, of a model as large as the dense one."""
    shape = {"ntoken": 33_278}
    dense, earlier = world.session.run(1), world.session.run(3)
    dense.update(shape=shape, config={"tied": True}, device="cpu", host=platform.node())
    # Of both splits 10,000 tokens in 4 s; what remains of 64 s is 100,000 tokens of calibration.
    earlier.update(
        shape=shape | {"dropout": 0.3}, config={"eval_tokens": 5000}, device="cpu",
        results={"seconds": 64.0, "tokens_per_s": 2500.0},
    )  # fmt: skip
    return earlier


async def test_the_time_of_a_quantization_is_judged_by_an_earlier_one(full, started):
    earlier = quantized_before(full)
    for host, said in (("elsewhere", "time: unknown until"), (platform.node(), "about 0:34 (judg")):
        earlier.update(host=host)
        async with opened(full, WIDE, "escape", "home", "n", "q") as pilot:
            await go_to(pilot, "calibration_tokens")
            await press(pilot, *"50000")
            await go_to(pilot, "eval_tokens")
            await press(pilot, *"5000")
            told = words(pilot)
        assert "of 1 dense, itself" in told
        assert "MB on disk now" in told
        assert said in told


async def test_the_time_of_a_quantization_is_judged_by_none_on_another_kind_of_device(
    full, started
):
    quantized_before(full).update(device="cuda:0")
    async with opened(full, WIDE, "escape", "home", "n", "q") as pilot:
        assert "(judged by 3 int8)" in words(pilot)
        await go_to(pilot, "device")
        await press(pilot, *"cpu")
        assert "time: unknown until" in words(pilot)
        await press(pilot, "ctrl+u", *"cuda")
        assert "(judged by 3 int8)" in words(pilot)


async def test_a_search_says_that_its_time_is_its_budget_s(full, started):
    full.session.run(1).update(shape={"ntoken": 33_278}, device="cpu", config={"tied": True})
    async with opened(full, WIDE, "escape", "home", "n", "q") as pilot:
        await go_to(pilot, "auto")
        await press(pilot, "right")
        await go_to(pilot, "budget")
        await press(pilot, *"4MB")
        assert "as long as the search needs" in words(pilot)


async def test_a_corpus_is_looked_at_once_at_a_time_and_again_where_that_failed(
    world, started, monkeypatch
):
    asked: list[str | None] = []
    answered = asyncio.Event()

    async def size(data: str | None, *_: Any) -> CorpusSize:
        asked.append(data)
        await answered.wait()
        if len(asked) == 1:
            raise LmbenchError("no such corpus")
        return CorpusSize("found now", 33_278, 2_088_628, 217_646)

    monkeypatch.setattr("lmbench.tui.new_run.about_panel.size_of", size)
    async with driving.opened(world) as pilot:
        await pilot.press("n")
        await until(pilot, lambda: isinstance(pilot.app.screen, NewRunScreen) and asked)
        await driving.press(pilot, "down", "down", "down")
        assert asked == [None]
        assert "looking at the corpus" in words(pilot)
        answered.set()
        await at_rest(pilot)
        assert "no such corpus" in words(pilot)
        await press(pilot, "down")
        assert asked == [None, None]
        assert "found now" in words(pilot)


async def test_a_corpus_s_name_is_looked_at_when_it_is_typed(world, started, monkeypatch):
    seen: list[str | None] = []

    async def size(data: str | None, *_: object) -> CorpusSize:
        seen.append(data)
        return CorpusSize("x", 33_278, 2_088_628, 217_646)

    monkeypatch.setattr("lmbench.tui.new_run.about_panel.size_of", size)
    async with opened(world) as pilot:
        await go_to(pilot, "data")
        seen.clear()
        for letter in "mine":
            await pilot.press(letter)
            form(pilot)._read()
        await at_rest(pilot)
        assert seen == ["mine"]


async def test_a_corpus_known_by_name_of_which_a_split_is_missing_is_refused_as_starting_does(
    world, started, monkeypatch
):
    monkeypatch.setattr("lmbench.tui.new_run.about_panel.size_of", size_of)
    folder = world.home.path / "data" / "wikitext-2"
    folder.mkdir(parents=True)
    (folder / "train.txt").write_text("a b c\n")
    async with opened(world) as pilot:
        assert "wikitext-2" in form(pilot).form.specs["data"].placeholder
        for typed in ("", "wikitext-2"):
            form(pilot).form.set_value("data", typed)
            await at_rest(pilot)
            await until(pilot, lambda: "has no valid.txt and no test.txt" in words(pilot))


async def test_ctrl_y_copies_the_command(world, started):
    async with opened(world, NARROW, "ctrl+y") as pilot:
        assert pilot.app.clipboard == "lmbench train --session demo"


async def test_escape_goes_back_and_starts_nothing(world, started):
    async with opened(world, NARROW, "escape") as pilot:
        assert isinstance(pilot.app.screen, MainScreen)
    assert started == []
    assert world.session.runs() == []


async def test_page_keys_go_from_heading_to_heading(world, started):
    async with opened(world) as pilot:
        seen = []
        for _ in range(6):
            await press(pilot, "pagedown")
            seen.append(form(pilot).form.focused_name)
        assert seen == ["model", "data", "lr", "compress", "device", "log_interval"]
        await press(pilot, "pageup")
        assert form(pilot).form.focused_name == "device"


async def test_at_24_rows_every_field_can_be_seen_when_it_has_the_focus(world, started):
    async with opened(world) as pilot:
        names = list(form(pilot).form.specs)
        for name in names:
            await go_to(pilot, name)
            await at_rest(pilot)
            row = form(pilot).form._rows[name]
            assert form(pilot).form.region.contains_region(row.region), name


async def test_a_mistake_of_the_corpus_leaves_the_form_as_it_is(world, started, monkeypatch):
    def fails(*_: Any, **__: Any) -> None:
        raise LmbenchError("no corpus nowhere")

    monkeypatch.setattr("lmbench.tui.kit.make_and_launch.check_training", fails)
    async with opened(world) as pilot:
        await start(pilot)
        told = " ".join(str(w.render()) for w in pilot.app.screen.query("Static"))
        assert "no corpus nowhere" in told
        await press(pilot, "escape")
        assert isinstance(pilot.app.screen, NewRunScreen)
    assert world.session.runs() == []


async def test_a_form_is_read_while_its_rows_are_being_mounted(world):
    async with opened(world) as pilot:
        fields = form(pilot).form
        specs = [FieldSpec("one", "one", "1"), FieldSpec("two", "two", "b", choices=("a", "b"))]
        rebuilt = asyncio.create_task(fields.rebuild(specs))
        while not rebuilt.done():
            await asyncio.sleep(0)
            assert fields.values.get("two", "b") == "b"
            fields.mark_fields({"two": "wrong"}, (), {})
        await rebuilt
        assert fields.values == {"one": "1", "two": "b"}


@pytest.mark.parametrize("size", [NARROW, WIDE])
async def test_a_long_value_is_shown_whole_and_one_beyond_the_line_by_its_end(world, started, size):
    name = "trained by the large tied settings"
    parent = world.new("train", name)
    parent.update(status="finished")
    world.write(parent, ev.Checkpoint(which="best", step=10, epoch=1))
    async with opened(world, size, select=parent.path.name) as pilot:
        await press(pilot, "right")
        fields = form(pilot).form
        fields.set_value("compress", "sessions/default/schedules/mine.yaml")
        await press(pilot, "down")
        assert f"‹ {form(pilot).parents[0].title} ›" in line_of(pilot, "start from")
        assert "sessions/default/schedules/mine.yaml" in line_of(pilot, "schedule")
        fields.field("compress").value = "sessions/default/schedules/" * 6 + "mine.yaml"
        await press(pilot)
        assert "schedules/mine.yaml" in line_of(pilot, "schedule")


async def test_a_hint_is_shown_whole_or_without_its_default_or_not_at_all(full, started):
    async with opened(full, WIDE, select="001-train") as pilot:
        assert "1 or more sequences (default 20)" in line_of(pilot, "batch size")
        await pilot.resize_terminal(112, 30)
        await at_rest(pilot)
        line = line_of(pilot, "batch size")
        assert "1 or more sequences " in line
        assert "default" not in line
        await press(pilot, "right")
        form(pilot).form.set_value("compress", "sessions/demo/schedules/mine.yaml")
        await at_rest(pilot)
        assert "Ent" not in line_of(pilot, "schedule")


async def test_a_complaint_has_as_much_of_two_thirds_as_it_needs(world, started):
    async with opened(world, WIDE) as pilot:
        row = form(pilot).form._rows["epochs"]
        row.field.value = "x" * 200
        row.mark(changed=True, wrong="no such file", note="")
        await at_rest(pilot)
        assert "x  ✗ no such file ┃" in line_of(pilot, "epochs")
        row.mark(changed=True, wrong="y" * 90, note="")
        await at_rest(pilot)
        line = line_of(pilot, "epochs")
        assert "y… " in line
        assert line.count("y") >= 2 * line.count("x") - 4


@pytest.mark.parametrize("focused", ["compress", "epochs"])
async def test_a_long_value_shows_its_end_after_each_resize(full, started, focused):
    async with opened(full, select="001-train") as pilot:
        await press(pilot, "right")
        form(pilot).form.set_value("compress", f"/home/{'long/' * 20}agp-80.yaml")
        await go_to(pilot, focused)
        field = form(pilot).form.field("compress")
        for size in (WIDE, NARROW, (200, 50), WIDE):
            await pilot.resize_terminal(*size)
            await at_rest(pilot)
            assert field.render_line(0).text.rstrip().endswith("long/agp-80.yaml"), size


async def test_a_training_shorter_than_its_schedule_is_warned_of_before_it_starts(world, started):
    settings = {"compress": "small-80", "tied": True, "epochs": 4}
    async with driving.opened(world, size=WIDE) as pilot:
        bench_of(pilot).open("new_run", kind="prune", settings=settings)
        await until(pilot, lambda: isinstance(pilot.app.screen, NewRunScreen))
        await until(pilot, lambda: "takes 6 epochs and the training ends after 4" in words(pilot))
        assert "--epochs 6 completes it" in words(pilot)
        await go_to(pilot, "epochs")
        await press(pilot, *"6")
        await until(pilot, lambda: "80.0% of the weights are zero" in words(pilot))
        assert "completes it" not in words(pilot)
