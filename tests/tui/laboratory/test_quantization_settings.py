"""What the laboratory shows of a draft against what the engine makes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from laboratory_world import Answers, probe, trained
from torch import nn

from lmbench.distiller.quantization.floating import FPWrapper
from lmbench.distiller.quantization.modes import ClipMode
from lmbench.distiller.quantization.settings import QuantSettings
from lmbench.distiller.quantization.settings_files import (
    load_preset,
    preset_description,
    preset_names,
)
from lmbench.distiller.quantization.weights import (
    RangeLinearEmbeddingWrapper,
    RangeLinearQuantParamLayerWrapper,
)
from lmbench.distiller.quantization.wrappers import RangeLinearQuantWrapper
from lmbench.jobs.hosts.laboratory import Laboratory
from lmbench.jobs.hosts.laboratory_messages import Evaluate, Evaluated, Module, Ready
from lmbench.jobs.hosts.opened_model import OpenedModel
from lmbench.report.quantized_modules import MODE_WORDS
from lmbench.tui.laboratory import quantization_settings
from lmbench.tui.laboratory.candidates import Candidate
from lmbench.tui.laboratory.packed_size import size_note
from lmbench.tui.laboratory.quantization_settings import InForce, with_next, without_own

KINDS = ("LSTM", pytest.param("GRU", marks=pytest.mark.slow), "RNN_TANH")
WHATS = ("precision", "clip", "channels", "mode")
# Once round the longest of the choices.
ROUND = max(len(quantization_settings.CLIPS), len(quantization_settings.PRECISIONS))


Weighted = RangeLinearEmbeddingWrapper | RangeLinearQuantParamLayerWrapper


class Row(NamedTuple):
    """A row of the table of modules; `clip`, `channels` and `mode` are "" where there is none."""

    precision: str
    clip: str = ""
    channels: str = ""
    mode: str = ""


class Lab(NamedTuple):
    laboratory: Laboratory
    ears: Answers
    modules: tuple[Module, ...]
    # What `done` gave, by the settings in JSON: a key that goes round comes back to them.
    known: dict[str, dict[str, Row]]

    @property
    def bench(self) -> OpenedModel:
        assert self.laboratory._opened is not None
        return self.laboratory._opened

    def shown(self, settings: quantization_settings.Settings) -> dict[str, Row]:
        return {
            module.name: Row(now.precision, now.clip, now.channels, now.mode)
            for module in self.modules
            for now in [InForce(settings, module)]
        }

    def done(self, settings: quantization_settings.Settings) -> dict[str, Row]:
        """What the engine makes of it."""
        key = json.dumps(settings)
        if key not in self.known:
            model = self.bench.quantized(QuantSettings.from_dict(settings), lambda *_: None)
            self.known[key] = {m.name: row_of(model.get_submodule(m.name)) for m in self.modules}
        return self.known[key]

    def one_of_each(self) -> Iterator[Module]:
        """Of all modules that are alike the first."""
        seen: set[Any] = set()
        for module in self.modules:
            if (module.type, module.role) not in seen:
                seen.add((module.type, module.role))
                yield module


def row_of(module: nn.Module) -> Row:
    if isinstance(module, FPWrapper):
        return Row({"16": "fp16", "bf16": "bf16", "32": "fp32"}[module.precision])
    if isinstance(module, RangeLinearEmbeddingWrapper):
        return Row(bits_of(module), "", channels(module), *mode_of(module))
    if not isinstance(module, RangeLinearQuantWrapper):
        return Row("fp32")
    bits, modes, clip = module.num_bits_acts, [], ""
    if bits is not None:
        modes.append(MODE_WORDS[module.mode.activations.name])
        three = module.clip_acts is ClipMode.N_STD
        clip = f"{module.clip_n_stds:g} std" if three else module.clip_acts.name.lower()
    precision, rows = f"a{bits or '–'}", ""
    if isinstance(module, RangeLinearQuantParamLayerWrapper):
        modes = mode_of(module) + modes
        precision, rows = f"{bits_of(module)} {precision}", channels(module)
    elif isinstance(module.wrapped_module, nn.Linear):
        precision = f"w– {precision}"
    return Row(precision, clip, rows, "/".join(dict.fromkeys(modes)))


def bits_of(module: Weighted) -> str:
    return f"{'c' if hasattr(module, 'w_steps') else 'w'}{module.num_bits_params}"


def mode_of(module: Weighted) -> list[str]:
    """Of the weights; none where they are codes."""
    return [] if hasattr(module, "w_steps") else [MODE_WORDS[module.mode.weights.name]]


def channels(module: Weighted) -> str:
    codes = getattr(module, "w_steps", None)
    if codes is not None:
        return "yes" if codes.shape[2] == 1 else str(module.group_size)
    scale = module.w_scale
    if scale.numel() == 1:
        return "no"
    return "yes" if scale.shape[1] == 1 else str(module.group_size)


@pytest.fixture(scope="module", params=KINDS)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    run = trained(tmp_path_factory.mktemp(request.param), request.param)
    ears = Answers()
    laboratory = Laboratory(ears)
    laboratory.handle(probe(run))
    ready = ears[-1]
    assert isinstance(ready, Ready), ready
    return Lab(laboratory, ears, ready.modules, {})


@pytest.mark.parametrize("preset", preset_names())
def test_a_draft_shows_what_the_engine_does(lab: Lab, preset: str) -> None:
    settings = load_preset(preset).to_dict()
    assert lab.shown(settings) == lab.done(settings)


@pytest.mark.parametrize(
    "changes",
    [
        {"group_size": 4},
        {"group_size": 4, "per_channel_wts": False, "per_row_embedding": False},
        {"group_size": 64, "per_channel_wts": False, "per_row_embedding": False},
        {"bits_weights": None},
        {"rounding": "codes", "bits_weights": 3},
        {"rounding": "codes", "bits_weights": 2, "group_size": 8},
        {
            "overrides": {
                "decoder": {"rounding": "codes", "bits_weights": 2, "bits_activations": None}
            }
        },
        {"net_aware": False, "clip_state": None},
        {"bits_state": None, "clip_state": "GAUSS"},
        {"bits_state": 12},
        {"clip_acts": "N_STD", "clip_n_stds": 2.5, "clip_state": "N_STD", "bits_state": None},
        {"precision": "16"},
        {"overrides": {".*act.*": {"mode": "SYMMETRIC"}, ".*0.eltwise.*": {"bits_accum": 24}}},
    ],
    ids=str,
)
def test_so_it_does_of_settings_that_no_preset_has(lab: Lab, changes: dict[str, Any]) -> None:
    settings = QuantSettings.from_dict({**load_preset("int8-best").to_dict(), **changes}).to_dict()
    assert lab.shown(settings) == lab.done(settings)


@pytest.mark.parametrize("what", WHATS)
def test_a_key_changes_what_is_in_force_for_one_module_and_nothing_else(
    lab: Lab, what: str
) -> None:
    start = load_preset("int8-best").to_dict()
    for module in lab.one_of_each():
        if quantization_settings.no_choice(start, what, module):
            continue
        settings: quantization_settings.Settings = start
        for _ in range(ROUND):
            before = lab.shown(settings)
            settings = with_next(settings, what, module)
            after = lab.shown(settings)
            assert after == lab.done(settings)
            assert {name for name in after if after[name] != before[name]} == {module.name}
            if what != "precision":
                assert without(what, after) == without(what, before)
        assert lab.shown(without_own(settings, module.name, start)) == lab.shown(start)


def without(what: str, rows: dict[str, Row]) -> list[Row]:
    """All but that column."""
    return [row._replace(**{what: ""}) for row in rows.values()]


def column(rows: dict[str, Row], what: str) -> dict[str, str]:
    """Where there is one."""
    return {name: getattr(row, what) for name, row in rows.items() if getattr(row, what)}


@pytest.mark.parametrize("what", ["clip", "channels"])
def test_a_key_changes_what_is_in_force_for_all_modules(lab: Lab, what: str) -> None:
    start = load_preset("int8-best").to_dict()
    for module in lab.one_of_each():
        settings: quantization_settings.Settings = start
        for _ in range(ROUND):
            before = column(lab.shown(settings), what)
            settings = with_next(settings, what, module, lab.modules)
            shown = lab.shown(settings)
            assert shown == lab.done(settings)
            assert without(what, shown) == without(what, lab.shown(start))
            after = column(shown, what)
            # Beyond 8 bits there is no table for these two: then it stays as it was.
            wide = {name for name, row in shown.items() if row.precision == "a16"}
            kept = wide if {"gauss", "laplace"} & {*after.values()} else set()
            assert all(after[name] == before[name] for name in kept)
            assert len({word for name, word in after.items() if name not in kept}) == 1
            assert after != before


@pytest.mark.parametrize("name", ["decoder", "rnn.cells.1.eltwiseadd_gate"])
def test_a_precision_for_all_holds_for_all(lab: Lab, name: str) -> None:
    """Of weights or of activations, whichever the module under the cursor has."""
    module = next(m for m in lab.modules if m.name == name)
    settings: quantization_settings.Settings = load_preset("int8-best").to_dict()
    side = "wc" if module.weights else "a"
    for wanted in quantization_settings.PRECISIONS[1:] + quantization_settings.PRECISIONS[:1]:
        if wanted.startswith("code") and not module.weights:
            continue
        settings = with_next(settings, "precision", module, lab.modules)
        after = lab.shown(settings)
        assert after == lab.done(settings)
        words = [row.precision.split() for row in after.values()]
        bits = {word for row in words for word in row if word[0] in side}
        if wanted.startswith(("int", "code")):
            letter = "c" if wanted.startswith("code") else side[0]
            assert bits == {letter + wanted[-1]}
        else:
            assert {row.precision for row in after.values()} == {wanted}


def test_what_a_role_gave_is_there_again_after_floats(lab: Lab) -> None:
    """Turned by a module whose weights are meant, activations are what they were."""
    decoder = lab.modules[-1]
    before: quantization_settings.Settings = load_preset("int8-best").to_dict()
    settings = before
    for _ in quantization_settings.PRECISIONS:
        settings = with_next(settings, "precision", decoder, lab.modules)
    assert lab.shown(settings) == lab.shown(before)


@pytest.mark.parametrize("what", WHATS)
@pytest.mark.parametrize("everywhere", [False, True])
def test_every_choice_that_a_draft_offers_can_be_evaluated(
    lab: Lab, what: str, everywhere: bool
) -> None:
    settings: quantization_settings.Settings = load_preset("mixed-avg").to_dict()
    for name in ("encoder", "rnn.cells.0.fc_gate_x", "rnn.cells.0.eltwiseadd_gate"):
        module = next(m for m in lab.modules if m.name == name)
        for _ in range(ROUND):
            settings = with_next(settings, what, module, lab.modules if everywhere else ())
            assert lab.shown(settings) == lab.done(settings)
    lab.laboratory.handle(Evaluate(id=20, settings=settings))
    assert isinstance(lab.ears[-1], Evaluated), lab.ears[-1]


def test_what_differs_is_told_in_words(lab: Lab) -> None:
    base = load_preset("int8-best").to_dict()
    gates = next(m for m in lab.modules if m.name == "rnn.cells.0.eltwiseadd_gate")
    settings: quantization_settings.Settings = base
    while not InForce(settings, gates).clip.endswith(" std"):
        settings = with_next(settings, "clip", gates, lab.modules)
    words = quantization_settings.differences(settings, base)
    assert words[0] == f"clip {InForce(settings, gates).clip}"
    assert ("cell state as all" in words) == (lab.bench.model.rnn_type == "LSTM")
    own = quantization_settings.differences(
        with_next(settings, "channels", lab.modules[0]), settings
    )
    assert own == ["encoder: one scale"]


def test_codes_have_one_word_in_the_table_and_in_a_candidate() -> None:
    decoder = wide("decoder", "Linear")
    base: quantization_settings.Settings = load_preset("int4-weights").to_dict()
    one = with_next(base, "precision", decoder)
    every = {**base, "rounding": "codes", "bits_weights": 3}
    assert InForce(one, decoder).precision == InForce(every, decoder).precision == "c3 a–"
    assert quantization_settings.differences(one, base) == ["decoder: c3"]
    assert quantization_settings.differences(every, base) == ["c3"]


def test_presets_begin_with_what_distinguishes_them_and_fit_beside_the_modules() -> None:
    words = [preset_description(name) for name in preset_names()]
    assert len({line[:13] for line in words}) == len(words)
    assert max(map(len, words)) < 50


def wide(name: str, type: str) -> Module:
    """A matrix of 100 rows and 200 columns."""
    return Module(
        name=name, type=type, role="", weights=20_000, columns=200,
        low=-1.0, high=1.0, std=1.0, counts=(),
    )  # fmt: skip


def test_codes_have_scales_for_64_columns_or_for_rows(lab: Lab) -> None:
    decoder, base = wide("decoder", "Linear"), load_preset("int4-weights").to_dict()
    settings: quantization_settings.Settings = {**base, "rounding": "codes", "bits_weights": 2}
    for shown in ("64", "yes", "64"):
        assert InForce(settings, decoder).channels == shown
        settings = with_next(settings, "channels", decoder)
    narrow = next(m for m in lab.modules if m.name == "decoder")
    assert "12: too few" in quantization_settings.no_choice(settings, "channels", narrow)
    embedding = wide("encoder", "Embedding")
    assert "no mode" in quantization_settings.no_choice(settings, "mode", embedding)


def test_a_tied_matrix_is_stored_twice_where_one_side_is_codes() -> None:
    encoder, decoder = wide("encoder", "Embedding"), wide("decoder", "Linear")

    def note(settings: quantization_settings.Settings) -> str:
        candidate = Candidate(1, "", settings, state="evaluated")
        return size_note(candidate, [encoder, decoder], tied=True)

    settings: quantization_settings.Settings = load_preset("int4-weights").to_dict()
    for codes in ("c3", "c2"):
        assert note(settings) == ""
        settings = with_next(settings, "precision", encoder)
        assert InForce(settings, encoder).precision == codes
        assert note(settings) == "encoder and decoder differ: both are stored"
        settings = with_next(settings, "precision", decoder)
    assert note(settings) == ""
