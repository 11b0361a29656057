"""Rows are rows, columns are columns, and a hidden unit goes with all that belongs to it."""

import math

import pytest
import torch
from torch import nn

import lmbench.distiller as distiller
from lmbench.distiller import pruning
from lmbench.distiller.schedules.agp import structures_to_prune


class Model(nn.Module):
    def __init__(self, kind=nn.LSTM, words=17, width=8, layers=2, tied=False, inputs=None):
        super().__init__()
        self.nhid, self.ninp, self.nlayers = width, inputs or width, layers
        self.encoder = nn.Embedding(words, self.ninp)
        self.rnn = kind(self.ninp, width, layers)
        self.decoder = nn.Linear(width, words)
        if tied:
            self.decoder.weight = self.encoder.weight

    def forward(self, x, hidden=None):
        output, hidden = self.rnn(self.encoder(x), hidden)
        return self.decoder(output), hidden


def prune(model, pruner, epochs=(0,)):
    scheduler = distiller.CompressionScheduler(model)
    scheduler.add_policy(distiller.PruningPolicy(pruner), epochs=list(epochs))
    for epoch in epochs:
        scheduler.on_epoch_begin(epoch)
        scheduler.mask_all_weights()
    return scheduler


L1, L2 = pruning.L1RankedStructureParameterPruner, pruning.L2RankedStructureParameterPruner


@pytest.mark.parametrize(
    "kind, dim", [("Rows", 0), ("Cols", 1), ("Channels", 1)], ids=["Rows", "Cols", "Channels"]
)
@pytest.mark.parametrize("build, p", [(L1, 1), (L2, 2)], ids=["L1", "L2"])
def test_ranked_pruners_prune_the_lines_they_name_the_smallest_first(kind, dim, build, p):
    torch.manual_seed(0)
    model = nn.Linear(6, 10)
    norms = model.weight.detach().norm(p=p, dim=1 - dim)
    prune(model, build("r", kind, 0.4, ["weight"]))
    dead = (model.weight == 0).all(dim=1 - dim)
    assert int(dead.sum()) == int(0.4 * len(norms))
    assert norms[dead].max() < norms[~dead].min()
    assert distiller.sparsity_matrix(model.weight, 1 - dim) == 0


@pytest.mark.parametrize("group", [1, 3, 4, 8])
def test_a_larger_share_never_prunes_fewer_lines(group):
    counts = [
        structures_to_prune(7, share / 100, group, round_up)
        for round_up in (False, True)
        for share in range(100)
    ]
    for part in (counts[:100], counts[100:]):
        assert part == sorted(part)
        assert all(count % group == 0 and 0 <= count < 7 for count in part)
    assert structures_to_prune(7, 1.0, group, True) == 7


def test_all_lines_go_only_when_all_are_asked_for():
    for share, left in ((0.99, 1), (1.0, 0)):
        model = nn.Linear(3, 4)
        prune(model, L1("r", "Rows", share, ["weight"], rounding_fn=math.ceil))
        assert int((model.weight != 0).any(dim=1).sum()) == left


def test_the_followers_of_a_leader_lose_the_same_lines():
    model = nn.LSTM(5, 5, 1)
    names = ["weight_hh_l0", "weight_ih_l0"]
    prune(model, L1("r", "Cols", 0.4, names, group_dependency="Leader"))
    dead = [(getattr(model, name) == 0).all(dim=0) for name in names]
    assert torch.equal(*dead)
    assert int(dead[0].sum()) == 2


def test_random_structures_are_the_same_on_every_run_and_grow_with_the_share():
    def dead(share):
        model = nn.Linear(6, 20)
        build = pruning.RandomStructureParameterPruner
        prune(model, build("r", "Rows", share, ["weight"], seed=3))
        return (model.weight == 0).all(dim=1)

    assert torch.equal(dead(0.5), dead(0.5))
    assert (dead(0.5) | dead(0.2)).equal(dead(0.5))
    assert int(dead(0.5).sum()) == 10


@pytest.mark.parametrize(
    "build",
    [pruning.L1RankedStructureParameterPruner_AGP, pruning.L2RankedStructureParameterPruner_AGP],
)
def test_gradual_structures_rise_to_their_target(build):
    model = nn.Linear(8, 20)
    pruner = build("r", 0.1, 0.5, "Rows", ["weight"])
    shares = []
    scheduler = distiller.CompressionScheduler(model)
    scheduler.add_policy(
        distiller.PruningPolicy(pruner), starting_epoch=0, ending_epoch=5, frequency=1
    )
    for epoch in range(5):
        scheduler.on_epoch_begin(epoch)
        scheduler.mask_all_weights()
        shares.append(distiller.sparsity_rows(model.weight, False))
    assert shares == sorted(shares)
    assert shares[0] == pytest.approx(0.1)
    assert shares[-1] == pytest.approx(0.5)


def test_the_global_pruner_ranks_all_tensors_together():
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    with torch.no_grad():
        model.get_parameter("1.weight").mul_(100)
    names = ["0.weight", "1.weight"]
    prune(model, pruning.GlobalMagnitudePruner("g", 0, 0.5, names))
    assert distiller.sparsity(model.get_parameter("0.weight")) > 0.9
    assert sum(int((model.get_parameter(name) == 0).sum()) for name in names) == 100


def test_the_global_pruner_may_look_past_the_scale_of_a_tensor():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 30))
    with torch.no_grad():
        model.get_parameter("1.weight").mul_(100)
    prune(model, pruning.GlobalMagnitudePruner("g", 0, 0.5, ["0.weight", "1.weight"], True))
    assert distiller.sparsity(model.get_parameter("0.weight")) == pytest.approx(0.5, abs=0.05)


UNITS = ["rnn.weight_hh_l0", "rnn.weight_hh_l1"]


def test_a_hidden_unit_goes_from_all_gates_its_column_and_its_readers():
    torch.manual_seed(0)
    model = Model()
    prune(model, L1("u", "HiddenUnits", 0.25, ["rnn.weight_hh_l0"]))
    gates = model.get_parameter("rnn.weight_hh_l0").detach().reshape(4, 8, 8)
    dead = (gates == 0).all(dim=2)
    assert torch.equal(dead, dead[:1].expand(4, -1))
    units = dead[0]
    assert int(units.sum()) == 2
    for reader in ("rnn.weight_hh_l0", "rnn.weight_ih_l1"):
        assert torch.equal((model.get_parameter(reader) == 0).all(dim=0), units)
    assert distiller.sparsity(model.decoder.weight) == 0


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_thinned_model_gives_the_same_logits(kind, tied):
    torch.manual_seed(1)
    model = Model(kind, tied=tied, inputs=None if tied else 5)
    prune(model, L2("u", "HiddenUnits", 0.4, UNITS))
    small = pruning.thin(model)
    assert small.rnn.hidden_size == small.nhid == 5
    assert small.rnn.input_size == 5
    assert (small.decoder.weight is small.encoder.weight) is tied
    assert small.decoder.weight.shape == (17, 5)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    tokens = torch.randint(17, (9, 3))
    for module in (model, small):
        module.eval()
    expected, _ = model(tokens)
    logits, hidden = small(tokens)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    state = hidden[0] if isinstance(hidden, tuple) else hidden
    assert state.shape == (2, 3, 5)


def test_thinning_keeps_what_a_less_pruned_layer_needs():
    torch.manual_seed(2)
    model = Model()
    prune(model, L1("u", "HiddenUnits", 0.5, ["rnn.weight_hh_l0"]))
    prune(model, L1("u", "HiddenUnits", 0.25, ["rnn.weight_hh_l1"]))
    model.rnn.weight_hh_l1.requires_grad_(False)
    small = pruning.thin(model)
    assert small.rnn.hidden_size == 6
    frozen = [name for name, weight in small.named_parameters() if not weight.requires_grad]
    assert frozen == ["rnn.weight_hh_l1"]
    tokens = torch.randint(17, (9, 3))
    torch.testing.assert_close(small(tokens)[0], model(tokens)[0], rtol=0, atol=1e-5)


def test_a_model_without_dead_units_is_thinned_to_itself():
    model = Model()
    small = pruning.thin(model)
    assert small is not model
    for key, value in model.state_dict().items():
        assert torch.equal(value, small.state_dict()[key])


def test_hidden_units_that_nobody_reads_are_refused_with_the_fix():
    model = nn.LSTM(4, 4, 1)
    scheduler = distiller.CompressionScheduler(model)
    policy = distiller.PruningPolicy(L1("u", "HiddenUnits", 0.5, ["weight_hh_l0"]))
    with pytest.raises(distiller.DistillerError, match="name its readers: kwargs"):
        scheduler.add_policy(policy, epochs=[0])


@pytest.mark.parametrize("other", [nn.Linear(8, 3), nn.LSTM(8, 8)], ids=["head", "layer"])
def test_of_two_readers_or_recurrent_modules_none_is_guessed(other):
    model = Model()
    model.other = other
    policy = distiller.PruningPolicy(L1("u", "HiddenUnits", 0.5, ["rnn.weight_hh_l1"]))
    with pytest.raises(distiller.DistillerError, match="name its readers: kwargs"):
        distiller.CompressionScheduler(model).add_policy(policy, epochs=[0])


def test_a_tied_model_with_a_second_head_is_thinned_as_a_whole():
    model = Model(tied=True)
    model.head = nn.Linear(8, 3)
    model.again = nn.Linear(8, 17)
    model.again.weight = model.encoder.weight
    readers = ["head.weight", "decoder.weight", "again.weight"]
    pruner = L1("u", "HiddenUnits", 0.5, UNITS, None, {"consumers": readers})
    prune(model, pruner)
    small = pruning.thin(model, readers)
    assert small.decoder.weight is small.encoder.weight is small.get_parameter("again.weight")
    assert small.get_parameter("head.weight").shape == (3, 4)
    tokens = torch.randint(17, (9, 3))
    torch.testing.assert_close(small(tokens)[0], model(tokens)[0], rtol=0, atol=1e-5)


def test_a_reader_without_a_column_for_each_unit_is_refused():
    scheduler = distiller.CompressionScheduler(Model(width=8, inputs=5))
    pruner = L1("u", "HiddenUnits", 0.5, ["rnn.weight_hh_l0"])
    scheduler.add_policy(distiller.PruningPolicy(pruner), epochs=[0])
    wrong = L1(
        "u", "HiddenUnits", 0.5, ["rnn.weight_hh_l1"], None, {"consumers": ["encoder.weight"]}
    )
    with pytest.raises(distiller.DistillerError, match="no column for each of the 8 units of"):
        scheduler.add_policy(distiller.PruningPolicy(wrong), epochs=[0])


@pytest.mark.parametrize(
    "kind, dependency, weights, parameters",
    [
        ("HiddenUnits", None, ["rnn.weight_hh_l0"], ("rnn.weight_ih_l0", "rnn.weight_ih_l1")),
        ("Rows", "Leader", ["rnn.weight_ih_l0", "rnn.weight_hh_l1"], ("rnn.weight_hh_l1",)),
    ],
    ids=["units", "leader"],
)
def test_a_drawn_share_that_several_weights_have_is_told_of_each(
    kind, dependency, weights, parameters
):
    build = pruning.RandomLevelStructureParameterPruner
    pruner = build("r", kind, (0.1, 0.9), weights, dependency)
    scheduler = prune(Model(width=8), pruner)
    steps = {step.parameter: step.target for step in scheduler.pruning_steps()}
    assert set(parameters) <= set(steps)
    assert len(set(steps.values())) == 1


def test_a_share_that_comes_to_no_structure_takes_the_mask_before_away(monkeypatch):
    torch.manual_seed(0)
    model = nn.Linear(6, 8)
    pruner = pruning.RandomLevelStructureParameterPruner("r", "Rows", (0.0, 0.3), ["weight"])
    maskers = distiller.CompressionScheduler(model).zeros_mask_dict
    for share, rows in ((0.25, 2), (0.1, 0)):
        monkeypatch.setattr(pruner, "fraction_to_prune", lambda *_, share=share: share)
        pruner.set_param_mask(model.weight, "weight", maskers, {})
        mask = maskers["weight"].mask
        assert mask is not None
        assert int((mask == 0).all(1).sum()) == rows


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: L1("r", "Filters", 0.5, ["w"]), "of convolutions only; choose Rows"),
        (lambda: L1("r", "Lines", 0.5, ["w"]), "unknown group_type 'Lines'"),
        (lambda: L1("r", "Blocks", 0.5, ["w"]), r"needs kwargs: \{block_shape"),
        (lambda: L1("r", "Rows", 0.5, []), "weights is empty"),
        (lambda: L1("r", "Rows", 0.5, ["w"], rounding_fn=round), "must be floor or ceil"),
        (lambda: L1("r", "Rows", 0.5, ["w"], "Boss"), "unknown group_dependency 'Boss'"),
        (lambda: pruning.NMSparsityPruner("n", ["w"], 4, 4), "n 4 must be at least 1 and below"),
        (lambda: pruning.SplicingPruner("s", {"w": 1}, 2, 1), "swap them"),
        (
            lambda: pruning.StructureParameterPruner("s", None, {"w": (0.1, "Rows")}, "Min"),
            "unknown threshold_criteria 'Min'",
        ),
        (lambda: pruning.mask_tensor(torch.ones(2), torch.ones(3)), "does not fit"),
    ],
)
def test_wrong_arguments_are_one_line_with_the_fix(build, message):
    with pytest.raises(distiller.DistillerError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_the_block_preset_leaves_what_the_block_runtimes_multiply_faster():
    torch.manual_seed(0)
    model = Model(words=203, width=64, tied=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = distiller.load_preset("small-blocks-80")
    scheduler = distiller.build_scheduler(schedule, model, optimizer)
    for epoch in range(6):
        scheduler.on_epoch_begin(epoch, optimizer)
    scheduler.mask_all_weights()
    for name, share in (("rnn.weight_hh_l0", 0.74), ("encoder.weight", 0.806)):
        weight = model.get_parameter(name)
        rows, columns = weight.shape
        padded = nn.functional.pad(weight, (0, -columns % 8, 0, -rows % 8))
        blocks = padded.unfold(0, 8, 8).unfold(1, 8, 8).flatten(2)
        empty = (blocks == 0).all(2)
        assert float(empty.float().mean()) == pytest.approx(share, abs=0.01)
        assert float((weight == 0).float().mean()) == pytest.approx(share, abs=0.02)


def test_a_random_level_is_drawn_from_its_range_and_the_smallest_structures_go():
    build = pruning.RandomLevelStructureParameterPruner
    dead = []
    for _ in range(2):
        torch.manual_seed(0)
        model = nn.Linear(6, 1000)
        prune(model, build("r", "Rows", sparsity_range=[0.1, 0.5], weights=["weight"]))
        norms = model.weight.detach().abs().sum(dim=1)
        dead.append(norms == 0)
    assert torch.equal(*dead)
    assert 100 <= int(dead[0].sum()) <= 500
    torch.manual_seed(0)
    before = nn.Linear(6, 1000).weight.detach().abs().mean(dim=1)
    assert before[dead[0]].max() <= before[~dead[0]].min()
    drawn = {build("r", "Rows", (0.1, 0.5), ["w"]).fraction_to_prune("w") for _ in range(20)}
    assert len(drawn) > 1
    assert all(0.1 <= share <= 0.5 for share in drawn)
    with pytest.raises(distiller.DistillerError, match="must rise within 0 to 1"):
        build("r", "Rows", (0.5, 0.1), ["w"])


@pytest.mark.parametrize(
    "criteria, rows",
    [
        ("Max", [3.0, 8.0]),
        ("L1", [6.0, 8.0]),
        ("L2", [14**0.5, 8.0]),
        # By the number of structures, as in the original.
        ("Mean_L1", [3.0, 4.0]),
        ("Mean_Abs", [3.0, 4.0]),
        ("Mean_L2", [14**0.5 / 2, 4.0]),
    ],
)
def test_a_group_threshold_gives_the_mask_and_the_map_of_structures(criteria, rows):
    param = torch.tensor([[1.0, -2.0, 3.0], [0.0, 8.0, 0.0]])
    for threshold in (rows[0] - 0.01, rows[0] + 0.01, rows[1] + 0.01):
        mask, binary_map = distiller.group_threshold_mask(param, "Rows", threshold, criteria)
        wanted = torch.tensor([float(size > threshold) for size in rows])
        assert torch.equal(binary_map, wanted)
        assert torch.equal(mask, wanted[:, None].expand(2, 3))
        again, _ = distiller.thresholding.expand_binary_map(param, "Rows", binary_map)
        assert torch.equal(again, mask)


def test_two_pruners_of_hidden_units_narrow_both_layers():
    torch.manual_seed(0)
    model = Model()
    config = {
        "pruners": {
            f"l{layer}": {
                "class": "L1RankedStructureParameterPruner",
                "desired_sparsity": 0.25,
                "group_type": "HiddenUnits",
                "weights": [f"rnn.weight_hh_l{layer}"],
            }
            for layer in (0, 1)
        },
        "policies": [{"pruner": {"instance_name": f"l{n}"}, "epochs": [0]} for n in (0, 1)],
    }
    schedule = distiller.schedule_from_dict(config)
    plan = distiller.plan_for_model(schedule, model)
    scheduler = distiller.build_scheduler(schedule, model)
    scheduler.on_epoch_begin(0)
    scheduler.mask_all_weights()
    for tensor in plan.tensors:
        reached = distiller.sparsity(model.get_parameter(tensor.name))
        assert plan.curves[tensor.name][-1] == pytest.approx(reached), tensor.name
    assert not plan.estimated
    smaller = pruning.thin(model)
    assert smaller.rnn.hidden_size == 6
    ids = torch.arange(10)[:, None]
    torch.testing.assert_close(smaller(ids)[0], model(ids)[0])


def test_a_script_ranks_columns_by_itself() -> None:
    weight = torch.tensor([[1.0, 2.0, 3.0], [4.0, -5.0, 6.0], [7.0, 8.0, -9.0]])
    rank = distiller.pruning.L1RankedStructureParameterPruner.rank_and_prune_channels
    maskers = {"w": distiller.ParameterMasker("w")}
    found = rank(0.5, weight, "w", maskers)
    assert found is not None
    assert found.tolist() == [0.0, 1.0, 1.0]
    mask = maskers["w"].mask
    assert mask is not None
    assert mask.int().tolist() == [[0, 1, 1]] * 3
    assert rank(0.1, weight) is None
    given = torch.tensor([1.0, 0.0, 1.0])
    assert rank(0.5, weight, "w", maskers, binary_map=given) is given
    assert distiller.sparsity_cols(maskers["w"].mask, transposed=False) == pytest.approx(1 / 3)
    ceiling = rank(0.5, weight, rounding_fn=math.ceil, magnitude_fn=distiller.norms.max_norm)
    assert ceiling is not None
    assert ceiling.tolist() == [0.0, 0.0, 1.0]


def test_a_script_ranks_blocks_by_itself() -> None:
    weight = torch.arange(1.0, 17.0).reshape(4, 4)
    found = distiller.pruning.L2RankedStructureParameterPruner.rank_and_prune_blocks(
        0.5, weight, block_shape=[2, 2], magnitude_fn=distiller.norms.l2_norm
    )
    assert found is not None
    assert found.tolist() == [0.0, 0.0, 1.0, 1.0]
    with pytest.raises(distiller.DistillerError, match="needs a param_name"):
        distiller.pruning.L1RankedStructureParameterPruner.rank_and_prune_blocks(
            0.5, weight, zeros_mask_dict={}, block_shape=[2, 2]
        )
