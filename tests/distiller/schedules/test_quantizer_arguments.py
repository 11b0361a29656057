"""A mistake in a schedule's quantizers is one line, told when the schedule is checked."""

import inspect

import pytest
import yaml

import lmbench.distiller as distiller
from lmbench.distiller import quantization
from lmbench.distiller.schedules.plan import predict_sparsity
from lmbench.distiller.schedules.quantizer_arguments import ONLY_AFTER_TRAINING, QUANTIZERS

POLICIES = [{"quantizer": {"instance_name": "q"}, "epochs": [0]}]
LINEAR = "QuantAwareTrainRangeLinearQuantizer"


def check(**entry):
    entry["class"] = entry.pop("of", LINEAR)
    text = yaml.safe_dump({"quantizers": {"q": entry}, "policies": POLICIES})
    return distiller.parse_schedule(text, "q.yaml").components["quantizer"]["q"].arguments()


@pytest.mark.parametrize(
    "entry, line",
    [
        ({"of": "DorefaQuantiser"}, "unknown class 'DorefaQuantiser' (closest: DorefaQuantizer"),
        ({"of": "Quantizer"}, "unknown class 'Quantizer' (closest: "),
        (
            {"of": "PostTrainLinearQuantizer"},
            "class PostTrainLinearQuantizer quantizes a trained model: use lmbench quantize; ",
        ),
        ({"bit_weights": 8}, "unknown argument 'bit_weights' (closest: bits_weights"),
        ({"of": "WRPNQuantizer", "mode": "SYMMETRIC"}, "unknown argument 'mode' (there are: "),
        ({"bits_weights": 1}, "bits_weights: must be 2 to 16 bits, or null for full precision, no"),
        (
            {"bits_weights": 1},
            "bits_weights: must be 2 to 16 bits, or null for full precision, not 1, which needs "
            "rounding: codes",
        ),
        (
            {"of": "WRPNQuantizer", "overrides": {"encoder": {"bits_weights": 1}}},
            "bits_weights: must be 2 to 16 bits, or null for full precision, not 1, which needs",
        ),
        ({"rounding": "code"}, "rounding: 'code' is unknown; choose 'nearest' or 'codes'"),
        ({"group_size": 64}, "group_size: is for rounding: codes; leave it out"),
        ({"learned_scales": True}, "learned_scales: is for rounding: codes; leave it out"),
        ({"rounding": "codes", "group_size": 12}, "group_size: "),
        ({"bits_schedule": {0: 2}}, "bits_schedule: needs bits_weights, which holds until its fi"),
        (
            {"bits_weights": 4, "bits_schedule": {0: 1}},
            "bits_schedule: 1 bit needs rounding: codes",
        ),
        (
            {"bits_weights": 4, "bits_schedule": [2]},
            "bits_schedule: must be a mapping from epochs to bits, such as {1: 4, 2: 3}, not [2]",
        ),
        ({"bits_weights": 4, "bits_schedule": {"0": 2}}, "bits_schedule: must be a mapping from"),
        ({"bits_weights": 17}, "bits_weights: must be 2 to 16 bits, or null for full precision, "),
        ({"bits_activations": True}, "bits_activations: must be 2 to 16 bits, or null for full "),
        ({"bits_activations": "8"}, "bits_activations: must be 2 to 16 bits, or null for full "),
        ({"mode": "LINEAR"}, "mode: 'LINEAR' is unknown; choose 'SYMMETRIC', "),
        ({"ema_decay": 1.0}, "ema_decay: 1.0 must be less than 1"),
        ({"of": "PACTQuantizer", "act_clip_init_val": 0}, "act_clip_init_val: 0 must be greater"),
        ({"overrides": 3}, "overrides: must be a mapping from modules to settings, such as {enc"),
        ({"overrides": [1]}, "overrides: must be a mapping from modules to settings, such as"),
        ({"overrides": "encoder"}, "overrides: must be a mapping from modules to settings, such"),
        ({"overrides": {"encoder": 8}}, "overrides: 'encoder' is not a mapping of settings, such"),
        (
            {"overrides": {"rnn(": {}}},
            "overrides: 'rnn(' is not a regular expression (unclosed group",
        ),
        (
            {"overrides": {"encoder": {"bits": 8}}},
            "unknown argument 'bits' in overrides: encoder (closest: bits_",
        ),
        (
            {"overrides": "encoder: {bits_weights: 99}"},
            "overrides: encoder: bits_weights: must be 2 to 16 bits, or null for full precision, "
            "not 99",
        ),
    ],
)
def test_each_mistake_of_a_quantizer_gives_its_line(entry, line):
    with pytest.raises(distiller.ScheduleError) as caught:
        check(**entry)
    (problem,) = caught.value.problems
    assert problem.startswith(f"schedule q.yaml: quantizers: q: {line}")
    assert problem.isprintable()


def test_what_the_originals_schedules_say_is_accepted():
    told = check(
        bits_activations=32,
        bits_weights=4,
        bits_bias=32,
        mode="asymmetric_unsigned",
        quantize_inputs=True,
        overrides={"encoder": {"bits_weights": None}, r"rnn\.cells\.\d.*": {"bits_weights": 32}},
    )
    assert told["mode"] == "ASYMMETRIC_UNSIGNED"
    assert told["overrides"] == {
        "encoder": {"bits_weights": None},
        r"rnn\.cells\.\d.*": {"bits_weights": 32},
    }
    assert check(overrides=None)["overrides"] == {}


def test_a_quantizer_that_no_policy_uses_is_a_warning():
    schedule = distiller.schedule_from_dict(
        {
            "pruners": {
                "p": {"class": "SparsityLevelParameterPruner", "levels": {"*": 0.5}},
            },
            "quantizers": {"q": {"class": "WRPNQuantizer", "bits_weights": 4}},
            "policies": [{"pruner": {"instance_name": "p"}, "epochs": [0]}],
        },
        "q.yaml",
    )
    assert schedule.warnings == ("quantizer q: no policy uses it",)


def test_every_quantizer_that_a_schedule_may_name_exists_and_takes_its_arguments():
    made = {
        name
        for name in quantization.__all__
        if name.endswith("Quantizer") and not inspect.isabstract(getattr(quantization, name))
    }
    # The base of extensions, which quantizes nothing by itself.
    assert made - {"Quantizer"} == {*QUANTIZERS, *ONLY_AFTER_TRAINING}
    for name, arguments in QUANTIZERS.items():
        parameters = set(inspect.signature(getattr(quantization, name)).parameters)
        assert set(arguments.model_fields) == parameters - {"model", "optimizer"}, name


def falling(bits_schedule, **policy):
    data = {
        "quantizers": {
            "q": {"class": LINEAR, "bits_weights": 8, "bits_schedule": bits_schedule},
        },
        "policies": [{"quantizer": {"instance_name": "q"}, **policy}],
    }
    return distiller.schedule_from_dict(data, "q.yaml")


def test_bits_fall_in_an_epoch_of_the_policy_or_it_is_a_mistake():
    falling({1: 4, 2: 3}, epochs=[0, 1, 2])
    with pytest.raises(distiller.ScheduleError) as caught:
        falling({1: 4, 3: 3}, starting_epoch=0, ending_epoch=3, frequency=1)
    assert caught.value.problems == (
        "schedule q.yaml: policies: entry 1 (quantizer q): bits_schedule: epoch 3 is none of the "
        "policy's; add it there",
    )


def test_a_plan_says_what_is_in_floats_until_a_quantizer_begins():
    schedule = falling({3: 3}, starting_epoch=2, ending_epoch=4, frequency=1)
    whole, short = (predict_sparsity(schedule, {"e": (4, 4)}, epochs=n) for n in (4, 2))
    assert whole.notes == (
        "quantizer q: nothing is quantized before epoch 2",
        "quantizer q: 8 bits a weight, 3 from epoch 3 on",
    )
    assert short.cut_short == (
        "the schedule takes 4 epochs and the training ends after 2: quantizer q will not have "
        "begun; --epochs 4 completes it"
    )


def test_a_plan_says_when_bits_fall_and_what_a_short_training_will_not_reach():
    schedule = falling({2: 3, 1: 4}, starting_epoch=0, ending_epoch=4, frequency=1)
    shapes = {"encoder.weight": (4, 4)}
    whole, short = (predict_sparsity(schedule, shapes, epochs=n) for n in (4, 2))
    assert whole.notes == ("quantizer q: 8 bits a weight, 4 from epoch 1, 3 from epoch 2 on",)
    assert short.notes == (
        "the schedule takes 4 epochs and the training ends after 2: quantizer q will end at 4 "
        "bits where it asks for 3; --epochs 4 completes it",
        *whole.notes,
    )
