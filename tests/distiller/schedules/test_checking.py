"""A mistake in a schedule is one line with file, section, entry and the fix; never a traceback."""

import copy
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ptq_world import LanguageModel, tie

import lmbench.distiller as distiller
from lmbench.distiller import pruning
from lmbench.distiller.pruning import regularization
from lmbench.distiller.schedules import (
    arguments,
    build,
    lr_arguments,
    lr_schedulers,
    pruner_arguments,
    quantizer_arguments,
)

GOOD = {
    "version": 1,
    "pruners": {
        "l0": {
            "class": "AutomatedGradualPruner",
            "initial_sparsity": 0.05,
            "final_sparsity": 0.8,
            "weights": ["rnn.weight_ih_l0", "rnn.weight_hh_l0"],
        }
    },
    "policies": [
        {"pruner": {"instance_name": "l0"}, "starting_epoch": 2, "ending_epoch": 20, "frequency": 1}
    ],
}


def changed(path, value):
    schedule = copy.deepcopy(GOOD)
    place = schedule
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return schedule


def mistakes(schedule):
    text = schedule if isinstance(schedule, str) else yaml.safe_dump(schedule)
    model = tie(LanguageModel(11, 4, 2))
    with pytest.raises(distiller.ScheduleError) as caught:
        build.build_scheduler(distiller.parse_schedule(text, "80.yaml"), model, None)
    return caught.value.problems


L0 = ("pruners", "l0")
FIRST = ("policies", 0)
RANKED = {"class": "L1RankedStructureParameterPruner", "desired_sparsity": 0.5}
WEIGHTS = ["rnn.weight_ih_l0"]
TWO_NAMES = {"encoder.weight": 0.5, "decoder.weight": 0.9}
SKIPPING = {"pruner": {"instance_name": "l0", "args": {"skip_first_minibatch": True}}}


LEARNING_RATES = [
    ({"class": "StepLR", "step_size": 0}, "step_size: 0 must be at least 1"),
    (
        {"class": "MultiStepMultiGammaLR", "milestones": [1, 3], "gammas": [0.5]},
        "2 milestones but 1 gammas; give one gamma for each milestone",
    ),
    (
        {"class": "PolynomialLR", "T_max": 4, "power": -1},
        "power: -1 must be at least 0",
    ),
    ({"class": "ConstantLR", "factor": 0}, "factor: 0 must be greater than 0"),
    ({"class": "CosineAnnealingLR", "T_max": 0}, "T_max: 0 must be at least 1"),
    ({"class": "LinearLR", "total_iters": 0}, "total_iters: 0 must be at least 1"),
    ({"class": "ExponentialLR", "gamma": float("nan")}, "gamma: "),
    ({"class": "ReduceLROnPlateau", "factor": 1.0}, "factor: 1.0 must be less than 1"),
    ({"class": "OneCycleLR", "max_lr": 1.0}, "give total_steps, or epochs and steps_per_epoch"),
    ({"class": "StepLR", "step_size": 2, "last_epoch": 3}, "last_epoch: 3 must be at most -1"),
]


@pytest.mark.parametrize(
    "schedule, line",
    [
        (
            changed((*L0, "class"), "AutomatedGradualPrunner"),
            "schedule 80.yaml: pruners: l0: unknown class 'AutomatedGradualPrunner' "
            "(closest: AutomatedGradualPruner",
        ),
        (changed((*L0, "class"), None), "schedule 80.yaml: pruners: l0: has no class; add class:"),
        (
            changed((*L0, "class"), "GradientRankedFilterPruner"),
            "schedule 80.yaml: pruners: l0: class GradientRankedFilterPruner prunes convolutions",
        ),
        (
            changed((*L0, "final_sparsty"), 0.8),
            "schedule 80.yaml: pruners: l0: unknown argument 'final_sparsty' "
            "(closest: final_sparsity",
        ),
        (
            changed((*L0, "final_sparsity"), None),
            "schedule 80.yaml: pruners: l0: final_sparsity is missing; add it",
        ),
        (
            changed((*L0, "final_sparsity"), 1.0),
            "schedule 80.yaml: pruners: l0: final_sparsity: 1.0 is out of [0, 1); give the share",
        ),
        (
            changed((*L0, "initial_sparsity"), -0.1),
            "schedule 80.yaml: pruners: l0: initial_sparsity: -0.1 is out of [0, 1)",
        ),
        (
            changed((*L0, "final_sparsity"), "much"),
            "schedule 80.yaml: pruners: l0: final_sparsity: must be a number, not 'much'",
        ),
        (
            changed((*L0, "initial_sparsity"), 0.9),
            "schedule 80.yaml: pruners: l0: sparsity falls from initial_sparsity 0.9 to "
            "final_sparsity 0.8; make final_sparsity the larger one",
        ),
        (
            changed((*L0, "weights"), []),
            "schedule 80.yaml: pruners: l0: weights is empty; list at least one",
        ),
        (
            changed((*L0, "weights"), ["rnn.weight_ih_l9"]),
            "schedule 80.yaml: pruners: l0: weights: 'rnn.weight_ih_l9' is not a parameter of "
            "this model (closest: rnn.weight_ih_l",
        ),
        (
            changed((*FIRST, "pruner"), {"instance_name": "l1"}),
            "schedule 80.yaml: policies: entry 1 (pruner l1): pruner 'l1' is not defined in "
            "pruners (defined: l0)",
        ),
        (
            changed((*FIRST, "pruner"), {"name": "l0"}),
            "schedule 80.yaml: policies: entry 1: pruner has no instance_name",
        ),
        (
            changed((*FIRST, "pruner"), {"instance_name": "l0", "args": {"keep_masks": True}}),
            "schedule 80.yaml: policies: entry 1 (pruner l0): unknown argument 'keep_masks' "
            "(closest: keep_mask",
        ),
        (
            changed((*FIRST, "ending_epoch"), 2),
            "schedule 80.yaml: policies: entry 1 (pruner l0): epochs 2 to 2 are empty; "
            "ending_epoch is exclusive, so make it at least 3",
        ),
        (
            changed((*FIRST, "ending_epoch"), 1),
            "schedule 80.yaml: policies: entry 1 (pruner l0): epochs 2 to 1 are reversed",
        ),
        (
            changed((*FIRST, "starting_epoch"), -2),
            "schedule 80.yaml: policies: entry 1 (pruner l0): epochs must be whole numbers",
        ),
        (
            changed((*FIRST, "frequency"), None),
            "schedule 80.yaml: policies: entry 1 (pruner l0): frequency is missing",
        ),
        (
            changed((*FIRST, "frequency"), 19),
            "schedule 80.yaml: policies: entry 1 (pruner l0): frequency 19 does not fit",
        ),
        (
            changed((*FIRST, "frequency"), 18),
            "schedule 80.yaml: policies: entry 1 (pruner l0): frequency 18 leaves only epoch 2 of "
            "2 to 20 (exclusive), so final_sparsity 0.8 is never reached; use a frequency up to 17",
        ),
        (
            changed((*FIRST, "frequncy"), 1),
            "schedule 80.yaml: policies: entry 1: unknown key 'frequncy' (closest: frequency",
        ),
        (
            changed((*FIRST, "epochs"), [1, 2]),
            "schedule 80.yaml: policies: entry 1 (pruner l0): has both epochs and starting_epoch",
        ),
        (
            changed((*FIRST, "regularizer"), {"instance_name": "x"}),
            "schedule 80.yaml: policies: entry 1: names 2 of pruner, regularizer, lr_scheduler",
        ),
        (changed(("prunners",), {}), "schedule 80.yaml: prunners: is not a section (closest: pru"),
        (changed(("policies",), None), "schedule 80.yaml: policies: is missing; add a list"),
        (changed(("version",), 2), "schedule 80.yaml: version: 2 is not known; write version: 1"),
        (changed(("extensions",), {}), "schedule 80.yaml: extensions: thin convolutions only"),
        (
            changed(L0, {**RANKED, "group_type": "Filters", "weights": WEIGHTS}),
            "schedule 80.yaml: pruners: l0: group_type: 'Filters' is of convolutions only; choose",
        ),
        (
            changed(L0, {**RANKED, "group_type": "Lines", "weights": WEIGHTS}),
            "schedule 80.yaml: pruners: l0: group_type: 'Lines' is unknown; choose 'Rows'",
        ),
        (
            changed(L0, {**RANKED, "group_type": "Blocks", "weights": WEIGHTS}),
            "schedule 80.yaml: pruners: l0: group_type Blocks lacks its size; add kwargs",
        ),
        (
            changed(L0, {**RANKED, "group_type": "HiddenUnits", "weights": ["encoder.weight"]}),
            "schedule 80.yaml: pruners: l0: weights: 'encoder.weight' is not a recurrent weight",
        ),
        (
            changed(
                ("regularizers",),
                {
                    "r": {
                        "class": "GroupLassoRegularizer",
                        "reg_regims": {
                            "rnn.weight_hh_l0": [0.1, "HiddenUnits"],
                            "rnn.weight_ih_l0": [0.1, "HiddenUnits"],
                        },
                    }
                },
            ),
            "schedule 80.yaml: regularizers: r: 'rnn.weight_hh_l0' and 'rnn.weight_ih_l0' are "
            "weights of one layer, whose units would count twice; name one of them",
        ),
        (
            changed((*L0, "bias_exponent"), 0.1),
            "schedule 80.yaml: pruners: l0: bias_exponent: no weight of this pruner has rows with "
            "biases in this model; name decoder.weight",
        ),
        (
            changed(L0, {"class": "MagnitudeParameterPruner", "thresholds": {"a": 0.1}}),
            "schedule 80.yaml: pruners: l0: thresholds lacks '*'; add '*': 0.0",
        ),
        (
            changed(L0, {"class": "SparsityLevelParameterPruner", "levels": {"*": 2}}),
            "schedule 80.yaml: pruners: l0: levels: *: 2 is out of [0, 1)",
        ),
        (
            changed(("lr_schedulers",), {"lr": {"class": "StepLRR"}}),
            "schedule 80.yaml: lr_schedulers: lr: unknown class 'StepLRR' (closest: StepLR",
        ),
        (
            changed(("lr_schedulers",), {"lr": {"class": "StepLR", "step": 2}}),
            "schedule 80.yaml: lr_schedulers: lr: unknown argument 'step' (closest: step_size",
        ),
        *(
            (
                changed(("lr_schedulers",), {"lr": spec}),
                f"schedule 80.yaml: lr_schedulers: lr: {line}",
            )
            for spec, line in LEARNING_RATES
        ),
        (
            changed(L0, {**RANKED, "group_type": "Rows", "weights": ["rnn.bias_ih_l0"]}),
            "schedule 80.yaml: pruners: l0: weights: 'rnn.bias_ih_l0' has no rows and columns",
        ),
        (
            changed((*FIRST, "pruner"), {"instance_name": "l0", "args": {"levels": {"*": 0.5}}}),
            "schedule 80.yaml: policies: entry 1 (pruner l0): levels is for a SparsityLevel",
        ),
        (
            changed(L0, {"class": "SparsityLevelParameterPruner", "levels": TWO_NAMES}),
            "schedule 80.yaml: pruners: l0: levels: 'decoder.weight' and 'encoder.weight' are one "
            "parameter of ",
        ),
        (
            changed((*L0, "weights"), ["*"]),
            "schedule 80.yaml: pruners: l0: weights: '*' is not a parameter",
        ),
        (
            changed(FIRST, {**SKIPPING, "epochs": [3]}),
            "schedule 80.yaml: policies: entry 1 (pruner l0): skip_first_minibatch skips epoch 3, "
            "the only one; take it away",
        ),
        (
            changed((*FIRST, "pruner"), {"instance_name": "l0", "args": 3}),
            "schedule 80.yaml: policies: entry 1 (pruner l0): input should be",
        ),
        ("pruners: [", "schedule 80.yaml: line 1 expected the node content"),
        ("a: 1\na: 2\n", "schedule 80.yaml: line 2 the key 'a' is given twice; rename one"),
        ("", "schedule 80.yaml: top: is not a mapping; a schedule has pruners: and policies:"),
        ("x: !!python/object/apply:os.system [id]", "schedule 80.yaml: line 1 could not determ"),
        ("a: &a [*a]", "schedule 80.yaml: line 1 found unconstructable recursive node"),
        ("a: " + "[" * 50, "schedule 80.yaml: line 1"),
        ("a: " + "[" * 50 + "]" * 50, "schedule 80.yaml: is nested too deeply; write it flat"),
    ],
)
def test_each_kind_of_mistake_gives_its_line(schedule, line):
    problems = mistakes(schedule)
    assert problems[0].startswith(line)
    assert all("\n" not in problem for problem in problems)


def test_all_mistakes_of_a_file_are_told_at_once():
    schedule = changed((*L0, "final_sparsity"), 2)
    schedule["policies"][0]["ending_epoch"] = 0
    assert len(mistakes(schedule)) == 2


def test_a_learning_rate_scheduler_without_an_optimizer_says_what_to_pass():
    schedule = changed(("lr_schedulers",), {"lr": {"class": "ExponentialLR", "gamma": 0.9}})
    schedule["policies"].append({"lr_scheduler": {"instance_name": "lr"}, "epochs": [0, 1]})
    assert "needs the optimizer" in mistakes(schedule)[0]


def test_the_bomb_of_aliases_is_refused():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert "too much" in mistakes("\n".join(lines))[0]


HOSTILE = {
    "latin-1": "pruners: {gr\u00fc\u00df: 1}".encode("latin-1"),
    "deep": "a: " + "{b: " * 5000 + "1" + "}" * 5000,
    "decimal number of 10,000 digits": "version: " + "9" * 10_000,
    "hexadecimal number of 10,000 digits": "version: 0x" + "f" * 10_000,
    "number of 400 digits": yaml.safe_dump(GOOD).replace("0.8", "8" * 400),
    "not a number": yaml.safe_dump(GOOD).replace("0.8", ".nan"),
    "infinity": yaml.safe_dump(GOOD).replace("0.8", ".inf"),
    "epoch of 40 digits": yaml.safe_dump(GOOD).replace(
        "ending_epoch: 20", "ending_epoch: 1" + "0" * 40
    ),
    "impossible date": "version: 2026-13-45",
    "control character": b"version: \x07",
    "half a surrogate": 'version: "\\ud800"',
    "nul": b"version: \x00",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_refused_in_printable_lines(name):
    with pytest.raises(distiller.ScheduleError) as caught:
        distiller.parse_schedule(HOSTILE[name], "80.yaml")
    assert all(line.startswith("schedule 80.yaml: ") for line in caught.value.problems)
    assert all(line.isprintable() and len(line) < 600 for line in caught.value.problems)


def test_a_cycle_that_ends_before_its_policy_is_refused():
    cycle = {"class": "OneCycleLR", "max_lr": 1.0, "total_steps": 5}
    schedule = changed(("lr_schedulers",), {"lr": cycle})
    schedule["policies"].append({"lr_scheduler": {"instance_name": "lr"}, "epochs": [0, 5]})
    assert "a cycle of 5 steps ends before the policy's last epoch 5" in mistakes(schedule)[0]


def test_a_file_that_is_missing_is_one_line(tmp_path):
    with pytest.raises(distiller.ScheduleError, match="cannot be read"):
        distiller.load_schedule(tmp_path / "none.yaml")


def test_an_unused_pruner_is_a_warning_and_no_mistake():
    schedule = copy.deepcopy(GOOD)
    schedule["pruners"]["spare"] = GOOD["pruners"]["l0"]
    (warning,) = distiller.schedule_from_dict(schedule, "80.yaml").warnings
    assert warning == "pruner spare: no policy uses it"


def test_a_number_that_yaml_takes_for_a_word_is_a_number():
    text = yaml.safe_dump(GOOD).replace("0.05", "5e-2")
    schedule = distiller.parse_schedule(text)
    assert schedule.components["pruner"]["l0"].arguments()["initial_sparsity"] == 0.05


def test_every_class_that_a_schedule_may_name_exists_and_takes_its_arguments():
    import inspect

    for registry, home in (
        (pruner_arguments.PRUNERS, pruning),
        (arguments.REGULARIZERS, regularization),
        (lr_arguments.LR_SCHEDULERS, lr_schedulers),
    ):
        for name, model_of_arguments in registry.items():
            made = getattr(home, name, None) or getattr(torch.optim.lr_scheduler, name)
            parameters = set(inspect.signature(made).parameters)
            fields = set(model_of_arguments.model_fields)
            assert fields <= parameters, name
            outside = {
                "name",
                "model",
                "optimizer",
                "scale_fn",
                "verbose",
                "rate_scheduler_factory",
            }
            assert parameters - fields <= outside, name


def test_every_preset_is_a_schedule_without_warnings_and_says_what_it_is():
    assert {"large-70", "large-70b", "large-73", "large-80", "large-90", "large-95"} <= set(
        distiller.preset_names()
    )
    for name in distiller.preset_names():
        assert distiller.load_preset(name).warnings == ()
        assert distiller.preset_summary(name)


def test_an_unknown_preset_names_the_closest():
    with pytest.raises(distiller.ScheduleError, match="closest presets: large-80"):
        distiller.find_schedule("larg-80")


WORDS = st.sampled_from(
    [
        *("version", "pruners", "policies", "regularizers", "lr_schedulers", "quantizers"),
        *("class", "instance_name", "args", "epochs", "starting_epoch", "ending_epoch"),
        *("frequency", "weights", "levels", "kwargs", "block_shape", "group_type", "reg_regims"),
        *("initial_sparsity", "final_sparsity", "thresholds", "*", "l0", "pruner", "Rows"),
        *pruner_arguments.PRUNERS,
        *("StepLR", "L1Regularizer", "rnn.weight_ih_l0", "q", "quantizer", "overrides"),
        *("bits_weights", "bits_activations", "mode", "ema_decay", "encoder: {bits_weights: 8}"),
        *quantizer_arguments.QUANTIZERS,
    ]
)
VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-3, 10**7), st.floats(), WORDS, st.text(max_size=6)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(WORDS, st.text(max_size=3)), inner)
    ),
    max_leaves=25,
)

QUANTIZERS = {
    "q": {
        "class": "QuantAwareTrainRangeLinearQuantizer",
        "bits_weights": 4,
        "mode": "SYMMETRIC",
        "overrides": {"encoder": {"bits_weights": 8}},
    }
}


def survives(text):
    try:
        schedule = distiller.parse_schedule(text, "fuzz.yaml")
        plan = distiller.predict_sparsity(schedule, {"rnn.weight_ih_l0": (16, 4)}, epochs=3)
        assert len(plan.totals) == 3
    except distiller.ScheduleError as error:
        lines = error.problems
    else:
        return
    assert lines
    assert all(line.isprintable() for line in lines)


@settings(max_examples=100)
@given(VALUES)
def test_a_schedule_of_anything_is_accepted_or_gives_lines(value):
    survives(yaml.safe_dump(value))


@settings(max_examples=100)
@given(st.data())
def test_a_schedule_with_one_thing_changed_is_accepted_or_gives_lines(data):
    schedule: dict = {**copy.deepcopy(GOOD), "quantizers": copy.deepcopy(QUANTIZERS)}
    place = schedule
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        deeper = isinstance(place[key], (dict, list)) and place[key]
        if not deeper or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(VALUES)
    survives(yaml.safe_dump(schedule))


@settings(max_examples=100)
@given(st.one_of(st.text(max_size=80), st.binary(max_size=80)))
def test_any_text_and_any_bytes_are_accepted_or_give_lines(text):
    survives(text)


@settings(max_examples=100)
@given(
    st.lists(
        st.sampled_from([*"[]{}:,-?&*!|>'\"%@#\n \t~=", "a", "1", "!!int ", "!!bool ", "!!set ",
                         "!!timestamp ", "!!omap ", "!!binary ", "&a ", "*a", "<<: ", "2020-99-99",
                         "- ", "? "]),
        max_size=25,
    )
)  # fmt: skip
def test_yaml_syntax_in_any_order_is_accepted_or_gives_lines(pieces):
    survives("".join(pieces))


def test_the_presets_are_the_published_schedules():
    published = yaml.safe_load(Path(distiller.preset_path("large-70b")).read_text())
    assert published["pruners"]["embedding_pruner"]["final_sparsity"] == 0.85
    assert [
        (p["starting_epoch"], p["ending_epoch"], p["frequency"]) for p in published["policies"]
    ] == [(1, 25, 3), (2, 25, 3), (3, 26, 3)]
