"""The laboratory, comparing, sensitivity and chains by keys alone."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import driving
import laboratory_double
import pytest
import yaml
from driving import bench_of, press_then_rest, screen_of, settled, until, words
from driving import press_in_turn as press
from laboratory_double import BASE, PUBLISHED, READY, Laboratory, measure
from pictures import SIZES
from textual.pilot import Pilot
from textual.widgets import OptionList, Static
from workbench_world import NOON

from lmbench.config import TrainConfig
from lmbench.distiller.schedules.checking import load_schedule
from lmbench.errors import LmbenchError
from lmbench.jobs.hosts import laboratory_messages as messages
from lmbench.jobs.hosts.laboratory_messages import Prune, Refused
from lmbench.session import Run
from lmbench.session import events as ev
from lmbench.tui.app import Workbench
from lmbench.tui.bench.float_model_run import subject_of
from lmbench.tui.kit.choice_dialog import ChoiceDialog
from lmbench.tui.kit.grid import Grid
from lmbench.tui.kit.panel import Panel
from lmbench.tui.laboratory.candidates import Candidate, best_first, to_json
from lmbench.tui.laboratory.candidates_panel import CandidatesPanel
from lmbench.tui.laboratory.quantization_settings import differences
from lmbench.tui.laboratory.saved_state import SavedState
from lmbench.tui.laboratory.screen import LabScreen
from lmbench.tui.laboratory.state import LaboratoryState
from lmbench.tui.main_screen import MainScreen
from lmbench.tui.new_run.chains_screen import ChainsScreen
from lmbench.tui.new_run.corpus_size import size_of
from lmbench.tui.new_run.screen import NewRunScreen
from lmbench.tui.sensitivity.screen import SensitivityScreen

pytestmark = pytest.mark.usefixtures("started")


opened = partial(driving.opened, run="001-train")


def candidates(pilot: Pilot[None]) -> list[Candidate]:
    return best_first(screen_of(pilot, LabScreen).state.candidates)


def asked() -> list[messages.Message]:
    """All that the laboratory was asked since it was opened."""
    return Laboratory.asked


# -- the laboratory ----------------------------------------------------------------------------


async def test_l_opens_the_laboratory_and_enter_evaluates_the_draft(lab):
    async with opened(lab, "l", "enter") as pilot:
        (entry,) = candidates(pilot)
        assert (entry.name, entry.preset, entry.state) == ("int8-best", "int8-best", "evaluated")
        assert "perplexity 121.5 on" in words(pilot)
        assert "7.4 MB" in words(pilot)


async def test_keys_turn_precision_clip_channels_and_mode_of_one_module(lab):
    async with opened(lab, "l", "down", "b", "c", "h", "m") as pilot:
        screen = screen_of(pilot, LabScreen)
        own = screen.state.draft["overrides"]["rnn\\.cells\\.0\\.fc_gate_x"]
        assert own["bits_weights"] == 6
        assert own["clip_acts"] == "PERCENTILE"
        assert own["per_channel_wts"] is False
        assert own["mode"] == "SYMMETRIC_RESTRICTED"
        assert "1 changed" in words(pilot)
        await press(pilot, "0")
        assert screen.state.draft["overrides"] == {}


async def test_a_candidate_that_ends_the_laboratory_is_not_evaluated_at_the_next_opening(
    lab, monkeypatch
):
    class Deadly(Laboratory):
        async def send(self, message: messages.Message) -> None:
            Laboratory.asked.append(message)
            if isinstance(message, messages.Evaluate):
                self._received(messages.Died(reason="the laboratory is gone: killed"))
            elif isinstance(message, messages.OpenModel):
                self._received(laboratory_double.ready(message))

    monkeypatch.setattr(LabScreen, "client_class", Deadly)
    async with opened(lab, "l", "u") as pilot:
        states = [(c.name, c.state) for c in screen_of(pilot, LabScreen).state.candidates]
        assert states == [("as it is", "failed"), *((name, "waiting") for name in PUBLISHED)]
        assert "the laboratory is gone: killed" in candidates(pilot)[-1].problem
        monkeypatch.setattr(LabScreen, "client_class", Laboratory)
        await press(pilot, "escape", "l")
        assert {c.name for c in candidates(pilot)} == set(PUBLISHED)
        assert {c.state for c in candidates(pilot)} == {"evaluated"}


@pytest.mark.parametrize("keys", [("tab", "u", "down"), ("u", "tab", "down")])
async def test_the_arrows_move_over_candidates_that_came_while_the_panel_had_the_focus(lab, keys):
    async with opened(lab, "l", *keys) as pilot:
        panel = pilot.app.screen.query_one(CandidatesPanel)
        assert panel.query_one(Grid).has_focus
        assert panel.chosen == candidates(pilot)[1]
        await press(pilot, *["x"] * len(PUBLISHED), "x")
        assert candidates(pilot) == []
        assert panel.has_focus


async def test_a_run_of_a_candidate_that_cannot_be_started_leaves_nothing(lab, monkeypatch):
    def fails(run: Run, **_: object) -> None:
        raise LmbenchError("no supervisor")

    monkeypatch.setattr("lmbench.jobs.launch.start", fails)
    before = len(lab.session.runs())
    async with opened(lab, "l", "b", "enter", "K") as pilot:
        await until(pilot, lambda: "no supervisor" in words(pilot))
    assert len(lab.session.runs()) == before
    assert list((lab.session.path / "quantization").iterdir()) == []


async def test_a_makes_the_keys_change_all_modules(lab):
    async with opened(lab, "l", "b", "a", "c") as pilot:
        draft = screen_of(pilot, LabScreen).state.draft
        assert draft["clip_acts"] == "PERCENTILE"
        assert draft["overrides"]["encoder"]["bits_weights"] == 6


async def test_a_cell_s_state_is_shown_as_it_is_clipped_until_a_key_says_otherwise(
    lab, monkeypatch
):
    state = laboratory_double.module("cells.0.cell", "EltwiseAdd", 0, -9.0, 9.0, role="state")
    presets = tuple(
        replace(preset, settings={**preset.settings, "clip_state": "GAUSS"})
        for preset in laboratory_double.READY.presets
    )
    ready = replace(laboratory_double.READY, modules=(state,), presets=presets)
    monkeypatch.setattr(laboratory_double, "READY", ready)

    def line(pilot: Pilot[None]) -> str:
        return next(line for line in words(pilot).splitlines() if "cells.0.cell" in line)

    async with opened(lab, "l", "m") as pilot:
        assert "a8        gauss" in line(pilot)
        assert "sym-r" in line(pilot)
        await press(pilot, "c")
        assert "lapla" in line(pilot)
        await press(pilot, "0")
        assert "gauss" in line(pilot)
        await press(pilot, "a", "c")
        assert "lapla" in line(pilot)
        assert "cell state as all" in ", ".join(
            differences(screen_of(pilot, LabScreen).state.draft, presets[-1].settings)
        )


async def test_a_key_that_would_change_no_module_says_why(lab):
    async with opened(lab, "l", "a", *"bbbbb", "c") as pilot:
        assert bench_of(pilot).last_message == "encoder is computed in floats: b changes that"
        assert screen_of(pilot, LabScreen).state.draft["clip_acts"] == "MSE"


async def test_u_evaluates_the_seven_published_settings_best_first(lab):
    async with opened(lab, "l", "u") as pilot:
        found = candidates(pilot)
        assert len(found) == 7
        assert [t.loss for t in found] == sorted(t.loss for t in found)
        assert {t.preset for t in found} == {"", *PUBLISHED}
        await press(pilot, "u")
        assert len(candidates(pilot)) == 7


async def test_what_cannot_be_evaluated_says_why_and_the_rest_goes_on(lab):
    async with opened(lab, "l", "a", "c", "c", "enter", "c", "enter") as pilot:
        states = [t.state for t in candidates(pilot)]
        assert states == ["evaluated", "failed"]
        assert bench_of(pilot).last_message == "KL is not available"


@pytest.mark.parametrize("size", SIZES)
async def test_the_settings_of_the_candidate_under_the_cursor_stand_below_the_list(lab, size):
    changed = ("down", "h", "c", "m", "enter")
    async with opened(lab, "l", *changed, "tab", size=size) as pilot:
        (entry,) = candidates(pilot)
        assert len(entry.words) > 20
        assert entry.words in settings_line(pilot)
        assert len(settings_line(pilot)) < size[0]
        await press(pilot, "u", "home")
        panel = screen_of(pilot, LabScreen).query_one(CandidatesPanel)
        while panel.chosen != candidates(pilot)[-1]:
            await press(pilot, "down")
        assert settings_line(pilot) == candidates(pilot)[-1].words
        await pilot.resize_terminal(*SIZES[0])
        await pilot.pause()
        assert settings_line(pilot) == candidates(pilot)[-1].words


@pytest.mark.parametrize("size", SIZES)
async def test_the_name_of_the_candidate_under_the_cursor_is_somewhere_whole(lab, size):
    name = "int8-asymmetric-per-channel"
    async with opened(lab, "l", "u", "tab", "home", size=size) as pilot:
        panel = screen_of(pilot, LabScreen).query_one(CandidatesPanel)
        while panel.chosen is None or panel.chosen.name != name:
            await press(pilot, "down")
        in_table = next(line for line in words(pilot).splitlines() if "int8-asymmetric" in line)
        assert (name in in_table) == (size[0] != 120)
        about = f"what {name} does"
        assert settings_line(pilot) == (f"{name}: {about}" if size[0] == 120 else about)


async def test_of_a_candidate_that_failed_the_reason_stands_below_the_list(lab):
    async with opened(lab, "l", "a", "c", "c", "enter", "tab", size=(120, 30)) as pilot:
        assert settings_line(pilot) == "KL is not available"


async def test_settings_in_more_words_than_there_is_room_for_end_in_an_ellipsis(lab):
    async with opened(lab, "l", "enter", "tab") as pilot:
        screen = screen_of(pilot, LabScreen)
        (entry,) = screen.state.candidates
        screen.state.candidates = [replace(entry, words="sixteen letters " * 20)]
        screen.query_one(CandidatesPanel).refresh_view()
        await pilot.pause()
        assert settings_line(pilot).endswith(" …")
        assert 60 < len(settings_line(pilot)) < 80
        whole = "sixteen letters " * 19 + "sixteen letters"
        await press(pilot, "z")
        assert settings_line(pilot) == whole
        await press(pilot, "z")
        screen.state.candidates = [replace(entry, words="sixteen letters " * 10)]
        await pilot.resize_terminal(120, 30)
        await pilot.pause()
        assert settings_line(pilot) == whole[:159]


def settings_line(pilot: Pilot[None]) -> str:
    """What can be seen of it."""
    line = pilot.app.screen.query_one("#settings", Static)
    seen = [line.render_line(y).text.strip() for y in range(line.size.height)]
    return " ".join(filter(None, seen))


async def test_p_starts_the_draft_from_a_preset_and_a_candidate_can_be_loaded_back(lab):
    async with opened(lab, "l", "p", "home", "enter") as pilot:
        screen = screen_of(pilot, LabScreen)
        assert screen.state.draft_name == "fp16"
        await press(pilot, "b", "enter", "tab", "end", "enter")
        assert screen.state.draft_name == "fp16 +1"
        assert screen.panel("modules").has_focus_within


async def test_candidates_with_different_settings_have_different_names_whole_at_80(lab):
    async with opened(lab, "l", "b", "enter", "b", "enter", "enter") as pilot:
        assert [entry.name for entry in screen_of(pilot, LabScreen).state.candidates] == [
            "int8-best +1", "int8-best +1 (2)",
        ]  # fmt: skip
        assert "int8-best +1 (2)" in words(pilot)
        assert bench_of(pilot).last_message == "int8-best +1 (2) was evaluated already"


async def test_keeping_a_preset_makes_a_quantize_run_of_it(lab, started):
    async with opened(lab, "l", "enter", "K") as pilot:
        await until(pilot, lambda: "kept" in bench_of(pilot).last_message)
        assert "kept as run 5" in bench_of(pilot).last_message
    record = started[0].read()
    assert (record.kind, record.parent) == ("quantize", "demo/001-train")
    assert record.config == {"preset": "int8-best"}
    assert record.command == "lmbench quantize demo/001-train --preset int8-best --name int8-best"


async def test_keeping_a_changed_draft_writes_its_settings_into_the_session(lab, started):
    async with opened(lab, "l", "b", "enter", "K") as pilot:
        await until(pilot, lambda: bool(started))
    path = lab.home.path / started[0].read().config["config"]
    assert yaml.safe_load(path.read_text())["overrides"]["encoder"]["bits_weights"] == 6
    assert path.is_relative_to(lab.session.path)


async def test_the_draft_is_kept_and_not_a_better_candidate(lab, started):
    async with opened(lab, "l", "enter", "b", "K") as pilot:
        assert "no run to make: Enter evaluates the draft first" in words(pilot)
        await press(pilot, "enter", "K")
        await until(pilot, lambda: bool(started))
        assert candidates(pilot)[0].name == "int8-best"
    assert started[0].read().name == "int8-best +1"


async def test_what_a_preset_has_of_one_module_is_no_change(lab):
    async with opened(lab, "l") as pilot:
        state = screen_of(pilot, LabScreen).state
        state.draft = state._base = {**state.draft, "overrides": {"decoder": {"clip_acts": "AVG"}}}
        assert not state.has_own("decoder")
        before = state.draft
        state.change_setting("precision", "decoder")
        assert state.has_own("decoder")
        state.reset("decoder")
        assert state.draft == before


async def test_the_slider_evaluates_where_it_rests_and_t_turns_to_a_tensor(lab):
    async with opened(lab, "l", "tab", "tab", "6") as pilot:
        screen = screen_of(pilot, LabScreen)
        assert screen.state.pruned["model"][0.6][1] == round(7_295_600 * 0.4)
        await press_then_rest(pilot, "right", "right", "left_square_bracket")
        assert screen.state.level == 0.69
        asked = [m.level for m in Laboratory.asked if isinstance(m, messages.Prune)]
        assert asked == [0.6, 0.69]
        await press(pilot, "t")
        assert list(screen.state.pruned) == ["model", "encoder.weight"]


@pytest.mark.parametrize("size", SIZES)
async def test_the_slider_says_what_is_left_in_weights_and_in_bytes(lab, size):
    async with opened(lab, "l", "tab", "tab", "6", size=size) as pilot:
        await until(pilot, lambda: "weights left" in words(pilot))
        assert "2,918,240 weights left, 11.7 MB packed" in words(pilot)
        assert "perplexity 138.3 (+13.8%)" in words(pilot)


async def test_candidates_are_there_again_and_evaluated_anew_on_another_model(lab):
    async with opened(lab, "l", "enter", "down", "b", "enter", "c", "escape") as pilot:
        screen_of(pilot, MainScreen)
        await press(pilot, "l")
        assert len(candidates(pilot)) == 2
        assert [type(m) for m in asked()] == [messages.OpenModel]
        draft = screen_of(pilot, LabScreen).state.draft
    path = lab.session.run(1).path / "best" / "model.safetensors"
    path.write_bytes(b"trained on")
    async with opened(lab) as pilot:
        assert screen_of(pilot, LabScreen).state.draft == draft
        assert [c.state for c in candidates(pilot)] == ["evaluated"] * 2
        assert [type(m) for m in asked()] == [messages.OpenModel] + [messages.Evaluate] * 2


async def test_that_a_training_has_saved_a_newer_model_stands_in_the_head(lab):
    async with opened(lab, "l", "enter") as pilot:
        newer = "A newer model was saved: Esc, then l opens it."
        assert newer not in words(pilot)
        path = lab.session.run(1).path / "best" / "model.safetensors"
        path.write_bytes(b"trained on")
        lab.write(lab.session.run(1), ev.Checkpoint(t=NOON, which="best", step=9999, epoch=7))
        await bench_of(pilot).refresh_snapshot()
        await until(pilot, lambda: newer in words(pilot))
        await press(pilot, "escape", "l")
        assert newer not in words(pilot)


async def test_candidates_of_a_model_that_is_replaced_while_it_is_opened_are_evaluated_anew(
    lab, monkeypatch
):
    path = lab.session.run(1).path / "best" / "model.safetensors"
    answer = laboratory_double.ready

    def replaced(request: messages.OpenModel) -> messages.Ready:
        path.write_bytes(b"trained on")
        return answer(request)

    async with opened(lab, "l", "enter", "escape") as pilot:
        with monkeypatch.context() as patch:
            patch.setattr(laboratory_double, "ready", replaced)
            await press(pilot, "l")
        assert len(asked()) == 2
        # What is evaluated now is saved as the new one's.
        await press(pilot, "escape", "l")
        assert len(candidates(pilot)) == len(asked()) == 1


async def test_two_workbenches_keep_each_other_s_candidates(lab):
    """Each of another run, and of a run that the other has evaluated since it was opened."""
    pruned = lab.session.run(2)
    (pruned.path / "best").mkdir()
    (pruned.path / "best" / "model.safetensors").write_bytes(b"")
    async with opened(lab) as one:
        async with opened(lab, "l", "enter", "u") as other:
            assert len(candidates(other)) == 8
        await settled(one)
        await press(one, "down", "l", "enter", "escape")
        await press(one, "up", "l")
        assert len(candidates(one)) == 8
    async with opened(lab, "escape", "l") as pilot:
        assert len(candidates(pilot)) == 8
        await press(pilot, "escape", "down", "l")
        assert len(candidates(pilot)) == 1


async def test_without_a_trained_run_the_laboratory_says_what_is_needed(world):
    world.new("quantize", "int8", status="failed")
    async with opened(world, "l") as pilot:
        assert "A trained run is needed" in words(pilot)


async def test_a_laboratory_that_dies_says_so_and_waits_for_nothing(lab):
    async with opened(lab, "l") as pilot:
        screen = screen_of(pilot, LabScreen)
        assert screen._client is not None
        screen._client._received(messages.Died(reason="the laboratory is gone: killed"))  # type: ignore[attr-defined]
        await pilot.pause()
        await pilot.pause()
        assert "the laboratory is gone: killed" in words(pilot)
        await press(pilot, "enter", "u", "tab", "tab", "right")
        assert candidates(pilot) == []
        assert not screen.state.level_pending
        assert bench_of(pilot).recent_message.startswith("the laboratory is gone: killed")


async def test_the_laboratory_waits_for_the_model_of_a_run_whose_parent_is_not_read_yet(lab):
    (lab.new("train", "newest", status="finished").path / "best").mkdir()
    quantized = lab.new("quantize", "four", parent=lab.session.run(1), status="finished")
    async with driving.opened(lab, run=quantized.path.name) as pilot:
        bench = bench_of(pilot)
        whole = bench.snapshot
        left = {key: view for key, view in whole.by_key.items() if view.id != 1}
        assert subject_of(left, quantized.path.name) is not None

        async def unread(app: Workbench, *, defer_growth: bool) -> None: ...

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Workbench, "_poll_once", unread)
            bench.snapshot = replace(whole, by_key=left, unread=1)
            await press(pilot, "l")
            assert screen_of(pilot, LabScreen).subject is None
            bench.snapshot = whole
            await until(pilot, lambda: screen_of(pilot, LabScreen).subject is not None)
        subject = screen_of(pilot, LabScreen).subject
        assert subject is not None
        assert subject.key == "001-train"


@pytest.mark.parametrize("panel, key", [("modules", "enter"), ("modules", "b"), ("prune", "right")])
async def test_a_key_before_the_model_is_there_says_so(lab, panel, key):
    async with opened(lab, "l") as pilot:
        screen = screen_of(pilot, LabScreen)
        screen.panel(panel).take_focus()
        screen.state.ready = None
        await press(pilot, key)
        assert bench_of(pilot).recent_message == "the model is still being opened"


async def test_x_takes_back_a_candidate_that_waits(lab, monkeypatch):
    async def never(self: Laboratory, message: messages.Message) -> None:
        if isinstance(message, messages.OpenModel):
            self._received(laboratory_double.ready(message))

    monkeypatch.setattr(Laboratory, "send", never)
    async with opened(lab, "l", "enter", "u", "tab", "end", "x") as pilot:
        assert len(candidates(pilot)) == 7
        await press(pilot, "home", "x")
        # It is being evaluated.
        assert len(candidates(pilot)) == 7


async def test_a_candidate_that_is_being_evaluated_is_not_called_evaluated(lab, monkeypatch):
    async def never(self: Laboratory, message: messages.Message) -> None:
        if isinstance(message, messages.OpenModel):
            self._received(laboratory_double.ready(message))

    monkeypatch.setattr(Laboratory, "send", never)
    async with opened(lab, "l", "enter", "enter") as pilot:
        assert bench_of(pilot).last_message == "int8-best is being evaluated"
        await press(pilot, "u", "u")
        assert bench_of(pilot).last_message == "mixed-avg waits for its evaluation"
        await press(pilot, "K")
        assert "int8-best was not evaluated yet: no run is made of it" in words(pilot)


async def test_k_on_the_model_as_it_is_says_which_run_that_is(lab, started):
    async with opened(lab, "l", "u", "tab", "home") as pilot:
        as_it_is = next(c for c in candidates(pilot) if c.name == "as it is")
        await press(pilot, *["down"] * candidates(pilot).index(as_it_is))
        await press(pilot, "K")
        assert "the model unchanged is run 1 itself" in words(pilot)
    assert not started


@pytest.mark.parametrize("size", SIZES)
async def test_modules_stand_by_layer_under_headings_without_abbreviations(lab, size):
    async with opened(lab, "l", size=size) as pilot:
        shown = words(pilot)
        for heading in ("layer", "module", "precision", "clipping"):
            assert heading in shown
        assert "layer 0 fc_gate_x" in " ".join(shown.split())
        assert "embedding encoder" in " ".join(shown.split())
        # Whole, at the cost of columns that can be left out.
        assert "eltwisemult_hidden" in shown


async def test_a_size_that_is_larger_than_its_bits_says_why(lab):
    lab.session.run(1).update(shape={**lab.session.run(1).read().shape, "tied": True})
    async with opened(lab, "l", "b", "enter", "tab", size=(120, 30)) as pilot:
        (entry,) = candidates(pilot)
        assert "encoder: w6" in entry.words.replace("int ", "")
        assert settings_line(pilot).endswith(
            "6 bits are packed in 8; encoder and decoder differ: both are stored"
        )


@pytest.mark.parametrize("evaluated", [False, True])
async def test_k_on_the_slider_opens_the_form_for_a_run_that_prunes_to_its_level(
    lab, started, monkeypatch, evaluated
):
    monkeypatch.setattr("lmbench.tui.laboratory.screen._REST_S", 0.01 if evaluated else 3600.0)
    async with opened(lab, "l", "enter", "tab", "tab", "K") as pilot:
        assert "0% prunes nothing: → moves the level" in words(pilot)
        await press(pilot, "6", "t")
        assert "0% prunes nothing" not in words(pilot)
        if evaluated:
            pruned = screen_of(pilot, LabScreen).state.pruned
            await until(pilot, lambda: 0.6 in pruned.get("encoder.weight", {}))
        await press(pilot, "K")
        await until(pilot, lambda: isinstance(pilot.app.screen, NewRunScreen))
        await until(pilot, lambda: screen_of(pilot, NewRunScreen).form.specs != {})
        form = screen_of(pilot, NewRunScreen)
        path = form.form.values["compress"]
        assert form.form.values["@kind"] == "prune"
        said = "pruned to 60% at once, and then trained"
        said += ": not the model just evaluated" if evaluated else ""
        assert bench_of(pilot).last_message == said
        assert said in words(pilot)
        assert form.origin is not None
        assert form.origin.key == "001-train"
        assert path.endswith("at-once-60.yaml")
        load_schedule(lab.home.path / path)
    assert not started
    document = yaml.safe_load((lab.home.path / path).read_text())
    assert document["pruners"]["at_once"]["levels"] == {"encoder.weight": 0.6}


@pytest.mark.parametrize("edited", [False, True])
async def test_a_schedule_of_a_form_that_is_left_goes_unless_it_was_changed(lab, started, edited):
    async with opened(lab, "l", "enter", "tab", "tab", "6", "t", "K") as pilot:
        await until(pilot, lambda: isinstance(pilot.app.screen, NewRunScreen))
        path = lab.home.path / screen_of(pilot, NewRunScreen).form.values["compress"]
        assert path.exists()
        if edited:
            path.write_text(path.read_text() + "# mine\n")
        await press(pilot, "escape")
        await until(pilot, lambda: isinstance(pilot.app.screen, LabScreen))
        assert path.exists() == edited


def test_what_an_older_version_saved_of_the_laboratory_is_read() -> None:
    entry = Candidate(1, "fp16", {"precision": "16", "overrides": {}}).evaluated(
        4.8, 121.5, 1000, 2.0
    )
    saved = SavedState((entry,)).to_json(7)
    saved["tries"] = saved.pop("candidates")
    assert SavedState.from_json(saved, 7).candidates == (entry,)


def test_what_was_still_to_be_evaluated_waits_again_and_what_failed_is_gone() -> None:
    states = ("running", "waiting", "failed")
    asked = [Candidate(n, "own", BASE, state=state) for n, state in enumerate(states, 1)]
    saved = json.loads(json.dumps(SavedState(tuple(asked)).to_json(7), allow_nan=False))
    waiting = (replace(asked[0], state="waiting"), asked[1])
    assert SavedState.from_json(saved, 7).candidates == waiting
    del saved["candidates"][0]["words"]
    saved["candidates"][1]["loss"] = 4.0
    assert SavedState.from_json(saved, 7).candidates == ()


@pytest.mark.parametrize(
    "damage",
    [{"settings": {**BASE, "colour": "red"}}, {"settings": {"overrides": 3}}, {"name": 4},
     {"words": None}],
)  # fmt: skip
def test_a_saved_candidate_that_the_engine_cannot_take_is_left_out(damage) -> None:
    good = to_json([Candidate(n, "own", s, state="evaluated", loss=4.0) for n, s in
                    enumerate(({}, BASE), 1)])  # fmt: skip
    saved = {"stamp": 7, "candidates": [*good, {**good[1], **damage}]}
    assert [c.number for c in SavedState.from_json(saved, 7).candidates] == [1, 2]


def test_a_refused_level_of_the_slider_leaves_the_one_it_has_been_moved_to_pending() -> None:
    said: list[str] = []
    state = LaboratoryState(lambda _: None, said.append)
    state.ready = READY
    state.slide_to(0.2)
    asked = state.next_request(slider_at_rest=True)
    assert asked is not None
    state.slide_to(0.3)
    state.receive(Refused(id=asked.id, reason="no room"))
    assert said == ["no room"]
    again = state.next_request(slider_at_rest=True)
    assert isinstance(again, Prune)
    assert again.level == 0.3
    state.receive(Refused(id=again.id, reason="no room"))
    assert state.next_request(slider_at_rest=True) is None


# -- chains ------------------------------------------------------------------------------------


async def test_ctrl_s_queues_a_chain_whole_each_after_its_parent(lab, started, monkeypatch):
    monkeypatch.setattr("lmbench.jobs.chains.check_training", lambda *_, **__: None)
    async with opened(lab, "N", "down", "down") as pilot:
        assert screen_of(pilot, ChainsScreen).chain.name == "small-tied"
        await press(pilot, "ctrl+s")
        await until(pilot, lambda: bool(started))
    runs = [run for run in lab.session.runs() if run.id > 4]
    assert started == runs[:1]
    records = [run.read() for run in runs]
    assert [r.kind for r in records] == ["train", *["prune"] * 4, *["quantize"] * 5]
    dense = runs[0].ref
    assert [r.parent for r in records[:6]] == [None, *[dense] * 4, dense]
    assert [r.parent for r in records[6:]] == [run.ref for run in runs[1:5]]
    assert [r.created for r in records] == sorted(r.created for r in records)
    assert all((run.path / "schedule.yaml").is_file() for run in runs[1:5])


async def test_a_chain_names_wikitext_2_and_d_takes_another_corpus(lab, started, monkeypatch):
    """None of the two is here: the published one is fetched when it is queued, and that is said."""
    checked: list[TrainConfig] = []
    monkeypatch.setattr(
        "lmbench.jobs.chains.check_training", lambda config, *_, **__: checked.append(config)
    )
    monkeypatch.setattr("lmbench.tui.new_run.chains_screen.size_of", size_of)
    folder = lab.home.path / "data" / "mine"
    folder.mkdir(parents=True)
    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_text("a b c d e f\n" * 200)
    async with opened(lab, "N", "down", "down") as pilot:
        chains = screen_of(pilot, ChainsScreen)
        await until(pilot, lambda: "wikitext-2: 2,088,628 tokens" in str(chains.judged))
        assert "not here yet: queueing fetches it" in str(chains.judged)
        assert "time: unknown until a training has run here" in str(chains.judged)
        await press(pilot, "d")
        listed = screen_of(pilot, ChoiceDialog).query_one(OptionList).options
        place = next(n for n, one in enumerate(listed) if str(one.prompt).startswith("mine"))
        await press(pilot, *["down"] * place, "enter")
        await until(pilot, lambda: "instead of wikitext-2" in str(chains.judged))
        assert str(chains.judged).startswith("mine: 1,400 tokens")
        await press(pilot, "ctrl+s")
        await until(pilot, lambda: bool(started))
    assert {config.data for config in checked} == {"mine"}
    assert started[0].read().config["data"] == "mine"


async def test_the_palette_offers_every_published_command(lab):
    async with opened(lab) as pilot:
        app = pilot.app
        titles = [command.title for command in app.get_system_commands(app.screen)]
        assert "Train large-tied" in titles
        assert "Queue small-tied: train, prune at four levels, quantize each" in titles
        assert "Prune 1 dense by large-70b" in titles
        assert "Quantize 1 dense to mixed-avg" in titles


# -- all of them -------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["l", "c", "v", "N"])
async def test_every_screen_has_lines_and_the_focus_and_escape_leads_back(lab, key):
    measure(lab)
    async with opened(lab, key) as pilot:
        assert any(grid.rows for grid in pilot.app.screen.query(Grid))
        assert pilot.app.focused is not None
        await press(pilot, "tab", "shift+tab", "escape")
        screen_of(pilot, MainScreen)


async def test_nothing_that_makes_runs_is_offered_while_a_recording_plays(lab, monkeypatch):
    monkeypatch.setattr(Workbench, "demo", property(lambda self: True))
    measure(lab)
    async with opened(lab, "l", "N") as pilot:
        screen_of(pilot, MainScreen)
        await press(pilot, "v", "ctrl+s")
        screen_of(pilot, SensitivityScreen)
    assert len(lab.session.runs()) == 5
    assert json.loads((lab.session.path / "session.json").read_text())["name"] == "demo"


@pytest.mark.parametrize("keys", [("l",), ("c",), ("N",)])
async def test_tab_goes_to_a_panel_that_is_on_the_screen_where_another_had_all_of_it(lab, keys):
    async with opened(lab, *keys) as pilot:
        await press(pilot, "z", "tab")
        focused = next(p for p in pilot.app.screen.query(Panel) if p.has_focus_within)
        assert focused.region.area > 0


async def test_a_maximised_suggestion_follows_what_is_measured(lab):
    run = measure(lab)
    lab.live(run)
    async with opened(lab, "v", "z") as pilot:
        screen = screen_of(pilot, SensitivityScreen)
        before = len(screen.curves)
        point = ev.SensitivityPoint(
            tensor="late", part="tensor", level=0.5, ppl=130.0, granularity="element"
        )
        lab.write(run, point)
        await settled(pilot)
        assert len(screen.curves) == before + 1
        assert "late" in words(pilot)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("panel", ["modules", "candidates", "prune"])
async def test_each_panel_fills_the_screen_when_maximised(lab, size, panel):
    async with opened(lab, "l", size=size) as pilot:
        place = screen_of(pilot, LabScreen).query_one(f"#{panel}", Panel)
        place.take_focus()
        before = place.region
        await press(pilot, "z")
        bars = sum(bar.region.height for bar in pilot.app.screen.query("StatusBar, KeyBar"))
        assert place.region == pilot.app.screen.region.shrink((0, 0, bars, 0))
        assert "precision" in words(pilot) or panel != "modules"
        await press(pilot, "z")
        assert place.region == before


async def test_the_cursor_stays_in_view_where_its_panel_becomes_small(lab):
    drafts = ("b", "enter") * 2 + ("down", "b", "enter") * 3
    async with opened(lab, "l", "u", *drafts, "tab", "z", "end") as pilot:
        await press(pilot, "z")
        grid = screen_of(pilot, LabScreen).query_one(CandidatesPanel).query_one(Grid)
        assert grid.cursor > grid.size.height
        assert 1 <= grid.cursor + 1 - grid.scroll_offset.y < grid.size.height


async def test_a_key_of_another_panel_says_that_tab_goes_there(lab):
    async with opened(lab, "l", "right_square_bracket") as pilot:
        said = bench_of(pilot).recent_message
        assert said == "] is a key of Prune at once: tab goes from panel to panel"


@pytest.mark.parametrize("count", [float("inf"), 10**400, "9", None, True])
def test_a_remembered_score_with_a_number_that_is_none_is_left_out(count):
    saved = {"stamp": 7, "pruned": {"model": [[0.5, 99.0, 10, count], [0.6, 98.0, 10, 20]]}}
    found = SavedState.from_json(saved, 7).pruned
    assert {target: list(scores) for target, scores in found.items()} == {"model": [0.6]}
