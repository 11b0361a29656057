"""What scripts and notebooks of the original call around a training: helpers, checkpoints."""

import argparse
import importlib
from collections import OrderedDict, namedtuple

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

import lmbench.distiller as distiller
from lmbench.distiller import apputils


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Embedding(9, 4)
        self.rnn = nn.LSTM(4, 4)
        self.decoder = nn.Linear(4, 9)
        self.decoder.weight = self.encoder.weight


def test_yaml_is_read_in_its_order_and_never_runs_code(tmp_path):
    text = "b: 1\na: {d: 2, c: [3, {f: 4, e: 5}]}\n"
    loaded = distiller.utils.yaml_ordered_load(text)
    assert type(loaded) is OrderedDict
    assert list(loaded) == ["b", "a"]
    assert type(loaded["a"]["c"][1]) is OrderedDict
    distiller.utils.yaml_ordered_save(tmp_path / "o.yaml", loaded)
    assert distiller.utils.yaml_ordered_load((tmp_path / "o.yaml").read_text()) == loaded
    with pytest.raises(importlib.import_module("yaml").YAMLError):
        distiller.utils.yaml_ordered_load("x: !!python/object/apply:os.getcwd []")


def test_modules_get_their_full_names_and_are_found_by_them():
    model = Tied()
    distiller.utils.assign_layer_fq_names(model)
    assert model.rnn.distiller_name == "rnn"
    assert distiller.utils.find_module_by_fq_name(model, "decoder") is model.decoder
    assert distiller.utils.find_module_by_fq_name(model, "other") is None


def test_a_copy_without_data_parallel_has_the_plain_names():
    layer = nn.DataParallel(nn.Linear(2, 2))
    model = nn.Sequential(layer)
    assert distiller.utils.denormalize_module_name(model, "0") == "0"
    copy = distiller.make_non_parallel_copy(model)
    assert set(copy.state_dict()) == {"0.weight", "0.bias"}
    twice = distiller.make_non_parallel_copy(nn.Sequential(layer, layer))
    assert type(twice[0]) is type(twice[1]) is nn.Linear
    assert set(model.state_dict()) == {"0.module.weight", "0.module.bias"}


def test_small_helpers_do_what_their_names_say():
    pair = namedtuple("pair", "a b")
    nested = {"x": [torch.zeros(1), (torch.ones(2), 3)], "y": pair(torch.ones(1), 2)}
    moved = distiller.convert_tensors_recursively_to(nested, torch.float64)
    assert moved["x"][1][0].dtype == torch.float64
    assert moved["x"][1][1] == 3
    assert moved["y"].a.dtype == torch.float64
    assert distiller.filter_kwargs({"a": 1, "b": 2}, lambda a: a) == ({"a": 1}, {"b": 2})
    assert distiller.param_name_2_module_name("rnn.weight_ih_l0") == "rnn"
    assert distiller.is_scalar(1.5)
    assert distiller.is_scalar(torch.tensor(1))
    assert not distiller.is_scalar(torch.ones(1))
    model = Tied()
    distiller.model_setattr(model, "rnn.extra", torch.ones(1), register=True)
    assert "rnn.extra" in model.state_dict()
    named = distiller.MutableNamedTuple({"a": 1})
    named.a = 2
    assert named == {"a": 2}
    with pytest.raises(AttributeError):
        named.b = 1
    check = distiller.float_range_argparse_checker(exc_min=True)
    assert check("1.0") == 1.0
    with pytest.raises(argparse.ArgumentTypeError, match=r"must be in \(0.0, 1.0\]"):
        check("0")


def test_the_sizes_of_a_model_count_ties_once():
    model = Tied()
    with torch.no_grad():
        model.encoder.weight[0] = 0
    sparsity, total, nonzero = distiller.model_params_stats(model)
    assert (total, nonzero) == (36 + 128, 32 + 128)
    assert sparsity == pytest.approx(100 * 4 / 164)
    assert distiller.model_sparsity(model) == sparsity
    assert distiller.model_params_size(model, param_dims=[1], param_types=["bias"]) == 41
    assert distiller.non_zero_channels(torch.tensor([[0.0, 1.0], [0.0, 0.0]])).tolist() == [1]


def test_the_flags_of_distillation_have_the_originals_names_and_defaults():
    parser = argparse.ArgumentParser()
    distiller.knowledge_distillation.add_distillation_args(parser, ["lstm"], True)
    args = parser.parse_args(["--kd-teacher", "lstm", "--kd-temp", "2", "--kd-distill-wt", "0.7"])
    assert (args.kd_teacher, args.kd_temp, args.kd_pretrained) == ("lstm", 2.0, False)
    assert (args.kd_distill_wt, args.kd_student_wt, args.kd_teacher_wt) == (0.7, 0.5, 0.0)
    assert args.kd_start_epoch == 0
    with pytest.raises(SystemExit):
        parser.parse_args(["--kd-teacher", "other"])


def trained():
    torch.manual_seed(0)
    model = Tied()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, betas=(0.8, 0.9))
    scheduler = distiller.CompressionScheduler(model)
    pruner = distiller.pruning.AutomatedGradualPruner("p", 0, 0.5, ["rnn.weight_hh_l0"])
    scheduler.add_policy(distiller.PruningPolicy(pruner), epochs=[0])
    scheduler.on_epoch_begin(0)
    scheduler.mask_all_weights()
    model.decoder(model.rnn(model.encoder(torch.arange(9)[:, None]))[0]).sum().backward()
    optimizer.step()
    scheduler.on_minibatch_end(0, 0, 1)
    return model, optimizer, scheduler


def test_a_checkpoint_brings_weights_masks_and_optimizer_back(tmp_path):
    model, optimizer, scheduler = trained()
    apputils.save_checkpoint(
        4, "lstm", model, optimizer, scheduler, {"best": 1.5}, True, name="run", dir=tmp_path
    )
    assert {p.name for p in tmp_path.iterdir()} == {"run_checkpoint.pth.tar", "run_best.pth.tar"}
    for name in ("run_checkpoint.pth.tar", "run_best.pth.tar"):
        other, masks, made, epoch = apputils.load_checkpoint(Tied(), tmp_path / name)
        assert epoch == 5
        assert other.decoder.weight is other.encoder.weight
        assert all(torch.equal(other.state_dict()[k], v) for k, v in model.state_dict().items())
        key = "rnn.weight_hh_l0"
        assert torch.equal(masks.zeros_mask_dict[key].mask, scheduler.zeros_mask_dict[key].mask)
        assert type(made) is torch.optim.Adam
        assert made.param_groups[0]["lr"] == 0.01
        assert list(made.param_groups[0]["betas"]) == [0.8, 0.9]
        before, after = optimizer.state_dict()["state"], made.state_dict()["state"]
        assert before.keys() == after.keys()
        assert all(torch.equal(before[i]["exp_avg"], after[i]["exp_avg"]) for i in before)
    lean = apputils.load_lean_checkpoint(Tied(), tmp_path / "run_best.pth.tar")
    assert torch.equal(lean.encoder.weight, model.encoder.weight)


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path, monkeypatch):
    path = apputils.save_checkpoint(0, "x", nn.Linear(2, 2), dir=tmp_path)
    before = path.read_bytes()

    def full(tensors, target, metadata):
        target.write_bytes(b"a part")
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("lmbench.distiller.checkpoint.save_file", full)
    with pytest.raises(distiller.DistillerError, match=r"checkpoint.pth.tar cannot be .* No space"):
        apputils.save_checkpoint(1, "x", nn.Linear(2, 2), dir=tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_each_pruner_pruned_stays_after_a_checkpoint(tmp_path):
    def scheduled(model, scheduler=None):
        weights = ["rnn.weight_hh_l0"]
        rows = {"class": "L1RankedStructureParameterPruner", "group_type": "Rows",
                "desired_sparsity": 0.5, "weights": weights}  # fmt: skip
        levels = {"class": "SparsityLevelParameterPruner", "levels": {weights[0]: 0.2}}
        policies = [
            {"pruner": {"instance_name": "rows"}, "epochs": [0]},
            {"pruner": {"instance_name": "single"}, "epochs": [0, 1]},
        ]
        config = {"pruners": {"rows": rows, "single": levels}, "policies": policies}
        return distiller.dict_config(model, None, config, scheduler=scheduler)

    model = Tied()
    scheduler = scheduled(model)
    scheduler.on_epoch_begin(0)
    scheduler.mask_all_weights()
    apputils.save_checkpoint(0, "lstm", model, scheduler=scheduler, dir=tmp_path)
    model, scheduler, _, epoch = apputils.load_checkpoint(Tied(), tmp_path / "checkpoint.pth.tar")
    scheduler = scheduled(model, scheduler)
    scheduler.on_epoch_begin(epoch)
    scheduler.mask_all_weights()
    assert distiller.sparsity(model.rnn.weight_hh_l0) >= 0.5


def test_an_optimizer_of_some_of_the_parameters_is_left_to_be_made_by_hand(tmp_path):
    model = Tied()
    optimizer = torch.optim.SGD(model.rnn.parameters(), lr=0.1)
    apputils.save_checkpoint(0, "lstm", model, optimizer, dir=tmp_path)
    with pytest.raises(distiller.DistillerError, match=r"of the model's \d+ parameters; make it"):
        apputils.load_checkpoint(Tied(), tmp_path / "checkpoint.pth.tar")
    assert apputils.load_lean_checkpoint(Tied(), tmp_path / "checkpoint.pth.tar")


def test_a_pickled_checkpoint_is_refused_unread(tmp_path):
    path = tmp_path / "checkpoint.pth.tar"
    torch.save({"epoch": 1, "state_dict": Tied().state_dict()}, path)
    with pytest.raises(distiller.DistillerError, match="is not a checkpoint of lmbench"):
        apputils.load_checkpoint(Tied(), path)
    with pytest.raises(FileNotFoundError, match="no checkpoint is there"):
        apputils.load_checkpoint(Tied(), tmp_path / "none.pth.tar")
    with pytest.raises(distiller.DistillerError, match="keep tensors, numbers, text"):
        apputils.save_checkpoint(0, "x", Tied(), extras={"x": object()}, dir=tmp_path)
    apputils.save_checkpoint(0, "x", nn.Linear(4, 9), dir=tmp_path)
    with pytest.raises(distiller.DistillerError, match="is not of this model"):
        apputils.load_checkpoint(nn.Linear(3, 9), path, strict=True)


class Wrapped(nn.Module):
    """Has a name with ``module`` in it, which is not `nn.DataParallel`'s."""

    def __init__(self):
        super().__init__()
        self.rnn_module = nn.Linear(4, 4)


@pytest.mark.parametrize(
    "made, loaded",
    [
        (nn.DataParallel, nn.Module.cpu),
        (nn.DataParallel, nn.DataParallel),
        (nn.Module.cpu, nn.Module.cpu),
    ],
    ids=["wrapped for plain", "wrapped", "plain"],
)
def test_weights_masks_and_parts_come_back_by_the_names_that_the_model_has(tmp_path, made, loaded):
    model = made(Wrapped())
    scheduler = distiller.CompressionScheduler(model)
    (name,) = [name for name, p in model.named_parameters() if p.dim() > 1]
    masker = scheduler.zeros_mask_dict[name]
    masker.mask = torch.rand(4, 4) > 0.5
    masker.parts = {"a": masker.mask, "b": torch.ones(4, 4, dtype=torch.bool)}
    apputils.save_checkpoint(0, "x", model, scheduler=scheduler, dir=tmp_path)
    path = tmp_path / "checkpoint.pth.tar"
    again, restored, _, _ = apputils.load_checkpoint(loaded(Wrapped()), path)
    assert all(map(torch.equal, again.parameters(), model.parameters()))
    if made is nn.DataParallel and loaded is not made:
        restored.load_state_dict(scheduler.state_dict(), normalize_dataparallel_keys=True)
    (found,) = [its for its in restored.zeros_mask_dict.values() if its.mask is not None]
    assert torch.equal(found.mask, masker.mask)
    assert found.parts.keys() == {"a", "b"}


def test_a_checkpoint_without_what_the_model_needs_is_refused_before_anything_is_loaded(tmp_path):
    apputils.save_checkpoint(0, "x", nn.Linear(4, 9, bias=False), dir=tmp_path)
    model = nn.Linear(4, 9)
    before = model.weight.detach().clone()
    with pytest.raises(distiller.DistillerError, match="is not of this model: it has no bias"):
        apputils.load_checkpoint(model, tmp_path / "checkpoint.pth.tar")
    assert torch.equal(model.weight, before)


def test_norms_of_rows_and_columns_and_of_groups_of_them():
    norms = distiller.norms
    param = torch.tensor([[1.0, -2.0], [3.0, 4.0], [0.0, 0.0], [-6.0, 8.0]])
    assert norms.rows_lp_norm(param).tolist() == [3, 7, 0, 14]
    assert norms.cols_norm(param, norms.l1_norm).tolist() == [10, 14]
    assert norms.rows_norm(param, norms.max_norm).tolist() == [2, 4, 0, 8]
    assert norms.rows_lp_norm(param, 1, group_len=2).tolist() == [10, 14]
    assert norms.rows_lp_norm(param, 1, length_normalized=True).tolist() == [1.5, 3.5, 0, 7]
    assert norms.rows_norm(param, norms.l2_norm)[3].item() == 10
    assert str(norms.l2_norm) == "L2"
    assert norms.num_structs_to_prune(10, 4, 0.5, int) == 4
    smallest, _ = norms.k_smallest_elems(torch.tensor([3.0, 1.0, 2.0]), 2, 0)
    assert smallest.tolist() == [1, 2]
