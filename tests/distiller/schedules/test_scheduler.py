"""The scheduler in a training: callbacks, resume, ties, learning rates, regularizers."""

import json

import pytest
import torch
import torch.nn.functional as F
from ptq_world import LanguageModel, tie
from schedules import policy
from torch import nn

import lmbench.distiller as distiller
from lmbench.distiller import pruning
from lmbench.distiller.schedules import build as schedule_building

AGP = {"class": "AutomatedGradualPruner", "initial_sparsity": 0.1, "final_sparsity": 0.6}
RANGE = {"starting_epoch": 1, "ending_epoch": 5, "frequency": 1}


def schedule(policy_args=None, **sections):
    pruner = {"instance_name": "p", **({"args": policy_args} if policy_args else {})}
    return {
        "pruners": {"p": {**AGP, "weights": ["rnn.weight_hh_l0", "encoder.weight"]}},
        "policies": [{"pruner": pruner, **RANGE}],
        **sections,
    }


class Training:
    """A loop that calls everything in the promised order and can stop after any minibatch."""

    def __init__(self, config, seed=0, **sgd):
        torch.manual_seed(seed)
        self.model = tie(LanguageModel(13, 6, 2))
        options = {"lr": 0.5, "momentum": 0.9, "weight_decay": 1e-3, **sgd}
        self.optimizer = torch.optim.SGD(self.model.parameters(), **options)
        self.scheduler = distiller.dict_config(self.model, self.optimizer, config)
        self.position = (0, 0)
        self.steps = []

    def run(self, until, batches=3):
        epoch, first = self.position
        s, o = self.scheduler, self.optimizer
        while (epoch, first) < until:
            if first == 0:
                s.on_epoch_begin(epoch, o)
            for batch in range(first, batches):
                if (epoch, batch) == until:
                    self.position = until
                    return self
                s.on_minibatch_begin(epoch, batch, batches, o)
                self.steps += s.pruning_steps()
                data = torch.randint(13, (5, 2), generator=torch.Generator().manual_seed(batch))
                loss = F.cross_entropy(self.model(data)[0].flatten(0, 1), data.flatten())
                loss = s.before_backward_pass(epoch, batch, batches, loss, o)
                o.zero_grad()
                loss.backward()
                s.mask_gradients()
                s.before_parameter_optimization(epoch, batch, batches, o)
                o.step()
                s.on_minibatch_end(epoch, batch, batches, o)
            s.on_epoch_end(epoch, o, metrics={"min": float(10 - epoch)})
            epoch, first = epoch + 1, 0
        self.position = (epoch, 0)
        return self

    def save(self):
        tensors, values = distiller.split_state(self.scheduler.state_dict())
        return (
            {k: v.clone() for k, v in self.model.state_dict().items()},
            self.optimizer.state_dict(),
            {k: v.clone() for k, v in tensors.items()},
            json.dumps(values, allow_nan=False),
            self.position,
        )

    def load(self, saved):
        model, optimizer, tensors, values, self.position = saved
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)
        self.scheduler.load_state_dict(distiller.join_state(tensors, json.loads(values)))
        return self


SPLICING = {
    "class": "SplicingPruner",
    "low_thresh_mult": 0.9,
    "hi_thresh_mult": 1.1,
    "sensitivities": {"rnn.weight_hh_l0": 0.3},
    "sensitivity_multiplier": 0.1,
}
TWO_PRUNERS = {
    "pruners": {
        "rows": {
            "class": "L1RankedStructureParameterPruner_AGP",
            "initial_sparsity": 0.1,
            "final_sparsity": 0.5,
            "group_type": "Rows",
            "weights": ["rnn.weight_hh_l0"],
        },
        "splicing": {
            "class": "SplicingPruner",
            "low_thresh_mult": 0.9,
            "hi_thresh_mult": 1.1,
            "sensitivities": {"rnn.weight_hh_l0": 0.3},
        },
    },
    "policies": [
        {"pruner": {"instance_name": "rows"}, **RANGE},
        {"pruner": {"instance_name": "splicing"}, **RANGE},
    ],
}
SENSITIVITY = {"class": "SensitivityPruner", "sensitivities": {"encoder.weight": 0.5}}
COPIES = {"use_double_copies": True, "mask_on_forward_only": True, "keep_mask": True}
RESUMABLE = {
    "agp": schedule(),
    "two pruners of one weight": TWO_PRUNERS,
    "agp each minibatch": schedule({"mini_batch_pruning_frequency": 1}),
    "double copies": schedule({"use_double_copies": True}),
    "copies that train on": schedule({**COPIES, "mini_batch_pruning_frequency": 1}),
    "forward only": schedule({"mask_on_forward_only": True, "keep_mask": True}),
    "masked gradients": schedule({"mask_gradients": True}),
    "splicing": schedule({"use_double_copies": True}, pruners={"p": SPLICING}),
    "sensitivity": schedule(pruners={"p": SENSITIVITY}),
    "levels of one policy": schedule(
        pruners={"p": {"class": "SparsityLevelParameterPruner", "levels": {"encoder.weight": 0.8}}},
        policies=[
            policy("pruner", "p", 0, 1, levels={"encoder.weight": 0.4}),
            policy("pruner", "p", 3, 4),
        ],
    ),
    "learning rates": schedule(
        lr_schedulers={"lr": {"class": "MultiStepLR", "milestones": [1, 3], "gamma": 0.5}},
        policies=[
            {"pruner": {"instance_name": "p"}, **RANGE},
            {"lr_scheduler": {"instance_name": "lr"}, "epochs": [0, 1, 2, 3, 4, 5]},
        ],
    ),
    "plateau": schedule(
        lr_schedulers={"lr": {"class": "ReduceLROnPlateau", "patience": 0}},
        policies=[{"lr_scheduler": {"instance_name": "lr"}, "epochs": [0, 1, 2, 3, 4, 5]}],
    ),
    "group lasso": {
        "regularizers": {
            "g": {
                "class": "GroupLassoRegularizer",
                "reg_regims": {"rnn.weight_hh_l1": [0.02, "Rows"]},
                "threshold_criteria": "Max",
            }
        },
        "policies": [{"regularizer": {"instance_name": "g", "args": {"keep_mask": True}}, **RANGE}],
    },
}


@pytest.mark.parametrize("stop", [(0, 1), (2, 0), (2, 2), (5, 0)], ids=str)
@pytest.mark.parametrize("name", RESUMABLE)
def test_a_run_stopped_anywhere_and_resumed_ends_with_equal_bits(name, stop):
    config = RESUMABLE[name]
    through = Training(config).run((7, 0))
    stopped = Training(config).run(stop)
    resumed = Training(config, seed=99).load(stopped.save()).run((7, 0))
    for key, value in through.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key
    assert through.scheduler.state_dict()["policies"] == resumed.scheduler.state_dict()["policies"]
    assert [g["lr"] for g in through.optimizer.param_groups] == [
        g["lr"] for g in resumed.optimizer.param_groups
    ]


def test_tied_weights_are_pruned_once_under_either_name_and_stay_tied():
    config = schedule(pruners={"p": {**AGP, "weights": ["decoder.weight", "encoder.weight"]}})
    training = Training(config).run((6, 0))
    model = training.model
    assert model.decoder.weight is model.encoder.weight
    assert distiller.sparsity(model.encoder.weight) == pytest.approx(int(0.6 * 78) / 78)
    assert {step.parameter for step in training.steps} == {"encoder.weight"}
    assert len(training.steps) == 4
    masks = training.scheduler.state_dict()["masks_dict"]
    assert "decoder.weight" not in masks


@pytest.mark.parametrize("name", ["encoder.weight", "decoder.weight"])
@pytest.mark.parametrize(
    "pruner",
    [
        {"class": "SparsityLevelParameterPruner", "levels": {"*": 0.9}},
        {"class": "MagnitudeParameterPruner", "thresholds": {"*": 0.0}},
        {"class": "SensitivityPruner", "sensitivities": {"*": 0.0}},
    ],
)
def test_a_number_under_either_name_of_tied_weights_goes_before_that_of_all_others(pruner, name):
    [what] = pruner.keys() - {"class"}
    pruner = {**pruner, what: {name: 0.5, **pruner[what]}}
    model = tie(LanguageModel(13, 6, 2))
    config = {
        "version": 1,
        "pruners": {"p": pruner},
        "policies": [policy("pruner", "p", 0, 1)],
    }
    scheduler = distiller.dict_config(model, None, config)
    scheduler.on_epoch_begin(0)
    scheduler.on_minibatch_begin(0, 0, 1)
    assert 0.2 < distiller.sparsity(model.encoder.weight) < 0.7


def test_a_mask_is_never_applied_to_another_parameter_with_equal_values():
    model = LanguageModel(13, 6, 2)
    with torch.no_grad():
        model.decoder.weight.copy_(model.encoder.weight)
    config = schedule(pruners={"p": {**AGP, "weights": ["encoder.weight"]}})
    scheduler = distiller.dict_config(model, None, config)
    scheduler.on_epoch_begin(4)
    scheduler.on_minibatch_begin(4, 0, 1)
    assert distiller.sparsity(model.encoder.weight) > 0.5
    assert distiller.sparsity(model.decoder.weight) == 0


def test_the_steps_name_each_changed_parameter_once_with_target_and_reached():
    training = Training(schedule()).run((7, 0))
    assert [(s.epoch, s.parameter) for s in training.steps] == [
        (epoch, name) for epoch in (1, 2, 3, 4) for name in ("encoder.weight", "rnn.weight_hh_l0")
    ]
    last = training.steps[-1]
    assert last.target == 0.6
    assert last.reached == pytest.approx(int(0.6 * 144) / 144)
    assert training.scheduler.pruning_steps() == []


@pytest.mark.parametrize("forward_only", [False, True])
def test_an_update_that_torch_does_not_count_is_masked_again(forward_only):
    """As of a compiled kernel or a CUDA graph."""
    model = LanguageModel(13, 6, 2)
    config = schedule({"mask_on_forward_only": forward_only})
    scheduler = distiller.dict_config(model, None, config)
    scheduler.on_epoch_begin(4)
    scheduler.on_minibatch_begin(4, 0, 2)
    weight = model.get_parameter("rnn.weight_hh_l0")
    pruned = weight == 0
    weight.data.fill_(1.0)
    scheduler.on_minibatch_end(4, 0, 2)
    assert bool((weight[pruned] == float(forward_only)).all())
    scheduler.on_minibatch_begin(4, 1, 2)
    assert bool((weight[pruned] == 0).all())


def test_masked_gradients_do_not_count_in_the_norm():
    training = Training(schedule()).run((5, 0))
    model, scheduler = training.model, training.scheduler
    model(torch.arange(13)[:, None])[0].square().sum().backward()
    mask = scheduler.zeros_mask_dict["rnn.weight_hh_l0"].mask
    gradient = model.get_parameter("rnn.weight_hh_l0").grad
    assert mask is not None
    assert gradient is not None
    assert gradient[~mask].abs().sum() > 0
    kept = gradient[mask].clone()
    scheduler.mask_gradients()
    assert gradient[~mask].abs().sum() == 0
    assert torch.equal(gradient[mask], kept)


@pytest.mark.parametrize("double", [True, False])
def test_a_pruned_weight_grows_back_only_with_double_copies(double):
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.1, 1.0, 2.0, 3.0]]))
    scheduler = distiller.CompressionScheduler(model)
    pruner = pruning.SplicingPruner("s", {"weight": 0.0}, 0.5, 0.9)
    # `levels: null` is as if it were left out.
    args = {"use_double_copies": double, "levels": None}
    policy = distiller.PruningPolicy(pruner, args)
    scheduler.add_policy(policy, epochs=[0, 1, 2])
    for epoch in range(2):
        scheduler.on_epoch_begin(epoch)
        scheduler.on_minibatch_begin(epoch, 0, 1)
        assert model.weight[0, 0] == 0
        scheduler.before_parameter_optimization(epoch, 0, 1)
        with torch.no_grad():
            # Two such steps lift a dense 0.1 over the high threshold, and never a masked 0.
            model.weight[0, 0] += 0.7
        scheduler.on_minibatch_end(epoch, 0, 1)
        scheduler.on_epoch_end(epoch)
    scheduler.on_epoch_begin(2)
    scheduler.on_minibatch_begin(2, 0, 1)
    assert bool(model.weight[0, 0] != 0) is double


@pytest.mark.parametrize(
    "pruner",
    [
        pruning.MagnitudeParameterPruner("m", {"*": 0.0}),
        pruning.SensitivityPruner("s", {"*": 0.5}),
    ],
    ids=["magnitude", "sensitivity"],
)
def test_a_bias_of_zeros_that_stands_for_all_others_stays_free(pruner):
    model = nn.Linear(6, 4)
    nn.init.zeros_(model.bias)
    scheduler = distiller.CompressionScheduler(model)
    scheduler.add_policy(distiller.PruningPolicy(pruner), epochs=[0, 1])
    scheduler.on_epoch_begin(0)
    assert scheduler.zeros_mask_dict["bias"].mask is None
    assert scheduler.zeros_mask_dict["weight"].mask is not None
    named = pruning.MagnitudeParameterPruner("m", {"*": 0.0, "bias": 0.0})
    scheduler.add_policy(distiller.PruningPolicy(named), epochs=[2])
    scheduler.on_epoch_begin(2)
    mask = scheduler.zeros_mask_dict["bias"].mask
    assert mask is not None
    assert not mask.any()


@pytest.mark.parametrize(
    "pruner",
    [
        pruning.SensitivityPruner("s", {"weight": 0.5}),
        pruning.SplicingPruner("s", {"weight": 0.5}, 0.5, 0.9),
    ],
    ids=["sensitivity", "splicing"],
)
def test_one_weight_alone_has_no_deviation(pruner):
    scheduler = distiller.CompressionScheduler(nn.Linear(1, 1))
    scheduler.add_policy(distiller.PruningPolicy(pruner), epochs=[0])
    scheduler.on_epoch_begin(0)
    json.dumps(pruner.state_dict(), allow_nan=False)
    mask = scheduler.zeros_mask_dict["weight"].mask
    assert mask is not None
    assert mask.all()


def test_sparsity_levels_of_a_policy_replace_those_of_its_pruner():
    model = nn.Linear(10, 10)
    pruner = pruning.SparsityLevelParameterPruner("l", {"weight": 0.2})
    scheduler = distiller.CompressionScheduler(model)
    scheduler.add_policy(distiller.PruningPolicy(pruner), epochs=[0])
    scheduler.add_policy(distiller.PruningPolicy(pruner, {"levels": {"weight": 0.5}}), epochs=[1])
    scheduler.add_policy(distiller.PruningPolicy(pruner, {"levels": {}}), epochs=[2])
    for epoch, expected in ((0, 0.2), (1, 0.5), (2, 0.2)):
        scheduler.on_epoch_begin(epoch)
        scheduler.mask_all_weights()
        mask = scheduler.zeros_mask_dict["weight"].mask
        assert distiller.sparsity(mask) == pytest.approx(expected)


@pytest.mark.parametrize("epochs", [[1, 5, 9], [9, 1, 5]])
def test_agp_over_a_list_of_epochs_ends_at_its_target(epochs):
    model = nn.Linear(10, 10)
    scheduler = distiller.CompressionScheduler(model)
    pruner = pruning.AutomatedGradualPruner("agp", 0.0, 0.5, ["weight"])
    scheduler.add_policy(distiller.PruningPolicy(pruner), epochs=epochs)
    reached = []
    for epoch in range(11):
        scheduler.on_epoch_begin(epoch)
        scheduler.mask_all_weights()
        reached.append(round(distiller.sparsity(model.weight), 2))
    assert reached == [0, 0, 0, 0, 0, 0.43, 0.43, 0.43, 0.43, 0.5, 0.5]


def test_gradients_are_masked_until_the_policys_last_epoch_also_after_a_resume():
    def scheduler_of(model: nn.Linear) -> distiller.CompressionScheduler:
        scheduler = distiller.CompressionScheduler(model)
        pruner = pruning.SparsityLevelParameterPruner("half", {"weight": 0.5})
        policy = distiller.PruningPolicy(pruner, {"mask_gradients": True})
        scheduler.add_policy(policy, epochs=[0, 1])
        return scheduler

    def masked(scheduler: distiller.CompressionScheduler, model: nn.Linear) -> bool:
        model.zero_grad()
        model(torch.ones(2, 4)).sum().backward()
        pruned = ~scheduler.zeros_mask_dict["weight"].mask
        assert model.weight.grad is not None
        return not model.weight.grad[pruned].any()

    model = nn.Linear(4, 4)
    scheduler = scheduler_of(model)
    scheduler.on_epoch_begin(0)
    assert masked(scheduler, model)
    resumed = nn.Linear(4, 4)
    again = scheduler_of(resumed)
    again.load_state_dict(scheduler.state_dict())
    assert masked(again, resumed)
    for one, of in ((scheduler, model), (again, resumed)):
        one.on_epoch_end(0)
        one.on_epoch_begin(1)
        assert masked(one, of)
        one.on_epoch_end(1)
        assert not masked(one, of)


def test_a_rate_of_ones_own_needs_no_more_than_step():
    class Halves:
        def __init__(self, initial: float, final: float) -> None:
            self.final = final

        def step(self, epoch: int, start: int, end: int, frequency: int) -> float:
            return self.final if epoch == end - 1 else self.final / 2

    model = nn.Linear(10, 10)
    scheduler = distiller.CompressionScheduler(model)
    pruner = pruning.AutomatedGradualPruner("agp", 0.0, 0.8, ["weight"], Halves)
    scheduler.add_policy(distiller.PruningPolicy(pruner), epochs=[0, 1, 2])
    reached = []
    for epoch in range(3):
        scheduler.on_epoch_begin(epoch)
        reached.append(distiller.sparsity(scheduler.zeros_mask_dict["weight"].mask))
    assert reached == pytest.approx([0.4, 0.4, 0.8])


@pytest.mark.parametrize(
    "spec, rates",
    [
        ({"class": "PolynomialLR", "T_max": 4, "power": 2}, [1, 0.5625, 0.25, 0.0625, 0, 0]),
        (
            {"class": "MultiStepMultiGammaLR", "milestones": [1, 3], "gammas": [0.5, 0.1]},
            [1, 0.5, 0.5, 0.05, 0.05, 0.05],
        ),
        ({"class": "ExponentialLR", "gamma": 0.5}, [1, 0.5, 0.25, 0.125, 0.0625, 0.03125]),
        ({"class": "StepLR", "step_size": 2, "gamma": 0.1}, [1, 1, 0.1, 0.1, 0.01, 0.01]),
    ],
)
def test_learning_rates_follow_their_scheduler(spec, rates):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    config = {
        "lr_schedulers": {"lr": spec},
        "policies": [policy("lr_scheduler", "lr", 0, 9)],
    }
    scheduler = distiller.dict_config(model, optimizer, config)
    seen = []
    for epoch in range(6):
        scheduler.on_epoch_begin(epoch, optimizer)
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.on_epoch_end(epoch, optimizer)
    assert seen == pytest.approx(rates)


def test_a_plateau_scheduler_without_a_validation_loss_says_how_to_pass_it():
    config = RESUMABLE["plateau"]
    scheduler = Training(config).scheduler
    with pytest.raises(distiller.DistillerError, match=r"metrics=\{'min': loss\}"):
        scheduler.on_epoch_end(0)


def test_l1_adds_its_term_and_thresholding_zeroes_what_is_below_the_strength():
    model = nn.Linear(4, 3, bias=False)
    weight = model.weight.detach().clone()
    config = {
        "regularizers": {
            "r": {
                "class": "L1Regularizer",
                "reg_regims": {"weight": 0.2},
                "threshold_criteria": "Mean_Abs",
            }
        },
        "policies": [{"regularizer": {"instance_name": "r"}, "epochs": [0]}],
    }
    scheduler = distiller.dict_config(model, None, config)
    scheduler.on_epoch_begin(0)
    scheduler.on_minibatch_begin(0, 0, 1)
    loss = scheduler.before_backward_pass(0, 0, 1, torch.ones(()), return_loss_components=True)
    assert loss.overall_loss.item() == pytest.approx(1 + 0.2 * weight.abs().sum().item())
    assert [part.name for part in loss.loss_components] == ["L1Regularizer_loss"]
    scheduler.on_minibatch_end(0, 0, 1)
    assert torch.equal(model.weight != 0, weight.abs() > 0.2)
    assert scheduler.zeros_mask_dict["weight"].mask is None


def test_group_lasso_keeps_its_last_mask_when_asked_to():
    training = Training(RESUMABLE["group lasso"]).run((7, 0))
    mask = training.scheduler.zeros_mask_dict["rnn.weight_hh_l1"].mask
    assert mask is not None
    assert (training.model.get_parameter("rnn.weight_hh_l1")[~mask] == 0).all()


class Quantizer:
    """Stands in for a training-time quantizer: it records what it was called for."""

    def __init__(self, model, optimizer=None, bits_weights=8):
        self.optimizer, self.bits, self.calls = optimizer, bits_weights, []

    def prepare_model(self):
        self.calls.append("prepare")

    def quantize_params(self):
        self.calls.append("quantize")


QUANTIZED = """
quantizers:
  q: {class: WRPNQuantizer, bits_weights: 4}
policies:
  - quantizer: {instance_name: q}
    starting_epoch: 0
    ending_epoch: 2
    frequency: 1
"""


@pytest.mark.parametrize(
    "lr", [{"class": "ReduceLROnPlateau"}, {"class": "StepLR", "step_size": 2}]
)
def test_a_script_goes_on_at_an_epoch_with_any_learning_rate(lr):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD([{"params": model.parameters(), "initial_lr": 1.0}], lr=1.0)
    config = schedule(pruners={}, lr_schedulers={"lr": lr})
    config["policies"] = [{"lr_scheduler": {"instance_name": "lr"}, "epochs": [3, 4]}]
    scheduler = distiller.dict_config(model, optimizer, config, resumed_epoch=3)
    scheduler.on_epoch_begin(3, optimizer)
    scheduler.on_epoch_end(3, optimizer, metrics=1.0)


@pytest.mark.parametrize(
    "lr",
    [{"class": "StepLR", "step_size": 1}, {"class": "MultiStepLR", "milestones": [2, 4]}],
)
def test_a_script_that_goes_on_has_the_rates_of_one_that_never_stopped(lr, tmp_path):
    def rates(model, optimizer, scheduler, start):
        for epoch in range(start, 5):
            yield optimizer.param_groups[0]["lr"]
            scheduler.on_epoch_end(epoch, optimizer)
            distiller.apputils.save_checkpoint(
                epoch, "x", model, optimizer, scheduler, name=str(epoch), dir=tmp_path
            )

    config = schedule(pruners={}, lr_schedulers={"lr": lr})
    config["policies"] = [{"lr_scheduler": {"instance_name": "lr"}, "epochs": list(range(5))}]
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    whole = list(rates(model, optimizer, distiller.dict_config(model, optimizer, config), 0))
    for epoch in range(4):
        model, scheduler, optimizer, start = distiller.apputils.load_checkpoint(
            model, tmp_path / f"{epoch}_checkpoint.pth.tar"
        )
        scheduler = distiller.dict_config(
            model, optimizer, config, scheduler, resumed_epoch=start - 1
        )
        assert list(rates(model, optimizer, scheduler, start)) == whole[start:]


def test_a_quantizer_prepares_the_model_and_quantizes_after_each_update(monkeypatch, tmp_path):
    monkeypatch.setattr(schedule_building, "quantizer_class", lambda name: Quantizer)
    (tmp_path / "q.yaml").write_text(QUANTIZED)
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = distiller.file_config(model, optimizer, tmp_path / "q.yaml")
    ((policy, *_),) = {tuple(policies) for policies in scheduler.policies.values()}
    assert isinstance(policy, distiller.QuantizationPolicy)
    quantizer = policy.quantizer
    assert quantizer.optimizer is optimizer
    assert quantizer.bits == 4
    scheduler.on_epoch_begin(0, optimizer)
    for batch in range(2):
        scheduler.on_minibatch_begin(0, batch, 2, optimizer)
        scheduler.on_minibatch_end(0, batch, 2, optimizer)
    assert quantizer.calls == ["prepare", "quantize", "quantize", "quantize"]


def test_a_quantizer_of_a_file_is_built_by_its_class_with_overrides(monkeypatch, tmp_path):
    monkeypatch.setattr(schedule_building, "quantizer_class", lambda name: Quantizer)
    (tmp_path / "q.yaml").write_text(QUANTIZED)
    build = distiller.config_component_from_file_by_class
    assert build(nn.Linear(2, 2), tmp_path / "q.yaml", "WRPNQuantizer").bits == 4
    other = build(nn.Linear(2, 2), tmp_path / "q.yaml", "WRPNQuantizer", bits_weights=3)
    assert other.bits == 3
    with pytest.raises(distiller.ScheduleError, match=r"q\.yaml: quantizers: none has class Other"):
        build(nn.Linear(2, 2), tmp_path / "q.yaml", "Other")


@pytest.mark.parametrize(
    "spec",
    [
        {"class": "LinearLR", "start_factor": 0.1},
        {"class": "ConstantLR", "factor": 0.25, "total_iters": 8},
        {"class": "OneCycleLR", "max_lr": 20.0, "total_steps": 12},
        {"class": "CyclicLR", "base_lr": 2.0, "max_lr": 5.0},
    ],
    ids=lambda spec: spec["class"],
)
def test_before_its_policy_a_learning_rate_is_as_it_was(spec):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.3)
    config = {
        "lr_schedulers": {"lr": spec},
        "policies": [policy("lr_scheduler", "lr", 5, 7), policy("lr_scheduler", "lr", 2, 3)],
    }
    scheduler = distiller.dict_config(model, optimizer, config)
    [group] = optimizer.param_groups
    for epoch in range(3):
        scheduler.on_epoch_begin(epoch, optimizer)
        assert (group["lr"], group["momentum"]) == (1.0, 0.3)
        optimizer.step()
        scheduler.on_epoch_end(epoch, optimizer)
    assert group["lr"] != 1.0


@pytest.mark.parametrize("batches", [1, 3])
def test_a_mask_that_is_discarded_lives_for_one_minibatch_in_a_copy_too(batches):
    model = LanguageModel(13, 6, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    args = {"use_double_copies": True, "discard_masks_at_minibatch_end": True}
    scheduler = distiller.dict_config(model, optimizer, schedule(args))
    weight = model.get_parameter("rnn.weight_hh_l0")
    scheduler.on_epoch_begin(4)
    in_forward = []
    for batch in range(batches):
        scheduler.on_minibatch_begin(4, batch, batches, optimizer)
        in_forward.append(distiller.sparsity(weight))
        scheduler.before_parameter_optimization(4, batch, batches, optimizer)
        scheduler.on_minibatch_end(4, batch, batches, optimizer)
        assert distiller.sparsity(weight) == 0
    assert in_forward == [pytest.approx(0.6, abs=0.01), *[0] * (batches - 1)]


def test_a_state_with_masks_alone_brings_the_masks():
    training = Training(schedule()).run((6, 0))
    masks = training.scheduler.state_dict()["masks_dict"]
    other = distiller.CompressionScheduler(tie(LanguageModel(13, 6, 2)))
    other.load_state_dict({"masks_dict": {f"module.{n}": m for n, m in masks.items()}}, True)
    other.mask_all_weights()
    expected = training.scheduler.zeros_mask_dict["encoder.weight"].mask
    assert torch.equal(other.zeros_mask_dict["encoder.weight"].mask, expected)


@pytest.mark.parametrize(
    "state, message",
    [
        ({}, "masks_dict is missing"),
        ({"masks_dict": {"x": None}}, "'x' is not a parameter"),
        ({"masks_dict": {"encoder.weight": torch.ones(2, 2)}}, "has shape"),
        ({"masks_dict": {}, "version": 9}, "version 9"),
        ({"masks_dict": {}, "policies": []}, "0 policies, this one has 1"),
        ({"masks_dict": {}, "policies": [{}], "maskers": {}}, "another model, without 'decoder"),
    ],
)
def test_a_state_of_something_else_is_refused(state, message):
    with pytest.raises(distiller.DistillerError, match=message):
        Training(schedule()).scheduler.load_state_dict(state)


def test_the_engine_imports_nothing_else_of_lmbench_and_plans_without_torch():
    import subprocess
    import sys

    program = (
        "import sys, lmbench.distiller as d\n"
        "s = d.load_preset('large-80')\n"
        "p = d.predict_sparsity(s, {n: (8, 8) for n in ['rnn.weight_ih_l0', 'rnn.weight_hh_l0',"
        " 'rnn.weight_ih_l1', 'rnn.weight_hh_l1', 'encoder.weight']})\n"
        "assert 'torch' not in sys.modules\n"
        "d.CompressionScheduler, d.thin, d.pruning.thin, d.suggest_targets\n"
        "rooms = {m.split('.')[1] for m in sys.modules if m.startswith('lmbench.')}\n"
        "assert rooms == {'distiller'}, rooms\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_schedules_are_built_by_the_originals_module_of_the_name_config():
    assert distiller.config.file_config is distiller.file_config
    assert distiller.config.dict_config is distiller.dict_config


def test_what_each_of_two_pruners_of_one_weight_prunes_stays_pruned():
    training = Training(TWO_PRUNERS).run((7, 0))
    masker = training.scheduler.zeros_mask_dict["rnn.weight_hh_l0"]
    assert set(masker.parts) == {"rows", "splicing"}
    assert masker.mask is not None
    assert torch.equal(masker.mask, masker.parts["rows"] & masker.parts["splicing"])
    assert not torch.equal(masker.mask, masker.parts["rows"])
    assert not torch.equal(masker.mask, masker.parts["splicing"])
    weight = training.model.get_parameter("rnn.weight_hh_l0")
    assert (weight[~masker.mask] == 0).all()
    assert int((~masker.parts["rows"]).all(dim=1).sum()) == 12


def test_a_mask_that_is_nobodys_part_is_none_after_a_resume_either():
    scheduler = distiller.CompressionScheduler(nn.Linear(3, 3))
    scheduler.zeros_mask_dict["weight"].mask = torch.rand(3, 3) > 0.5
    again = distiller.CompressionScheduler(nn.Linear(3, 3))
    again.load_state_dict(scheduler.state_dict())
    assert again.zeros_mask_dict["weight"].parts == {}


def test_masks_that_were_given_stay_when_a_pruner_steps():
    model = nn.Linear(10, 10)
    config = schedule(pruners={"p": {**AGP, "weights": ["weight"]}})
    scheduler = distiller.dict_config(model, None, config)
    given = torch.arange(100).reshape(10, 10) < 30
    scheduler.init_from_masks_dict({"weight": given, "bias": None})
    scheduler.on_epoch_begin(1)
    mask = scheduler.zeros_mask_dict["weight"].mask
    assert mask is not None
    assert not mask[~given].any()


def test_a_pruner_and_a_regularizer_of_one_name_each_keep_their_part():
    model = nn.Linear(20, 20, bias=False)
    regularizer = {
        "class": "L1Regularizer",
        "reg_regims": {"weight": 0.05},
        "threshold_criteria": "Max",
    }
    pruner = {"class": "SparsityLevelParameterPruner", "levels": {"weight": 0.01}}
    config = schedule(pruners={"x": pruner}, regularizers={"x": regularizer})
    config["policies"] = [
        {"regularizer": {"instance_name": "x", "args": {"keep_mask": True}}, "epochs": [0]},
        {"pruner": {"instance_name": "x"}, "epochs": [1]},
    ]
    scheduler = distiller.dict_config(model, None, config)
    scheduler.on_epoch_begin(0)
    scheduler.on_minibatch_begin(0, 0, 1)
    scheduler.before_backward_pass(0, 0, 1, torch.ones(()))
    scheduler.on_minibatch_end(0, 0, 1)
    scheduler.on_epoch_end(0)
    kept = scheduler.zeros_mask_dict["weight"].mask
    assert kept is not None
    scheduler.on_epoch_begin(1)
    mask = scheduler.zeros_mask_dict["weight"].mask
    assert mask is not None
    assert not mask[~kept].any()
    assert int(kept.sum()) < 350


def test_a_thresholding_regularizer_leaves_a_pruners_mask_in_place():
    model = nn.Linear(4, 3, bias=False)
    config = {
        "pruners": {
            "p": {
                "class": "AutomatedGradualPruner",
                "initial_sparsity": 0,
                "final_sparsity": 0.5,
                "weights": ["weight"],
            }
        },
        "regularizers": {
            "r": {
                "class": "L1Regularizer",
                "reg_regims": {"weight": 0.01},
                "threshold_criteria": "Max",
            }
        },
        "policies": [
            {"pruner": {"instance_name": "p"}, "epochs": [0]},
            {"regularizer": {"instance_name": "r"}, "epochs": [0]},
        ],
    }
    scheduler = distiller.dict_config(model, None, config)
    scheduler.on_epoch_begin(0)
    before = scheduler.zeros_mask_dict["weight"].mask
    scheduler.on_minibatch_begin(0, 0, 1)
    scheduler.before_backward_pass(0, 0, 1, torch.ones(()))
    scheduler.on_minibatch_end(0, 0, 1)
    after = scheduler.zeros_mask_dict["weight"].mask
    assert before is not None
    assert after is not None
    assert torch.equal(before, after)


def test_a_policy_runs_at_every_epoch_of_its_range_by_default():
    scheduler = distiller.CompressionScheduler(nn.Linear(2, 2))
    scheduler.add_policy(distiller.ScheduledTrainingPolicy(), starting_epoch=0, ending_epoch=4)
    assert sorted(scheduler.policies) == [0, 1, 2, 3]


@pytest.mark.filterwarnings("error")
def test_a_validation_loss_with_a_gradient_steps_a_plateau_scheduler_without_a_warning():
    scheduler = Training(RESUMABLE["plateau"]).scheduler
    scheduler.on_epoch_begin(0)
    loss = torch.ones((), requires_grad=True) * 2
    scheduler.on_epoch_end(0, metrics={"min": loss})


def test_a_group_variance_regularizer_adds_the_variance_of_the_row_norms():
    model = nn.Linear(4, 3, bias=False)
    regularizer = distiller.GroupVarianceRegularizer("v", model, {"weight": [0.5, "Rows"]})
    masks = distiller.CompressionScheduler(model).zeros_mask_dict
    term = regularizer.loss(model.weight, "weight", torch.zeros(()), masks)
    wanted = 0.5 * model.weight.norm(dim=1).var(correction=0)
    assert term.item() == pytest.approx(wanted.item(), rel=1e-4)
    term.backward()
    assert model.weight.grad is not None


@pytest.mark.filterwarnings("error")
def test_a_learning_rate_steps_without_a_warning_of_torch():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    config = {
        "lr_schedulers": {"lr": {"class": "MultiStepLR", "milestones": [2], "gamma": 0.5}},
        "policies": [{"lr_scheduler": {"instance_name": "lr"}, "epochs": [0, 2, 3]}],
    }
    scheduler = distiller.dict_config(model, optimizer, config)
    for epoch in range(4):
        scheduler.on_epoch_begin(epoch, optimizer)
        scheduler.on_epoch_end(epoch, optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.5
