"""Which lines the new-run form has, for a kind of run and the run that it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lmbench.config import Kind, TrainConfig
from lmbench.distiller.quantization.settings_files import preset_names
from lmbench.errors import LmbenchError
from lmbench.jobs.prepare import inherited_settings
from lmbench.report.published_figures import FIRST_STEPS, PUBLISHED
from lmbench.training.recipe_files import recipe_names, recipe_settings, recipe_summary
from lmbench.tui.bench.snapshots import RunView
from lmbench.tui.kit.form import FieldSpec
from lmbench.tui.new_run.fields import Setting, parse, shown

__all__ = [
    "ABOUT",
    "KINDS",
    "FormState",
    "can_start",
    "field_specs",
    "label",
    "missing",
    "preset_note",
    "preset_settings",
    "start_of",
    "taken_from",
    "texts_of",
    "training_of",
]

KINDS: tuple[Kind, ...] = ("train", "prune", "quantize", "sensitivity", "pack")
_WHAT = {
    "train": "a language model from scratch",
    "prune": "training under a schedule that takes weights away",
    "quantize": "a trained model to fewer bits, without training",
    "sensitivity": "what pruning each tensor alone would cost",
    "pack": "one small file of the model, its words and scores",
}
ABOUT = {
    "@kind": "What the run does. ← and → change it.",
    "@preset": "A published command to start from, on WikiText-2, or a recipe of training. "
    "Every setting can be changed after, the corpus too.",
    "@parent": "The trained run that this one starts from.",
    "@name": "What the run is called in lists, tables and plots. "
    "Left empty, it is named after its settings.",
}
"""What the form's own lines mean; the others have their help in the settings' definitions."""

_SCRATCH = "from scratch"
_DEFAULTS = "defaults"
_TRAININGS = (*PUBLISHED, FIRST_STEPS)


@dataclass(frozen=True)
class FormState:
    """A run to ask for: `base` is each setting's value where the form is left alone, `parents` the
    runs that it can start from, `origin` the one it does."""

    kind: Kind
    settings: list[Setting]
    base: Mapping[str, Any]
    parents: list[RunView]
    origin: RunView | None


def field_specs(state: FormState, corpus: str) -> list[FieldSpec]:
    """The form's lines; `corpus` is the one that is taken by default."""
    specs = [FieldSpec("@kind", "what", state.kind, _WHAT[state.kind], KINDS)]
    if state.kind == "train":
        names = (_DEFAULTS, *(p.name for p in _TRAININGS), *_recipes())
        specs.append(FieldSpec("@preset", "start from", _DEFAULTS, "", names))
    else:
        specs.append(_parent_spec(state))
    specs.append(FieldSpec("@name", "name", "", "what the run is called", placeholder="automatic"))
    heading = ""
    for setting in state.settings:
        base = state.base[setting.name]
        specs.append(
            FieldSpec(
                setting.name,
                label(setting),
                shown(setting, base),
                default_note(setting, base),
                setting.choices,
                bool(setting.choices_from),
                setting.group if setting.group != heading else "",
                _placeholder(setting, base, corpus),
            )
        )
        heading = setting.group
    return specs


def texts_of(settings: list[Setting], values: Mapping[str, Any]) -> dict[str, str]:
    """The texts of these values in the form; `taken_from` is the way back."""
    return {s.name: shown(s, values[s.name]) for s in settings if s.name in values}


def taken_from(
    settings: list[Setting], base: Mapping[str, Any], texts: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The values that differ from `base`, and what is wrong with texts that are no values."""
    given: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for setting in settings:
        text = texts.get(setting.name)
        if text is None or (not text.strip() and not setting.choices):
            continue
        try:
            value = parse(setting, text)
        except ValueError as error:
            wrong[setting.name] = str(error)
            continue
        if value != base[setting.name]:
            given[setting.name] = value
    return given, wrong


def missing(kind: Kind, origin: RunView | None, given: Mapping[str, Any]) -> dict[str, str]:
    """What has to be chosen still, or is none of what there is."""
    preset = given.get("preset")
    if preset is not None and preset not in preset_names():
        return {"preset": "no such preset; Enter lists them"}
    if kind == "prune" and not given.get("compress"):
        return {"compress": "choose one with Enter"}
    if kind in ("quantize", "sensitivity", "pack") and origin is None:
        return {"@parent": "train a model first"}
    waits_or_works = origin is not None and (origin.live or origin.status == "queued")
    if origin is not None and not (waits_or_works or origin.has_best):
        return {"@parent": "it ended without a model: resume it first (R)"}
    return {}


def preset_note(preset: str | None) -> str:
    """What the published command or the recipe of this name is, and what it reached."""
    if preset in _recipes():
        return recipe_summary(_recipes()[preset])
    chosen = next((p for p in _TRAININGS if p.name == preset), None)
    if chosen is None:
        return "the settings as the command line has them"
    reached = f"; WikiText-2 test {chosen.test_ppl}" if chosen.test_ppl else ""
    return chosen.about + reached


def preset_settings(preset: str) -> Mapping[str, Any]:
    """What the published command or the recipe of this name gives another value."""
    if preset in _recipes():
        return recipe_settings(_recipes()[preset])
    return next((p.settings for p in _TRAININGS if p.name == preset), {})


def _recipes() -> dict[str, str]:
    """The recipes but for the plain one, which is the defaults, by what the form calls them."""
    return {f"recipe {name}": name for name in recipe_names() if name != "plain"}


def _parent_spec(state: FormState) -> FieldSpec:
    names = tuple(view.title for view in state.parents)
    if state.kind == "prune":
        names = (_SCRATCH, *names)
    here = state.origin
    value = here.title if here else names[0] if names else ""
    note = _shape_of(here) if here else "untrained" if names else "there is no trained run yet"
    return FieldSpec("@parent", "start from", value, note, names or ("none",))


def _placeholder(setting: Setting, base: Any, corpus: str) -> str:
    """What an empty field stands for."""
    if setting.choices_from == "corpora":
        return corpus
    if base is not None and (words := shown(setting, base)):
        return words
    return "none" if setting.optional or setting.shape == "texts" else ""


def default_note(setting: Setting, base: Any) -> str:
    """What a setting can be, and what it is where the form is left alone."""
    if setting.choices_from:
        return "Enter lists them"
    parts = [setting.bounds, setting.unit]
    if (
        setting.shape not in ("yes/no", "numbers", "texts")
        and not setting.choices
        and base is not None
    ):
        parts.append(f"(default {shown(setting, base)})")
    return " ".join(part for part in parts if part) or setting.help


def label(setting: Setting) -> str:
    """A setting's name in the form."""
    return "schedule" if setting.name == "compress" else setting.label


def _shape_of(view: RunView) -> str:
    """A trained model in words: LSTM 2x200 tied."""
    config = training_of(view)
    return "" if config is None else config.title


def can_start(kind: Kind, view: RunView) -> bool:
    """Can a run of this kind start from that one, now or when its turn in the queue has come?"""
    sources = ("train", "prune", "quantize") if kind == "pack" else ("train", "prune")
    return view.record is not None and view.kind in sources


def start_of(kind: Kind, views: Mapping[str, RunView], key: str | None) -> RunView | None:
    """The run that one of this kind starts from where `key` is asked for: that run, or the nearest
    that it was made from which can be; else the first, where one is needed."""
    if kind == "train":
        return None
    view = views.get(key or "")
    while view is not None and not can_start(kind, view):
        view = views.get(view.parent or "")
    if view is not None or kind == "prune":
        return view
    return next((view for view in views.values() if can_start(kind, view)), None)


def training_of(view: RunView | None) -> TrainConfig | None:
    """The settings of a training, its corpus as it is found from here; None for any other run, or
    a damaged one."""
    if view is None:
        return None
    try:
        config = view.run.config()
        found = inherited_settings(view.run)
    except LmbenchError:
        return None
    if not isinstance(config, TrainConfig):
        return None
    return config.model_copy(update={"data": found.get("data", config.data)})
