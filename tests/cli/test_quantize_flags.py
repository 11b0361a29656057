"""``lmbench quantize``: every setting as a flag, and what is refused before anything is done."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_world import answer

from lmbench.cli import run as lmbench
from lmbench.config import QuantizeConfig, validate
from lmbench.config.quantize import parse_override
from lmbench.deploy.native import why_unavailable
from lmbench.deploy.packed_file.reading import open_packed
from lmbench.errors import LmbenchError
from lmbench.jobs.quantization import settings_of
from lmbench.session import Home, read_events
from lmbench.session.events import Calibration, QuantResult, Warned

Capture = pytest.CaptureFixture[str]
FEW = ("--calibration-tokens", "400", "--eval-tokens", "400", "--threads", "1")


def results(home: Home, document: Any) -> dict[str, QuantResult]:
    """What a quantize run says of each module."""
    events = read_events(home.find_run(document["run"]).events_path)
    return {event.module: event for event in events if isinstance(event, QuantResult)}


@pytest.mark.parametrize(
    "given, wanted",
    [
        ({"mode": "asymmetric-signed"}, {"mode": "ASYMMETRIC_SIGNED"}),
        (
            {"mode": "asymmetric-signed", "mode_weights": "symmetric-restricted"},
            {"mode": {"activations": "ASYMMETRIC_SIGNED", "weights": "SYMMETRIC_RESTRICTED"}},
        ),
        (
            {"mode_activations": "asymmetric-unsigned"},
            {"mode": {"activations": "ASYMMETRIC_UNSIGNED", "weights": "SYMMETRIC"}},
        ),
        ({"clip_acts": "n-std", "clip_n_stds": 2.5}, {"clip_acts": "N_STD", "clip_n_stds": 2.5}),
        ({"clip_weights": "percentile"}, {"clip_weights": "PERCENTILE"}),
        ({"bits_accum": 24}, {"bits_accum": 24}),
        ({"bits_state": 8, "clip_state": "gauss"}, {"bits_state": 8, "clip_state": "GAUSS"}),
        ({"weights_only": True}, {"bits_activations": None}),
        ({"group_size": 16}, {"group_size": 16}),
        ({"per_row_embedding": False}, {"per_row_embedding": False}),
        ({"precision": "bf16"}, {"precision": "bf16", "fp_activations": False}),
        ({"fp16": True}, {"precision": "16", "fp_activations": True}),
        ({"net_aware": False}, {"net_aware": False}),
        ({"clip_half_range": True}, {"clip_half_range": True}),
        ({"scale_approx_mult_bits": 12}, {"scale_approx_mult_bits": 12}),
        ({"inputs_quant_auto_fallback": False}, {"inputs_quant_auto_fallback": False}),
        ({"save_fp_weights": True}, {"save_fp_weights": True}),
        ({"rounding": "gptq"}, {"rounding": "gptq"}),
        (
            {"rounding": "codes", "bits_parameters": 3},
            {"rounding": "codes", "bits_weights": 3},
        ),
    ],
)
def test_each_flag_changes_that_setting_of_the_preset_and_nothing_else(
    given: dict[str, Any], wanted: dict[str, Any]
) -> None:
    before = settings_of(validate(QuantizeConfig, {"preset": "int8-best"})).to_dict()
    after = settings_of(validate(QuantizeConfig, {"preset": "int8-best", **given})).to_dict()
    assert after == {**before, **wanted}
    assert after != before


def test_a_switch_of_an_override_may_be_written_as_in_yaml() -> None:
    for text, value in (("off", False), ("no", False), ("on", True), ("true", True)):
        assert parse_override(f"decoder:clip_half_range={text}")[1] == {"clip_half_range": value}


def test_an_override_of_the_pattern_of_a_preset_changes_what_it_names_alone() -> None:
    """The logits of int8-best are not clipped, rounded to nearest or not; bits end floats."""
    given = {"preset": "int8-best", "rounding": "gptq", "override": ("decoder:rounding=nearest",)}
    overrides = settings_of(validate(QuantizeConfig, given)).overrides
    assert overrides["decoder"] == {"clip_acts": "NONE", "rounding": "nearest"}
    for given in ("bits_weights=4", "rounding=gptq"):
        config = {"preset": "mixed-avg", "override": (f"encoder:{given}",)}
        assert len(settings_of(validate(QuantizeConfig, config)).overrides["encoder"]) == 1


@pytest.mark.parametrize(
    "there, given, kept",
    [
        ("mode_weights: ASYMMETRIC_SIGNED", "mode=symmetric", False),
        ("also_clip_weights: true", "clip_weights=mse", False),
        ("bits_weights: 3, rounding: codes", "bits_weights=8", False),
        ("clip_acts: AVG", "bits_weights=4", True),
    ],
)
def test_what_an_override_gives_is_not_undone_by_the_file(
    there: str, given: str, kept: bool, tmp_path: Path
) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(f"overrides: {{decoder: {{{there}}}}}\n", encoding="utf-8")
    config = {"config": str(file), "override": (f"decoder:{given}",)}
    found = settings_of(validate(QuantizeConfig, config)).overrides["decoder"]
    assert len(found) == 1 + kept


def test_the_search_refuses_a_file_of_codes_as_it_does_the_flag(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("bits_weights: 4\nrounding: codes\n", encoding="utf-8")
    config = validate(QuantizeConfig, {"config": str(file), "auto": True, "budget": "1%"})
    with pytest.raises(LmbenchError, match=r"own\.yaml: rounding is 'codes', and --auto chooses"):
        settings_of(config)


def test_overrides_stand_before_those_of_the_preset_in_their_order() -> None:
    config = validate(
        QuantizeConfig,
        {
            "preset": "mixed-avg",
            "override": (
                r"(?:rnn)\.cells\.0\..*:bits_weights=4,clip_acts=none,mode_weights=symmetric",
                "decoder:bits_activations=none,per_channel_wts=no,precision=bf16",
            ),
        },
    )
    assert list(settings_of(config).overrides.items()) == [
        (
            r"(?:rnn)\.cells\.0\..*",
            {"bits_weights": 4, "clip_acts": "NONE", "mode_weights": "SYMMETRIC"},
        ),
        ("decoder", {"bits_activations": None, "per_channel_wts": False, "precision": "bf16"}),
        ("encoder", {"fp16": True}),
    ]


@pytest.mark.parametrize(
    "given, words",
    [
        ({"auto": True}, "--budget: --auto needs one"),
        ({"budget": "4MB"}, "--budget: '4MB' is what --auto keeps to"),
        ({"auto": True, "budget": "4 apples"}, "--budget: '4 apples': use a size such as 4MB"),
        ({"auto": True, "budget": "1.2.3MB"}, "--budget: '1.2.3MB': use a size"),
        ({"auto": True, "budget": "0%"}, "--budget: '0%': use a size"),
        ({"auto": True, "budget": "1%", "clip_acts": "kl"}, "--clip-acts: --auto chooses it"),
        ({"auto": True, "budget": "1%", "bits_parameters": 6}, "--bits-parameters: --auto chooses"),
        ({"override": ("decoder",)}, "--override: 'decoder': write PATTERN:setting=value"),
        ({"override": ("a:fp16=no", "b:fp16=no", "a:bits_weights=4")}, "'a' is given twice"),
        ({"override": ("a:fp16=no,fp16=yes",)}, "'a:fp16=no,fp16=yes': gives a setting twice"),
        ({"override": ("(:bits_weights=4",)}, "--override: '(' is no regular expression"),
        ({"override": ("a{99999999999}:fp16=no",)}, "'a{99999999999}' is no regular expression"),
        ({"auto": True, "budget": f"{'9' * 400}MB"}, "9MB': use a size such as 4MB"),
        ({"stats": "a.yaml", "dynamic": True}, "--dynamic: takes no statistics"),
        ({"fp16": True, "precision": "bf16"}, "--fp16: --precision bf16 is another width"),
        ({"weights_only": True, "bits_activations": 8}, "--weights-only: --bits-activations"),
    ],
)
def test_settings_that_do_not_go_together_are_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(LmbenchError, match=re.escape(words)):
        validate(QuantizeConfig, given)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"override": ("decoder:bits_wieghts=4",)}, "'bits_wieghts' is not a setting"),
        ({"override": ("decoder:clip_state=avg",)}, "'clip_state' is of the whole model"),
        ({"override": ("decoder:bits_weights=40",)}, "override 'decoder': bits_weights: 40 bits"),
        ({"clip_acts": "n-std"}, "clip mode N_STD needs clip_n_stds"),
        ({"clip_acts": "gauss", "bits_activations": 9}, "GAUSS is tabulated up to 8 bits, not 9"),
        ({"clip_weights": "laplace", "bits_parameters": 16}, "LAPLACE is tabulated up to 8 bits"),
        (
            {"fp16": True, "bits_parameters": 4},
            "--bits-parameters: precision 16 computes in floats",
        ),
        ({"preset": "fp16", "clip_acts": "avg"}, "--clip-acts: precision 16 computes in floats"),
        (
            {"weights_only": True, "clip_acts": "avg", "bits_state": 8},
            "--bits-state, --clip-acts: only weights are quantized",
        ),
        (
            {"precision": "bf16", "group_size": 32, "rounding": "gptq", "bits_activations": 8},
            "--group-size, --rounding: precision bf16 computes in floats",
        ),
    ],
)
def test_values_that_the_engine_refuses_are_refused_without_a_model(
    given: dict[str, Any], words: str
) -> None:
    with pytest.raises(LmbenchError, match=re.escape(words)):
        settings_of(validate(QuantizeConfig, given))


def test_how_many_standard_deviations_is_asked_with_that_way_of_clipping_alone() -> None:
    for more in ({"clip_acts": "n-std"}, {"override": ("decoder:clip_acts=N_STD",)}):
        settings_of(validate(QuantizeConfig, {"clip_n_stds": 3.0, **more}))
    with pytest.raises(LmbenchError, match="--clip-n-stds is of --clip-acts n-std"):
        settings_of(validate(QuantizeConfig, {"clip_n_stds": 3.0}))


def test_settings_of_integers_go_with_floats_where_an_override_brings_integers_back() -> None:
    given = {"fp16": True, "bits_parameters": 4, "override": ("encoder:precision=none",)}
    found = settings_of(validate(QuantizeConfig, given))
    assert found.settings_of("encoder").bits_weights == 4
    assert found.settings_of("encoder").precision is None
    assert found.settings_of("decoder").precision == "16"
    given = {"weights_only": True, "clip_acts": "avg", "override": ("decoder:bits_activations=8",)}
    settings_of(validate(QuantizeConfig, given))


def test_both_ends_of_the_accumulators_are_bounds_of_the_engine_too() -> None:
    for bits in (8, 48):
        config = validate(QuantizeConfig, {"bits_accum": bits})
        assert settings_of(config).base.bits_accum == bits
    for bits in (7, 49):
        with pytest.raises(LmbenchError, match="--bits-accum"):
            validate(QuantizeConfig, {"bits_accum": bits})


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--auto",), "--budget: --auto needs one"),
        (("--override", "dcoder:bits_weights=4"), "matches no module"),
        (("--stats", "nowhere.yaml"), "--stats nowhere.yaml: there is no such file"),
        (("--stats", "words.yaml"), "expected a mapping of modules"),
        (("--stats", "other.yaml"), "the statistics are of another model: they lack 'rnn.cells.0"),
        (("--stats", "wider.yaml"), "'rnn.cells.0.fc_gate_x' gave 800 values there and gives 64"),
    ],
)
def test_a_mistake_is_one_line_and_makes_no_run(
    home: Home, capsys: Capture, flags: tuple[str, ...], words: str
) -> None:
    gate = {"inputs": {0: {"min": -1.0, "max": 1.0}}, "output": {"min": -1.0, "max": 1.0}}
    Path("words.yaml").write_text("just words\n", encoding="utf-8")
    Path("other.yaml").write_text(yaml.safe_dump({"lstm": gate}), encoding="utf-8")
    wider = {**gate, "output": {**gate["output"], "shape": "(10, 800)"}}
    Path("wider.yaml").write_text(
        yaml.safe_dump({"rnn.cells.0.fc_gate_x": wider}), encoding="utf-8"
    )
    before = len(home.open_session().runs())
    assert lmbench(["quantize", "1", *FEW, *flags]) == 2
    err = capsys.readouterr().err.strip()
    assert words in err
    assert len(err.splitlines()) == 1
    assert len(home.open_session().runs()) == before


def test_an_override_reaches_its_modules_and_a_run_from_statistics_alike_without_calibrating(
    home: Home, capsys: Capture
) -> None:
    flags = ("--override", r"rnn\.cells\.1\.fc.*:bits_weights=4", "encoder:fp16=yes")
    first = answer(capsys, "quantize", "1", *FEW, *flags)
    modules = results(home, first)
    assert modules["rnn.cells.1.fc_gate_h"].settings["bits_weights"] == 4
    assert modules["rnn.cells.0.fc_gate_h"].settings["bits_weights"] == 8
    assert modules["encoder"].settings["precision"] == "16"
    source = Path("kept.yaml")
    source.write_bytes((home.find_run(first["run"]).path / "stats.yaml").read_bytes())
    again = answer(capsys, "quantize", "1", *FEW, *flags, "--stats", str(source))
    assert again["valid_ppl"] == first["valid_ppl"]
    made = home.find_run(again["run"])
    events = read_events(made.events_path)
    assert not [event for event in events if isinstance(event, Calibration)]
    assert (made.path / "stats.yaml").read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    "kept, flags",
    [
        (False, "gptq"),
        (True, "gptq --override decoder:rounding=nearest"),
        (True, "calibrated-codes --bits-parameters 3"),
    ],
)
def test_compensation_that_parts_a_tied_decoder_from_its_encoder_is_warned_of(
    home: Home, capsys: Capture, kept: bool, flags: str
) -> None:
    document = answer(capsys, "quantize", "1", *FEW, "--rounding", *flags.split())
    events = read_events(home.find_run(document["run"]).events_path)
    warned = [event.message for event in events if isinstance(event, Warned)]
    assert any("a packed file holds both" in message for message in warned) is not kept


@pytest.mark.parametrize("flags", [(), ("--group-size", "8")])
def test_a_model_of_two_bits_is_packed_scored_written_with_timed_and_compared(
    home: Home, capsys: Capture, flags: tuple[str, ...]
) -> None:
    codes = ("--weights-only", "--rounding", "codes", "--bits-parameters", "2", *flags)
    quantized = answer(capsys, "quantize", "1", *FEW, *codes)
    packed = answer(capsys, "pack", quantized["run"], "-o", "m.lmpack")
    tensors = open_packed(Path("m.lmpack")).specs.values()
    assert {spec.values for spec in tensors if len(spec.shape) == 2} == {"code2"}
    own = "int8" if why_unavailable() else "native-codes"
    assert packed["results"]["runtime"] == own
    valid = ("--split", "valid", "--threads", "1")
    [scored] = answer(capsys, "evaluate", "m.lmpack", "--runtime", "torch", *valid)
    [simulated] = answer(capsys, "evaluate", quantized["run"], *valid)
    assert scored["valid_ppl"] == pytest.approx(simulated["valid_ppl"], rel=1e-5)
    [as_is] = answer(capsys, "evaluate", "m.lmpack", *valid)
    assert as_is["valid_ppl"] == pytest.approx(simulated["valid_ppl"], rel=5e-3)
    assert lmbench(["generate", "m.lmpack", "--words", "5", "--seed", "1"]) == 0
    if not flags:
        timed = ("--words", "5", "--rounds", "1")
        assert lmbench(["benchmark", "m.lmpack", "--runtimes", own, *timed]) == 0
        assert own in capsys.readouterr().out
    assert lmbench(["compare", "1", quantized["run"]]) == 0
    assert "2" in capsys.readouterr().out


def test_codes_of_widths_that_there_are_none_of_are_refused(home: Home, capsys: Capture) -> None:
    for flags, words in (
        ((), "rounding: codes: 8 bits is out of range, use 1 to 4"),
        (("--bits-parameters", "2", "--group-size", "12"), "use a multiple of 8"),
        (("--bits-parameters", "2", "--auto", "--budget", "1MB"), "8 and 4 bits"),
    ):
        assert lmbench(["quantize", "1", "--rounding", "codes", *flags]) == 2
        assert words in capsys.readouterr().err


def test_none_is_a_choice_of_the_clip_modes(home: Home, capsys: Capture) -> None:
    flags = ("--clip-acts", "none", "--clip-weights", "none", "--clip-state", "none")
    document = answer(capsys, "quantize", "1", *FEW, *flags)
    config = home.find_run(document["run"]).read().config
    assert {config[name] for name in ("clip_acts", "clip_weights", "clip_state")} == {"none"}
    assert document["command"].count(" none") == 3


def test_dynamic_quantization_leaves_element_wise_modules_alone(
    home: Home, capsys: Capture
) -> None:
    document = answer(capsys, "quantize", "1", *FEW, "--dynamic")
    modules = results(home, document)
    assert "decoder" in modules
    assert not [name for name in modules if "eltwise" in name or ".act_" in name]
    assert not (home.find_run(document["run"]).path / "stats.yaml").exists()
    dense = home.find_run("1").read().results["valid_ppl"]
    assert document["valid_ppl"] == pytest.approx(dense, rel=0.2)
    [scored] = answer(capsys, "evaluate", "@", "--split", "valid", "--tokens", "400")
    assert scored["valid_ppl"] == pytest.approx(document["valid_ppl"], rel=1e-4)


def test_the_modules_are_tabulated_after_the_run_and_by_summary(
    home: Home, capsys: Capture
) -> None:
    assert lmbench(["quantize", "1", *FEW, "--preset", "mixed-avg"]) == 0
    printed = capsys.readouterr().out
    assert "Quantized modules" in printed
    row = next(line for line in printed.splitlines() if "rnn.cells.1.fc_gate_h" in line)
    assert "asym/asym" in row
    run = home.open_session().runs()[-1]
    document = answer(capsys, "summary", run.ref)
    rows = {entry["name"]: entry for entry in document["rows"]}
    assert rows["rnn.cells.1.fc_gate_h"]["bits_weights"] == 8
    assert rows["rnn.cells.1.fc_gate_h"]["clip_acts"] == "AVG"
    assert rows["rnn.cells.1.fc_gate_h"]["weight_sqnr"] > 30
    assert rows["decoder"]["precision"] == "16"
    assert f"{rows['rnn.cells.1.fc_gate_h']['output_sqnr']:.1f}" in row


def test_a_summary_of_modules_needs_a_quantize_run(home: Home, capsys: Capture) -> None:
    assert lmbench(["summary", "1", "--kind", "quantization"]) == 2
    assert "has quantized no module" in capsys.readouterr().err
