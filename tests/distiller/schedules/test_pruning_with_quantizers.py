"""A schedule with pruners and a training-time quantizer prunes what it names, then quantizes it."""

import pytest
import torch
from torch import nn

import lmbench.distiller as distiller
from lmbench.distiller.quantization.codes import fit_codes

WORDS, WIDTH, STEPS = 31, 8, 4


class Model(nn.Module):
    def __init__(self, kind=nn.LSTM, bidirectional=False):
        super().__init__()
        self.encoder = nn.Embedding(WORDS, WIDTH)
        self.rnn = kind(WIDTH, WIDTH, 2, bidirectional=bidirectional)
        self.decoder = nn.Linear(WIDTH * (2 if bidirectional else 1), WORDS)
        if not bidirectional:
            self.decoder.weight = self.encoder.weight

    def forward(self, ids):
        return self.decoder(self.rnn(self.encoder(ids))[0])


def schedule(pruner, quantizer, quantizer_first=True):
    policies = [
        {"quantizer": {"instance_name": "q"}, "epochs": [0, 1, 2]},
        {"pruner": {"instance_name": "p"}, "epochs": [0, 1, 2]},
    ]
    return {
        "version": 1,
        "pruners": {"p": pruner},
        "quantizers": {"q": quantizer},
        "policies": policies if quantizer_first else policies[::-1],
    }


def train(model, plan, epochs=3):
    """The scheduler after a training, and the model to save."""
    torch.manual_seed(3)
    ids = torch.randint(WORDS, (6, 4))
    optimizer = torch.optim.SGD(model.parameters(), 0.5, momentum=0.9, weight_decay=1e-3)
    scheduler = distiller.dict_config(model, optimizer, plan)
    for epoch in range(epochs):
        scheduler.on_epoch_begin(epoch, optimizer)
        for step in range(STEPS):
            scheduler.on_minibatch_begin(epoch, step, STEPS, optimizer)
            loss = nn.functional.cross_entropy(model(ids[:-1]).flatten(0, 1), ids[1:].flatten())
            loss = scheduler.before_backward_pass(epoch, step, STEPS, loss, optimizer)
            optimizer.zero_grad()
            loss.backward()
            scheduler.before_parameter_optimization(epoch, step, STEPS, optimizer)
            optimizer.step()
            scheduler.on_minibatch_end(epoch, step, STEPS, optimizer)
        scheduler.on_epoch_end(epoch, optimizer)
    assert scheduler.quantizer is not None
    return scheduler, scheduler.quantizer.plain_model()


def agp(*weights, **more):
    return {
        "class": "AutomatedGradualPruner",
        "initial_sparsity": 0.1,
        "final_sparsity": 0.75,
        "weights": list(weights),
        **more,
    }


QUANTIZERS = {
    "linear": {"class": "QuantAwareTrainRangeLinearQuantizer", "bits_weights": 4},
    "asymmetric": {
        "class": "QuantAwareTrainRangeLinearQuantizer",
        "bits_weights": 4,
        "mode": "ASYMMETRIC_UNSIGNED",
    },
    "dorefa": {"class": "DorefaQuantizer", "bits_weights": 4},
    "pact": {"class": "PACTQuantizer", "bits_weights": 4, "bits_activations": 8},
    "wrpn": {"class": "WRPNQuantizer", "bits_weights": 8},
}


@pytest.mark.parametrize("first", [True, False])
def test_biases_rank_rows_also_where_a_quantizer_has_the_decoder(first):
    torch.manual_seed(0)
    model = Model()
    # Its weights stay, however small they are.
    nn.init.constant_(model.decoder.bias, -50.0)
    model.decoder.bias.data[3] = 0.0
    by_bias = agp("encoder.weight", bias_exponent=1.0)
    scheduler, _ = train(model, schedule(by_bias, QUANTIZERS["linear"], first))
    mask = scheduler.zeros_mask_dict["encoder.weight"].mask
    assert mask is not None
    assert mask[3].all()
    assert distiller.sparsity(mask) == pytest.approx(0.75, abs=1 / mask.numel())


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("first", [True, False])
def test_split_recurrent_weights_are_pruned_under_their_old_names(quantizer, first):
    torch.manual_seed(0)
    model = Model()
    names = ("rnn.weight_ih_l0", "rnn.weight_hh_l1", "encoder.weight")
    scheduler, plain = train(model, schedule(agp(*names), QUANTIZERS[quantizer], first))
    after = dict(plain.named_parameters())
    for name in names:
        mask = scheduler.zeros_mask_dict[name].mask
        assert mask is not None
        assert distiller.sparsity(mask) == pytest.approx(0.75, abs=1 / mask.numel())
        assert not after[name][~mask].any(), name
    cell = model.get_submodule("rnn.cells.1.fc_gate_h")
    mask = scheduler.zeros_mask_dict["rnn.weight_hh_l1"].mask
    assert not cell.get_parameter("float_weight")[~mask].any()
    assert distiller.sparsity(after["rnn.weight_hh_l0"]) < 0.5
    assert plain.decoder.weight is plain.encoder.weight


def test_a_model_of_cells_is_pruned_under_its_own_names():
    model = distiller.modules.convert_model_to_modular(Model())
    name = "rnn.cells.0.fc_gate_h.weight"
    pruner = {"class": "SparsityLevelParameterPruner", "levels": {name: 0.5}}
    scheduler, _ = train(model, schedule(pruner, QUANTIZERS["linear"]))
    assert distiller.sparsity(scheduler.zeros_mask_dict[name].mask) == 0.5
    cell = model.get_submodule("rnn.cells.0.fc_gate_h")
    assert distiller.sparsity(cell.get_parameter("float_weight")) == 0.5


@pytest.mark.parametrize("in_a_copy", [True, False])
@pytest.mark.parametrize("epoch", [0, 2])
@pytest.mark.parametrize("quantizer_first", [True, False])
def test_scales_are_fitted_to_what_a_mask_of_the_same_epoch_leaves(
    quantizer_first, epoch, in_a_copy
):
    torch.manual_seed(0)
    model = Model()
    levels = {"class": "SparsityLevelParameterPruner", "levels": {"encoder.weight": 0.9}}
    codes = {
        "class": "QuantAwareTrainRangeLinearQuantizer",
        "rounding": "codes",
        "learned_scales": True,
        "bits_weights": 2,
    }
    plan = schedule(levels, codes, quantizer_first)
    for policy in plan["policies"]:
        policy["epochs"] = [epoch, epoch + 1]
        if "pruner" in policy:
            policy["pruner"]["args"] = {"use_double_copies": in_a_copy}
    dense = model.encoder.weight.detach().clone()
    scheduler = distiller.dict_config(model, None, plan)
    scheduler.on_epoch_begin(epoch)
    mask = scheduler.zeros_mask_dict["encoder.weight"].mask
    assert mask is not None
    fitted = fit_codes(dense * mask, 2, pruned=True)
    held = model.get_submodule("encoder").get_buffer("code_steps")[:2]
    assert torch.equal(held, fitted.steps)
    assert not torch.equal(held, fit_codes(dense, 2, pruned=True).steps)
    scheduler.on_minibatch_begin(epoch, 0, STEPS)
    scheduler.before_parameter_optimization(epoch, 0, STEPS)
    weight = model.get_submodule("encoder").get_parameter("float_weight")
    assert torch.equal(weight, dense if in_a_copy else dense * mask)


@pytest.mark.parametrize("learned", [True, False])
def test_scales_are_fitted_to_masked_weights_in_epochs_without_the_pruner(learned):
    torch.manual_seed(0)
    model = Model()
    levels = {"class": "SparsityLevelParameterPruner", "levels": {"encoder.weight": 0.9}}
    codes = QUANTIZERS["linear"] | {"bits_weights": 2, "rounding": "codes"}
    plan = schedule(levels, codes | {"learned_scales": learned})
    feedback = {"use_double_copies": True, "mask_on_forward_only": True}
    for policy in plan["policies"]:
        policy["epochs"] = [0] if "pruner" in policy else [1] if learned else [0, 1]
        if "pruner" in policy:
            policy["pruner"]["args"] = feedback
    dense = model.encoder.weight.detach().clone()
    scheduler = distiller.dict_config(model, None, plan)
    for epoch in range(2):
        scheduler.on_epoch_begin(epoch)
        for step in range(STEPS):
            scheduler.on_minibatch_begin(epoch, step, STEPS)
            scheduler.before_parameter_optimization(epoch, step, STEPS)
            scheduler.on_minibatch_end(epoch, step, STEPS)
    mask = scheduler.zeros_mask_dict["encoder.weight"].mask
    assert mask is not None
    held = model.get_submodule("encoder").get_buffer("code_steps")[:2]
    assert torch.equal(held, fit_codes(dense * mask, 2, pruned=True).steps)


@pytest.mark.parametrize("quantizer_first", [True, False])
def test_weights_that_came_back_after_their_pruner_stay_under_a_quantizer(quantizer_first):
    torch.manual_seed(0)
    levels = {"class": "SparsityLevelParameterPruner", "levels": {"encoder.weight": 0.5}}
    found = []
    for more in (0, 2):
        plan = schedule(levels, QUANTIZERS["linear"], quantizer_first)
        for policy in plan["policies"]:
            policy["epochs"] = [0] if "pruner" in policy else list(range(1 + more))
            if "pruner" in policy:
                policy["pruner"]["args"] = {"mask_on_forward_only": True}
        torch.manual_seed(0)
        model = Model()
        train(model, plan, epochs=3)
        found.append(model.get_submodule("encoder").get_parameter("float_weight"))
    assert torch.equal(*found)
    assert distiller.sparsity(found[0]) == 0


PRUNERS = {
    "global": agp("encoder.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0")
    | {"class": "GlobalMagnitudePruner"},
    "rows": agp("rnn.weight_hh_l0", group_type="Rows")
    | {"class": "L1RankedStructureParameterPruner_AGP"},
    "units": agp("rnn.weight_hh_l0", group_type="HiddenUnits")
    | {"class": "L1RankedStructureParameterPruner_AGP"},
    "levels": {"class": "SparsityLevelParameterPruner", "levels": {"rnn.weight_hh_l1": 0.5}},
    "everything": {"class": "MagnitudeParameterPruner", "thresholds": {"*": 0.1}},
}


@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_pruner_sees_the_same_weights_with_a_quantizer_as_without(pruner, kind):
    torch.manual_seed(0)
    model = Model(kind)
    alone = distiller.dict_config(
        model,
        None,
        {
            "pruners": {"p": PRUNERS[pruner]},
            "policies": [{"pruner": {"instance_name": "p"}, "epochs": [0]}],
        },
    )
    alone.on_epoch_begin(0)
    together = distiller.dict_config(
        model,
        None,
        schedule(PRUNERS[pruner], QUANTIZERS["linear"])
        | {
            "policies": [
                {"quantizer": {"instance_name": "q"}, "epochs": [0]},
                {"pruner": {"instance_name": "p"}, "epochs": [0]},
            ]
        },
    )
    together.on_epoch_begin(0)
    for name, masker in alone.zeros_mask_dict.items():
        expected, found = masker.mask, together.zeros_mask_dict[name].mask
        assert (expected is None) == (found is None), name
        if expected is not None and found is not None:
            assert torch.equal(expected, found), name
    assert any(masker.mask is not None for masker in alone.zeros_mask_dict.values())


def test_both_directions_of_a_bidirectional_layer_are_pruned():
    torch.manual_seed(0)
    model = Model(bidirectional=True)
    names = ("rnn.weight_ih_l1", "rnn.weight_hh_l1_reverse")
    _, plain = train(model, schedule(agp(*names), QUANTIZERS["linear"]))
    after = dict(plain.named_parameters())
    assert all(distiller.sparsity(after[name]) >= 0.75 for name in names)
    assert distiller.sparsity(after["rnn.weight_hh_l1"]) < 0.5


def test_the_state_of_a_pruned_and_quantized_training_comes_back():
    torch.manual_seed(0)
    plan = schedule(agp("rnn.weight_ih_l0", "encoder.weight"), QUANTIZERS["linear"])
    scheduler, _ = train(Model(), plan)
    fresh = Model()
    other = distiller.dict_config(fresh, torch.optim.SGD(fresh.parameters(), 0.1), plan)
    other.load_state_dict(scheduler.state_dict())
    other.mask_all_weights()
    weight = fresh.get_submodule("rnn.cells.0.fc_gate_x").get_parameter("float_weight")
    mask = scheduler.zeros_mask_dict["rnn.weight_ih_l0"].mask
    assert torch.equal(weight == 0, ~mask)
