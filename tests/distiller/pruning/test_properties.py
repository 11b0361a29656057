"""What holds of pruning whatever the tensor, the level and the training."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ptq_world import LanguageModel, tie
from torch import nn

import lmbench.distiller as distiller
from lmbench.distiller import pruning
from lmbench.distiller.pruning.criteria import keep_largest
from lmbench.distiller.pruning.masks import create_model_masks_dict
from lmbench.distiller.schedules.agp import structures_to_prune

LEVELS = st.floats(0, 1)
# Few distinct values, so that most magnitudes are equal.
TIED = st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=60)
ANY = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=60)


@given(st.one_of(TIED, ANY), LEVELS)
def test_a_level_prunes_its_exact_count_and_nothing_larger_than_it_keeps(values, level):
    weight = torch.tensor(values)
    mask = distiller.create_mask_level_criterion(weight, level).bool()
    assert int((~mask).sum()) == int(level * weight.numel())
    if mask.any() and not mask.all():
        assert weight.abs()[~mask].max() <= weight.abs()[mask].min()


@given(TIED, st.integers(0, 60), st.integers(0, 60))
def test_a_growing_count_never_brings_a_pruned_weight_back(values, first, second):
    weight = torch.tensor(values)
    few, many = sorted((min(first, len(values)), min(second, len(values))))
    before = keep_largest(weight.abs(), few)
    after = keep_largest((weight * before).abs(), many, ~before)
    assert not (after & ~before).any()
    assert int((~after).sum()) == many


@settings(max_examples=25)
@given(
    st.floats(0, 0.9),
    st.floats(0, 0.99),
    st.integers(0, 3),
    st.integers(2, 8),
    st.integers(1, 3),
    st.integers(0, 2**16),
)
def test_masks_under_agp_only_grow_and_their_counts_are_exact(
    low, high, start, length, frequency, seed
):
    low, high = sorted((low, high))
    frequency = min(frequency, length - 1)
    torch.manual_seed(seed)
    model = nn.Linear(6, 5)
    scheduler = distiller.CompressionScheduler(model)
    pruner = pruning.AutomatedGradualPruner("agp", low, high, ["weight"])
    span = (start, start + length, frequency)
    scheduler.add_policy(
        distiller.PruningPolicy(pruner),
        starting_epoch=span[0],
        ending_epoch=span[1],
        frequency=span[2],
    )
    kept = torch.ones_like(model.weight, dtype=torch.bool)
    for epoch in range(start + length + 2):
        scheduler.on_epoch_begin(epoch)
        mask = scheduler.zeros_mask_dict["weight"].mask
        if mask is not None:
            assert not (mask & ~kept).any()
            kept = mask
        if epoch in range(*span):
            target = distiller.AgpPruningRate(low, high).step(epoch, *span)
            assert mask is not None
            assert int((~mask).sum()) == max(0, int(target * 30))
        for batch in range(2):
            scheduler.on_minibatch_begin(epoch, batch, 2)
            with torch.no_grad():
                model.weight.add_(torch.randn_like(model.weight))
            scheduler.on_minibatch_end(epoch, batch, 2)
        scheduler.on_epoch_end(epoch)
    assert int((model.weight == 0).sum()) == int(high * 30)


@settings(max_examples=25)
@given(st.floats(0, 2), LEVELS, st.booleans(), st.integers(0, 2**16))
def test_rows_of_large_biases_keep_more_of_their_weights(exponent, level, at_once, seed):
    torch.manual_seed(seed)
    model = tie(LanguageModel(12, 6, 1))
    bias = nn.init.normal_(model.get_parameter("decoder.bias"))
    names, more = ["encoder.weight", "rnn.weight_hh_l0"], {"bias_exponent": exponent}
    levels = dict.fromkeys(names, float(level))
    scheduler = distiller.CompressionScheduler(model)
    pruner = (
        pruning.SparsityLevelParameterPruner("level", levels, **more)
        if at_once
        else pruning.AutomatedGradualPruner("agp", level, level, names, **more)
    )
    scheduler.add_policy(distiller.PruningPolicy(pruner), epochs=[0])
    scheduler.on_epoch_begin(0)
    factors = {names[0]: torch.exp(exponent * bias)[:, None], names[1]: torch.ones(())}
    for name, factor in factors.items():
        scores = (dict(model.named_parameters())[name] * factor).detach()
        mask = scheduler.zeros_mask_dict[name].kept(scores)
        assert int((~mask).sum()) == int(level * mask.numel())
        if mask.any() and not mask.all():
            assert scores.abs()[~mask].max() <= scores.abs()[mask].min() * (1 + 1e-5)


@pytest.mark.parametrize("arguments", [{}, {"mask_gradients": True}])
def test_a_masked_weight_stays_zero_through_momentum_and_weight_decay(arguments):
    torch.manual_seed(0)
    model = nn.Linear(20, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, weight_decay=0.01)
    scheduler = distiller.CompressionScheduler(model)
    pruner = pruning.AutomatedGradualPruner("agp", 0.0, 0.7, ["weight"])
    policy = distiller.PruningPolicy(pruner, arguments)
    scheduler.add_policy(policy, starting_epoch=2, ending_epoch=5, frequency=1)
    for epoch in range(8):
        scheduler.on_epoch_begin(epoch, optimizer)
        for batch in range(3):
            scheduler.on_minibatch_begin(epoch, batch, 3, optimizer)
            loss = model(torch.randn(4, 20)).square().sum()
            loss = scheduler.before_backward_pass(epoch, batch, 3, loss, optimizer)
            optimizer.zero_grad()
            loss.backward()
            scheduler.before_parameter_optimization(epoch, batch, 3, optimizer)
            optimizer.step()
            scheduler.on_minibatch_end(epoch, batch, 3, optimizer)
            mask = scheduler.zeros_mask_dict["weight"].mask
            if mask is not None:
                assert (model.weight[~mask] == 0).all()
        scheduler.on_epoch_end(epoch, optimizer)
    assert distiller.sparsity(model.weight) == 0.7


def test_a_mask_of_ones_costs_no_product_until_it_prunes():
    model = nn.Linear(5, 4)
    masker = create_model_masks_dict(model)["weight"]
    weight = model.weight
    before = weight._version
    masker.mask = torch.ones_like(weight)
    masker.apply_mask(weight)
    assert weight._version == before
    masker.mask = torch.ones_like(weight)
    masker.mask[0] = False
    masker.apply_mask(weight)
    assert torch.equal(weight == 0, ~masker.mask)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), LEVELS)
def test_blocks_of_any_size_are_pruned_whole_and_in_the_exact_number(
    rows, columns, height, width, level
):
    torch.manual_seed(rows * 100 + columns)
    weight = torch.randn(rows, columns)
    structures = pruning.Structures("Blocks", (height, width))
    norms = structures.norms(weight, "L2")
    count = structures_to_prune(norms.numel(), level)
    mask = structures.expand(keep_largest(norms, count), weight)
    dead = 0
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            block = mask[top : top + height, left : left + width]
            assert block.all() or not block.any()
            dead += not block.any()
    assert dead == count


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3))
def test_n_of_every_m_weights_stay_and_they_are_the_largest(columns, rows, n, extra):
    m = n + extra
    torch.manual_seed(columns)
    weight = torch.randn(rows, columns)
    mask = pruning.NMSparsityPruner("nm", ["w"], n, m).create_mask(weight)
    for row, kept in zip(weight.abs(), mask, strict=True):
        for start in range(0, columns, m):
            group, alive = row[start : start + m], kept[start : start + m]
            assert int(alive.sum()) == min(n, len(group))
            if not alive.all():
                assert group[~alive].max() <= group[alive].min()


LEAVES = [st.none(), st.booleans(), st.integers(), st.text()]
MARKED = st.sampled_from(["tensor:x", "text:", "text:tensor:x"])


@given(
    st.recursive(
        st.one_of(*LEAVES, MARKED),
        lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
        max_leaves=8,
    )
)
def test_a_state_comes_back_from_its_tensors_and_values(value):
    state = {
        "a": value,
        "t": {"x": torch.arange(3), "y": [torch.ones(2), None]},
        "t/x": torch.arange(5),
    }
    tensors, values = distiller.split_state(state)
    back = distiller.join_state(tensors, values)
    assert back["a"] == value
    assert torch.equal(back["t"]["x"], torch.arange(3))
    assert torch.equal(back["t/x"], torch.arange(5))
    assert torch.equal(back["t"]["y"][0], torch.ones(2))
