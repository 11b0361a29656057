"""What a plan predicts is what happens."""

import pytest
import torch
from ptq_world import LanguageModel, tie
from schedules import policy
from torch import nn

import lmbench.distiller as distiller

# Non-zero weights that each schedule leaves of a 2x1500 tied model of 33,278 words.
LEFT = {
    "large-70": 25_775_100,
    "large-70b": 25_487_550,
    "large-80": 16_847_550,
    "large-90": 8_591_700,
    "large-95": 4_295_850,
}


@pytest.mark.parametrize("preset", LEFT)
def test_the_plan_of_a_preset_ends_with_the_published_number_of_weights(preset):
    with torch.device("meta"):
        model = tie(LanguageModel(33_278, 1500, 2))
    plan = distiller.plan_for_model(distiller.load_preset(preset), model)
    assert plan.total == 85_917_000
    assert plan.final_nonzero == LEFT[preset]
    assert not plan.estimated
    assert plan.totals[0] == 0.0
    assert list(plan.totals) == sorted(plan.totals)


@pytest.mark.parametrize("preset", LEFT)
@pytest.mark.parametrize(
    "words, width", [(333, 150), pytest.param(33_278, 1500, marks=pytest.mark.slow)]
)
def test_a_preset_leaves_the_planned_number_of_weights_of_a_real_model(preset, words, width):
    torch.manual_seed(0)
    with torch.device("meta"):
        model = tie(LanguageModel(words, width, 2))
    schedule = distiller.load_preset(preset)
    plan = distiller.plan_for_model(schedule, model)
    model.to_empty(device="cpu")
    model.decoder.weight = model.encoder.weight
    for param in model.parameters():
        nn.init.uniform_(param, -0.1, 0.1)
    scheduler = distiller.build_scheduler(schedule, model)
    # What is left depends on the last step of each pruner alone.
    for step in schedule.policies:
        scheduler.on_epoch_begin(step.run[-1])
    scheduler.mask_all_weights()
    # What `lmbench summary --kind sparsity` shows.
    table = distiller.summary_table(model, "sparsity")
    assert table.total is not None
    assert table.total[2:4] == (plan.total, plan.final_nonzero)


SCHEDULES = {
    "agp": {"class": "AutomatedGradualPruner", "initial_sparsity": 0.0, "final_sparsity": 0.7,
            "weights": ["encoder.weight", "rnn.weight_hh_l0"]},
    "level": {"class": "SparsityLevelParameterPruner",
              "levels": {"encoder.weight": 0.33, "*": 0.5, "rnn.bias_ih_l0": 0.0}},
    "rows": {"class": "L1RankedStructureParameterPruner_AGP", "initial_sparsity": 0.1,
             "final_sparsity": 0.6, "group_type": "Rows", "weights": ["rnn.weight_hh_l0"]},
    "cols": {"class": "L2RankedStructureParameterPruner", "desired_sparsity": 0.4,
             "group_type": "Cols", "weights": ["encoder.weight"]},
    "blocks": {"class": "L1RankedStructureParameterPruner", "desired_sparsity": 0.4,
               "group_type": "Blocks", "kwargs": {"block_shape": [4, 2]},
               "weights": ["rnn.weight_hh_l0"]},
    "units": {"class": "L1RankedStructureParameterPruner_AGP", "initial_sparsity": 0.0,
              "final_sparsity": 0.5, "group_type": "HiddenUnits",
              "weights": ["rnn.weight_hh_l0", "rnn.weight_hh_l1"]},
    "2:4": {"class": "NMSparsityPruner", "weights": ["rnn.weight_ih_l1", "encoder.weight"]},
    "baidu": {"class": "BaiduRNNPruner", "q": 0.3, "ramp_epoch_offset": 1, "ramp_slope_mult": 2,
              "weights": ["rnn.weight_hh_l0"]},
    "magnitude": {"class": "MagnitudeParameterPruner",
                  "thresholds": {"*": 0.0, "encoder.weight": 0.5}},
    "sensitivity": {"class": "SensitivityPruner", "sensitivities": {"encoder.weight": 0.6}},
}  # fmt: skip


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_epoch_of_a_plan_is_what_the_scheduler_does(name, tied):
    torch.manual_seed(0)
    model = LanguageModel(14, 6, 2)
    if tied:
        tie(model)
    config = {
        "pruners": {"p": SCHEDULES[name]},
        "policies": [policy("pruner", "p", 1, 6) | {"frequency": 2}],
    }
    plan = followed(model, config)
    table = distiller.weights_sparsity_table(model)
    assert table.total is not None
    assert plan.final_nonzero == table.total[3]


def followed(model, config, epochs=7):
    """The plan of a training of two minibatches an epoch, whose masks were found to be those."""
    schedule = distiller.schedule_from_dict(config)
    plan = distiller.plan_for_model(schedule, model, epochs=epochs)
    scheduler = distiller.build_scheduler(schedule, model)
    for epoch in range(epochs):
        scheduler.on_epoch_begin(epoch)
        in_forward = {}
        for batch in range(2):
            scheduler.on_minibatch_begin(epoch, batch, 2)
            in_forward = {
                tensor.name: distiller.sparsity(model.get_parameter(tensor.name))
                for tensor in plan.tensors
            }
            scheduler.before_parameter_optimization(epoch, batch, 2)
            scheduler.on_minibatch_end(epoch, batch, 2)
        scheduler.on_epoch_end(epoch)
        with scheduler.copies_masked():
            for name, masked in in_forward.items():
                reached = distiller.sparsity(model.get_parameter(name))
                assert plan.curves[name][epoch] == pytest.approx(reached), (name, epoch)
                assert masked == reached, (name, epoch)
    return plan


def test_a_policy_with_other_levels_leaves_what_an_earlier_one_pruned():
    later = {"rnn.weight_ih_l0": 0.5, "rnn.weight_hh_l0": 0.0}
    pruner = {"class": "SparsityLevelParameterPruner", "levels": {"encoder.weight": 0.5}}
    pruner["levels"]["rnn.weight_hh_l0"] = 0.3
    policies = [
        policy("pruner", "p", 0, 1),
        policy("pruner", "p", 1, 2, levels=later),
    ]
    plan = followed(LanguageModel(14, 6, 2), {"pruners": {"p": pruner}, "policies": policies}, 3)
    assert {name for name, curve in plan.curves.items() if curve[-1]} == {
        "encoder.weight",
        "rnn.weight_ih_l0",
        "rnn.weight_hh_l0",
    }


def test_weights_that_come_back_are_masked_in_epochs_without_a_policy_too():
    args = {"use_double_copies": True, "mask_on_forward_only": True}
    policies = [policy("pruner", "p", 1, 4, **args) | {"frequency": 2}]
    config = {"pruners": {"p": SCHEDULES["agp"]}, "policies": policies}
    plan = followed(tie(LanguageModel(14, 6, 2)), config)
    assert plan.final_sparsity
    assert not plan.notes


def test_a_pruner_that_skips_its_first_minibatch_begins_at_its_second_epoch():
    policies = [policy("pruner", "p", 1, 6, skip_first_minibatch=True) | {"frequency": 2}]
    config = {"pruners": {"p": SCHEDULES["units"]}, "policies": policies}
    plan = followed(LanguageModel(14, 6, 2), config)
    assert [bool(total) for total in plan.totals[:4]] == [False, False, False, True]


@pytest.mark.parametrize(
    "first, second, estimated",
    [
        ("agp", "agp", False),
        ("agp", "2:4", True),
        ("agp", "blocks", True),
        ("rows", "cols", False),
        ("rows", "units", True),
        ("units", "units", False),
    ],
)
def test_masks_of_two_patterns_on_one_weight_are_estimated(first, second, estimated):
    pruners = {"p": SCHEDULES[first], "q": SCHEDULES[second]}
    every = {name: {**spec, "weights": ["rnn.weight_hh_l0"]} for name, spec in pruners.items()}
    config = {
        "pruners": every,
        "policies": [policy("pruner", name, 0, 3) for name in every],
    }
    plan = distiller.plan_for_model(
        distiller.schedule_from_dict(config), LanguageModel(14, 6, 2), epochs=3
    )
    assert plan.estimated is estimated


def test_a_threshold_without_weights_leaves_the_plan_open():
    shapes = {"w": (4, 4)}
    config = {
        "pruners": {"p": {**SCHEDULES["baidu"], "weights": ["w"]}},
        "policies": [{"pruner": {"instance_name": "p"}, "epochs": [1, 2]}],
    }
    plan = distiller.predict_sparsity(distiller.schedule_from_dict(config), shapes)
    assert plan.totals == (0.0, None, None)
    assert plan.final_nonzero is None


def test_the_plan_warns_when_the_training_is_too_short_and_when_weights_end_dense():
    config = {
        "pruners": {"p": {**SCHEDULES["agp"], "weights": ["w"]}},
        "policies": [policy("pruner", "p", 0, 4, mask_on_forward_only=True)],
    }
    schedule = distiller.schedule_from_dict(config)
    plan = distiller.predict_sparsity(schedule, {"w": (10, 10)}, epochs=6)
    assert not any(plan.totals)
    assert "add keep_mask" in plan.notes[0]
    short = distiller.predict_sparsity(schedule, {"w": (10, 10)}, epochs=2)
    assert "the training ends after 2; --epochs 4 completes it" in short.notes[0]
    config["policies"] = [policy("pruner", "p", 0, 4, mask_on_forward_only=True, keep_mask=True)]
    kept = distiller.schedule_from_dict(config)
    assert distiller.predict_sparsity(kept, {"w": (10, 10)}).totals == (0, 0, 0, 0.7)
    short = distiller.predict_sparsity(kept, {"w": (10, 10)}, epochs=2)
    assert "0.0% of the weights will be zero where it asks for 70.0%" in short.notes[0]
    discarded = {"use_double_copies": True, "discard_masks_at_minibatch_end": True}
    config["policies"] = [policy("pruner", "p", 0, 4, **discarded)]
    gone = distiller.predict_sparsity(distiller.schedule_from_dict(config), {"w": (10, 10)})
    assert not any(gone.totals)
    assert "leave discard_masks_at_minibatch_end out" in gone.notes[0]


def test_the_end_of_a_schedule_costs_the_same_however_many_epochs_it_has(monkeypatch):
    from lmbench.distiller.schedules.pruner_arguments import GradualArgs

    steps = []
    predict = GradualArgs.predict

    def counted(self, layout, meta):
        steps.append(meta["current_epoch"])
        return predict(self, layout, meta)

    monkeypatch.setattr(GradualArgs, "predict", counted)
    counts = []
    for last in (10, 100_000):
        steps.clear()
        config = {
            "pruners": {"p": {**SCHEDULES["agp"], "weights": ["w"]}},
            "policies": [policy("pruner", "p", 0, last)],
        }
        plan = distiller.predict_sparsity(distiller.schedule_from_dict(config), {"w": (10, 10)})
        assert plan.epochs == last
        assert plan.final_nonzero == 30
        counts.append(len(steps))
        epochs, tensors, totals = plan.drawn()
        assert (epochs[0], epochs[-1]) == (0, last - 1)
        assert totals == pytest.approx(tensors["w"])
        assert totals[-1] == pytest.approx(0.7)
        assert len(steps) <= 600
    assert counts[0] == counts[1]
