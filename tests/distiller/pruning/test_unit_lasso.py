"""The group lasso of hidden units, and the presets that remove them."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import lmbench.distiller as distiller
from lmbench.config import TrainConfig, validate
from lmbench.distiller.pruning.hidden_units import HiddenUnits
from lmbench.distiller.quantization import QuantAwareTrainRangeLinearQuantizer
from lmbench.model.rnn import RNNModel, build_model

WORDS, WIDTH = 19, 20


def tiny(kind: str = "LSTM", tied: bool = False, width: int = WIDTH) -> RNNModel:
    torch.manual_seed(3)
    emsize = width if tied else 7
    given = {"model": kind, "emsize": emsize, "nhid": width, "tied": tied, "dropout": 0.0}
    return build_model(validate(TrainConfig, given), WORDS)


def weights_of_unit(model: nn.Module, layer: int, unit: int) -> torch.Tensor:
    """Every weight that goes with a unit, once, found one by one."""
    ih, hh = (model.get_parameter(f"rnn.weight_{key}_l{layer}") for key in ("ih", "hh"))
    reader = model.get_parameter("rnn.weight_ih_l1" if layer == 0 else "decoder.weight")
    rows = [row for row in range(len(hh)) if row % WIDTH == unit]
    found = [ih[rows].flatten(), hh[rows].flatten(), reader[:, unit]]
    found += [hh[row, unit][None] for row in range(len(hh)) if row not in rows]
    return torch.cat(found)


@given(
    kind=st.sampled_from(["LSTM", "GRU", "RNN_TANH"]),
    tied=st.booleans(),
    layer=st.integers(0, 1),
    strength=st.floats(0.0, 2.0),
)
def test_the_term_is_the_sum_of_the_norms_of_all_that_goes_with_a_unit(kind, tied, layer, strength):
    model = tiny(kind, tied)
    name = f"rnn.weight_hh_l{layer}"
    lasso = distiller.GroupLassoRegularizer("g", model, {name: [strength, "HiddenUnits"]})
    masks = distiller.create_model_masks_dict(model)
    term = lasso.loss(model.get_parameter(name), name, torch.zeros(()), masks)
    wanted = sum(weights_of_unit(model, layer, unit).norm() for unit in range(WIDTH))
    torch.testing.assert_close(term, strength * wanted)


def test_a_unit_at_zero_has_a_finite_gradient():
    model = tiny(tied=True)
    for param in model.parameters():
        nn.init.zeros_(param)
    name = "rnn.weight_hh_l1"
    lasso = distiller.GroupLassoRegularizer("g", model, {name: [1.0, "HiddenUnits"]})
    masks = distiller.create_model_masks_dict(model)
    lasso.loss(model.get_parameter(name), name, torch.zeros(()), masks).backward()
    for gradient in (model.get_parameter(name).grad, model.encoder.weight.grad):
        assert gradient is not None
        assert not gradient.any()


def schedule(**changes):
    return {
        "regularizers": {
            "g": {
                "class": "GroupLassoRegularizer",
                "reg_regims": {"rnn.weight_hh_l0": [0.1, "HiddenUnits"]},
                **changes,
            }
        },
        "policies": [{"regularizer": {"instance_name": "g"}, "epochs": [0]}],
    }


def test_what_descends_along_the_term_alone_makes_the_units_of_its_layer_small():
    model = tiny()
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    scheduler = distiller.dict_config(model, optimizer, schedule())
    units = HiddenUnits(["rnn.weight_hh_l0"])
    units.bind(model)
    (layer,) = units.layers
    sizes = [units.group_norms(layer, dict(model.named_parameters())).detach()]
    scheduler.on_epoch_begin(0, optimizer)
    for batch in range(5):
        nothing = sum(param.sum() * 0.0 for param in model.parameters())
        optimizer.zero_grad()
        scheduler.before_backward_pass(0, batch, 5, nothing, optimizer).backward()
        optimizer.step()
        scheduler.on_minibatch_end(0, batch, 5, optimizer)
        sizes.append(units.group_norms(layer, dict(model.named_parameters())).detach())
    for larger, smaller in itertools.pairwise(sizes):
        assert bool((smaller < larger).all())
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == units.affected


def pruner(**changes):
    return {
        "pruners": {
            "p": {
                "class": "L2RankedStructureParameterPruner",
                "group_type": "HiddenUnits",
                "desired_sparsity": 0.25,
                "weights": ["rnn.weight_hh_l0", "rnn.weight_hh_l1"],
                **changes,
            }
        },
        "policies": [{"pruner": {"instance_name": "p"}, "epochs": [0]}],
    }


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("rank_by", ["rows", "group"])
def test_the_units_that_go_are_the_smallest_of_what_they_are_ranked_by(rank_by, tied):
    model = tiny(tied=tied)
    with torch.no_grad():
        # Of half of the units of each layer what reads them is large, of the others the rows.
        for layer, name in enumerate(("rnn.weight_ih_l1", "decoder.weight")):
            model.get_parameter(name)[:, : WIDTH // 2] *= 20
            hh = model.get_parameter(f"rnn.weight_hh_l{layer}")
            hh.view(4, WIDTH, WIDTH)[:, WIDTH // 2 :] *= 3
    expected = {}
    for layer in (0, 1):
        weights = (model.get_parameter(f"rnn.weight_{key}_l{layer}") for key in ("ih", "hh"))
        rows = torch.cat([w.detach().view(4, WIDTH, -1) for w in weights], 2).square().sum((0, 2))
        group = torch.stack([weights_of_unit(model, layer, u).norm() for u in range(WIDTH)])
        norms = rows if rank_by == "rows" else group
        expected[layer] = sorted(norms.argsort()[: WIDTH // 4].tolist())
    scheduler = distiller.dict_config(model, None, pruner(kwargs={"rank_by": rank_by}))
    scheduler.on_epoch_begin(0)
    scheduler.mask_all_weights()
    for layer in (0, 1):
        hh = model.get_parameter(f"rnn.weight_hh_l{layer}")
        assert (hh == 0).all(0).nonzero().flatten().tolist() == expected[layer]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"kwargs": {"rank_by": "columns"}}, "rank_by: .*'rows' or 'group'"),
        (
            {"kwargs": {"rank_by": "group"}, "group_type": "Rows"},
            "rank_by is of HiddenUnits, and not of Rows",
        ),
    ],
)
def test_a_wrong_ranking_is_one_line_with_the_fix(changes, message):
    with pytest.raises(distiller.ScheduleError, match=message) as caught:
        distiller.dict_config(tiny(), None, pruner(**changes))
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"threshold_criteria": "L2"}, "threshold_criteria is of rows and columns; leave it out"),
        (
            {"reg_regims": {"encoder.weight": [0.1, "HiddenUnits"]}},
            "'encoder.weight' is not a recurrent weight; HiddenUnits takes names such",
        ),
        ({"class": "GroupVarianceRegularizer"}, "reg_regims: .*'Rows', 'Cols'"),
        ({"reg_regims": {"rnn.weight_hh_l7": [0.1, "HiddenUnits"]}}, "is not a parameter of"),
    ],
)
def test_wrong_schedules_are_one_line_with_the_fix(changes, message):
    model = tiny()
    with pytest.raises(distiller.ScheduleError, match=message) as caught:
        distiller.dict_config(model, None, schedule(**changes))
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    "model, regimes, criteria, message",
    [
        (tiny(), {"rnn.weight_hh_l0": [0.1, "HiddenUnits"]}, "L2", "let a pruner of hidden units"),
        (None, {"rnn.weight_hh_l0": [0.1, "HiddenUnits"]}, None, "found in a model; give it"),
        (tiny(), {"rnn.weight_hh_l9": [0.1, "HiddenUnits"]}, None, "no plain recurrent layer"),
        (
            tiny(),
            {f"rnn.weight_{kind}_l0": [0.1, "HiddenUnits"] for kind in ("hh", "ih")},
            None,
            "'rnn.weight_hh_l0' and 'rnn.weight_ih_l0' are weights of one layer",
        ),
    ],
)
def test_wrong_regularizers_of_a_script_are_refused(model, regimes, criteria, message):
    with pytest.raises(distiller.DistillerError, match=message):
        distiller.GroupLassoRegularizer("g", model, regimes, criteria)


def trained_under(preset: str, steps: int = 12) -> tuple[RNNModel, torch.Tensor]:
    """A tiny tied model after the epochs of a preset, and words for it."""
    model = tiny(tied=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = distiller.build_scheduler(distiller.load_preset(preset), model, optimizer)
    words = torch.randint(WORDS, (steps, 8, 4), generator=torch.Generator().manual_seed(5))
    for epoch in range(6):
        scheduler.on_epoch_begin(epoch, optimizer)
        for batch, window in enumerate(words):
            scheduler.on_minibatch_begin(epoch, batch, steps, optimizer)
            logits, _ = model(window[:-1], model.init_hidden(4))
            loss = nn.functional.cross_entropy(logits.reshape(-1, WORDS), window[1:].reshape(-1))
            loss = scheduler.before_backward_pass(epoch, batch, steps, loss, optimizer)
            optimizer.zero_grad()
            loss.backward()
            scheduler.before_parameter_optimization(epoch, batch, steps, optimizer)
            optimizer.step()
            scheduler.on_minibatch_end(epoch, batch, steps, optimizer)
        scheduler.on_epoch_end(epoch, optimizer)
    return model, words[0]


def test_the_preset_removes_units_and_the_smaller_model_computes_the_same():
    model, words = trained_under("small-units")
    small = distiller.thin(model)
    assert (small.nhid, small.ninp) == (14, 14)
    assert small.encoder.weight is small.decoder.weight
    assert small.encoder.weight.shape == (WORDS, 14)
    model.eval()
    small.eval()
    wanted, _ = model(words, model.init_hidden(4))
    found, _ = small(words, small.init_hidden(4))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert not torch.allclose(wanted, wanted[:1].expand_as(wanted))


def test_the_term_is_the_same_inside_a_quantizer():
    model = tiny(tied=True)
    lasso = distiller.GroupLassoRegularizer("g", model, {"rnn.weight_hh_l1": [1.0, "HiddenUnits"]})
    masks = distiller.create_model_masks_dict(model)
    before = lasso.loss(torch.empty(0), "rnn.weight_hh_l1", torch.zeros(()), masks)
    QuantAwareTrainRangeLinearQuantizer(model, bits_weights=8).prepare_model()
    after = lasso.loss(torch.empty(0), "rnn.weight_hh_l1", torch.zeros(()), masks)
    torch.testing.assert_close(after, before)
    after.backward()
    gradient = model.encoder.get_parameter("float_weight").grad
    assert gradient is not None
    assert gradient.any()


def test_a_leader_of_another_width_is_one_line_with_the_fix():
    weights = ["rnn.weight_ih_l0", "rnn.weight_hh_l0"]
    given = {"group_type": "Cols", "weights": weights, "group_dependency": "Leader"}
    with pytest.raises(distiller.ScheduleError, match=r"_hh_l0' has not as many Cols as 'rnn.*ih"):
        distiller.dict_config(tiny(), None, pruner(**given))
    scheduler = distiller.dict_config(tiny(tied=True), None, pruner(**given))
    scheduler.on_epoch_begin(0)
