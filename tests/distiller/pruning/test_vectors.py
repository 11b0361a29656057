"""Our pruning against what the original answered; where it is wrong, against what is right."""

import hashlib
import json

import numpy as np
import pytest
import torch
from places import VECTORS
from ptq_world import tie, tiny_weights
from torch import nn

import lmbench.distiller as distiller
from lmbench.distiller import pruning
from lmbench.distiller.pruning.masks import MaskDict, ParameterMasker

AGP = json.loads((VECTORS / "agp_schedule.json").read_text())
MASKS = json.loads((VECTORS / "masks.json").read_text())
ARRAYS = np.load(VECTORS / "masks.npz")
SCHEDULER = json.loads((VECTORS / "scheduler.json").read_text())
TABLE = json.loads((VECTORS / "sparsity_table.json").read_text())
TINY = np.load(VECTORS / "tiny_weights.npz")

# These hold equal magnitudes, of which the original prunes all or none.
TIED_INPUTS = {"B_ties", "F_ones", "C_half_zero"}


def cases(*algorithms):
    return [
        pytest.param(case, id=f"{case['algo']}-{number}")
        for number, case in enumerate(MASKS["cases"])
        if case["algo"] in algorithms
    ]


def tensor(name):
    return torch.from_numpy(ARRAYS[f"in/{name}"])


def expected_mask(case):
    return torch.from_numpy(ARRAYS[case["mask"]]).bool()


def mask_by(pruner, name, weight, **meta):
    maskers = MaskDict({name: ParameterMasker(name)})
    module = nn.Module()
    module.register_parameter(name, nn.Parameter(weight.clone()))
    meta = {"model": module, "starting_epoch": 0, "current_epoch": 0, "frequency": 1, **meta}
    meta.setdefault("ending_epoch", 1)
    meta["scheduled_epochs"] = list(
        range(meta["starting_epoch"], meta["ending_epoch"], meta["frequency"])
    )
    pruner.bind(module)
    pruner.prepare(module, maskers, meta)
    pruner.set_param_mask(weight, name, maskers, meta)
    return maskers[name].mask


def same(mask: torch.Tensor | None, expected: torch.Tensor) -> bool:
    return mask is not None and torch.equal(mask, expected)


def assert_exact_level(mask, weight, level):
    assert int((~mask).sum()) == int(level * weight.numel())
    kept, pruned = weight.abs()[mask], weight.abs()[~mask]
    if kept.numel() and pruned.numel():
        assert pruned.max() <= kept.min()


@pytest.mark.parametrize("case", AGP["cases"])
def test_agp_targets_are_those_of_the_original(case):
    def target():
        rate = distiller.AgpPruningRate(case["initial"], case["final"])
        return rate.step(
            case["current_epoch"], case["starting_epoch"], case["ending_epoch"], case["frequency"]
        )

    if case["target"] is None:
        with pytest.raises(ValueError, match=r"."):
            target()
    else:
        assert target() == pytest.approx(case["target"], abs=1e-12)


@pytest.mark.parametrize("case", AGP["schedules"])
def test_the_published_schedules_prune_at_the_epochs_and_targets_of_the_original(case):
    rate = distiller.AgpPruningRate(case["initial"], case["final"])
    span = (case["starting_epoch"], case["ending_epoch"], case["frequency"])
    epochs = list(range(*span))
    assert epochs == case["epochs_run_by_scheduler"]
    targets = [rate.step(epoch, *span) for epoch in epochs]
    assert targets == pytest.approx(case["targets"], abs=1e-12)


@pytest.mark.parametrize("case", AGP["add_policy"])
def test_policies_are_accepted_for_the_ranges_that_the_original_accepts(case):
    scheduler = distiller.CompressionScheduler(nn.Linear(2, 2))
    policy = distiller.ScheduledTrainingPolicy()
    if case["exception"]:
        with pytest.raises(distiller.ScheduleError):
            scheduler.add_policy(policy, **case["args"])
        return
    scheduler.add_policy(policy, **case["args"])
    assert sorted(scheduler.policies) == case["epochs"]
    meta, expected = scheduler.sched_metadata[policy], case["meta"]
    if listed := case["args"].get("epochs"):
        # The original takes those that stand first and last in the list.
        expected = {**expected, "starting_epoch": min(listed), "ending_epoch": max(listed) + 1}
    assert {key: meta[key] for key in expected} == expected


@pytest.mark.parametrize("case", cases("create_mask_level_criterion"))
def test_the_level_criterion_prunes_an_exact_count(case):
    weight, level = tensor(case["input"]), case["args"]["desired_sparsity"]
    mask = distiller.create_mask_level_criterion(weight, level)
    assert mask.dtype == weight.dtype
    assert_exact_level(mask.bool(), weight, level)
    if case["exception"] is None and case["input"] not in TIED_INPUTS:
        assert same(mask.bool(), expected_mask(case))


@pytest.mark.parametrize(
    "case", cases("create_mask_threshold_criterion", "create_mask_sensitivity_criterion")
)
def test_threshold_and_sensitivity_criteria_are_those_of_the_original(case):
    criterion = getattr(distiller, case["algo"])
    mask = criterion(tensor(case["input"]), next(iter(case["args"].values())))
    assert same(mask.bool(), expected_mask(case))


@pytest.mark.parametrize("case", cases("SparsityLevelParameterPruner"))
def test_the_level_pruner_masks_as_the_original(case):
    levels = case["args"]["levels"]
    if case["exception"]:
        with pytest.raises(distiller.DistillerError):
            pruning.SparsityLevelParameterPruner("p", levels)
        return
    name = case["input"]
    mask = mask_by(pruning.SparsityLevelParameterPruner("p", levels), name, tensor(name))
    if case["mask"] is None:
        assert mask is None
    elif name in TIED_INPUTS:
        assert_exact_level(mask, tensor(name), levels.get(name, levels.get("*")))
    else:
        assert same(mask, expected_mask(case))


@pytest.mark.parametrize("case", cases("SensitivityPruner", "MagnitudeParameterPruner"))
def test_sensitivity_and_magnitude_pruners_mask_as_the_original(case):
    build = getattr(pruning, case["algo"])
    if case["exception"]:
        with pytest.raises(distiller.DistillerError):
            build("p", *case["args"].values())
        return
    mask = mask_by(build("p", *case["args"].values()), case["input"], tensor(case["input"]))
    assert mask is None if case["mask"] is None else same(mask, expected_mask(case))


def test_the_splicing_pruner_remembers_its_first_statistics_and_its_last_mask():
    groups: dict[tuple, list] = {}
    for case in MASKS["cases"]:
        if case["algo"] == "SplicingPruner":
            key = (case["input"], case["args"]["sensitivity_multiplier"])
            groups.setdefault(key, []).append(case)
    assert groups
    for (name, multiplier), steps in groups.items():
        args = {k: v for k, v in steps[0]["args"].items() if not k.endswith("epoch")}
        pruner = pruning.SplicingPruner("p", **args)
        maskers = MaskDict({name: ParameterMasker(name)})
        expected = {case["args"]["current_epoch"]: case for case in steps}
        # The vectors hold some of the steps only; the weights of all of them are there.
        for epoch in range(max(expected) + 1):
            weight = torch.from_numpy(ARRAYS[f"splice_w/{name}_m{multiplier}_e{epoch}"])
            meta = {"current_epoch": epoch, "starting_epoch": 0}
            pruner.set_param_mask(weight, name, maskers, meta)
            if epoch in expected:
                assert same(maskers[name].mask, expected_mask(expected[epoch]))


@pytest.mark.parametrize("case", cases("BaiduRNNPruner"))
def test_the_baidu_pruner_has_the_thresholds_and_masks_of_the_original(case):
    args, name = dict(case["args"]), case["input"]
    q, offset, mult = args.pop("q"), args.pop("ramp_epoch_offset"), args.pop("ramp_slope_mult")
    pruner = pruning.BaiduRNNPruner("p", q, offset, mult, [name])
    span = (args["starting_epoch"], args["ending_epoch"], args["frequency"])
    assert pruner.rate.slopes(*span) == pytest.approx((case["start_slope"], case["ramp_slope"]))
    assert pruner.rate.step(args["current_epoch"], *span) == pytest.approx(case["eps"], abs=1e-12)
    assert same(mask_by(pruner, name, tensor(name), **args), expected_mask(case))


@pytest.mark.parametrize(
    "case", cases("L1RankedStructureParameterPruner", "L2RankedStructureParameterPruner")
)
def test_ranked_pruners_mask_the_columns_that_the_original_called_rows(case):
    args, name = dict(case["args"]), case["input"]
    args.setdefault("weights", [name])
    if args["group_type"] in ("Filters", "3D"):
        with pytest.raises(distiller.DistillerError, match="convolutions only"):
            getattr(pruning, case["algo"])("p", **args)
        return
    args["group_type"] = {"Rows": "Cols"}.get(args["group_type"], args["group_type"])
    if "block_shape" in args:
        args["kwargs"] = {"block_shape": args.pop("block_shape")}
    mask = mask_by(getattr(pruning, case["algo"])("p", **args), name, tensor(name))
    if case["mask"] is None:
        assert mask is None
    else:
        assert same(mask, expected_mask(case))


@pytest.mark.parametrize("case", cases("StructureParameterPruner"))
def test_the_structure_pruner_masks_as_the_original(case):
    args, name = case["args"], case["input"]
    regimes = {name: [args["threshold"], args["group_type"]]}
    pruner = pruning.StructureParameterPruner("p", None, regimes, args["threshold_criteria"])
    assert same(mask_by(pruner, name, tensor(name)), expected_mask(case))


def nonzeros(model):
    return {name: int(p.count_nonzero()) for name, p in model.state_dict().items()}


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def noise(model, generator, names):
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name in names:
            draw = generator.standard_normal(tuple(parameters[name].shape))
            step = (draw * SCHEDULER["noise_sigma"]).astype(np.float32)
            parameters[name].add_(torch.from_numpy(step))


@pytest.mark.parametrize("run, preset", [("agp_LARGE_80", "large-80"), ("baidu", "large-baidu")])
def test_presets_leave_the_weights_of_the_original_bit_by_bit_over_40_epochs(run, preset):
    run = SCHEDULER["runs"][run]
    model = tie(tiny_weights(TINY))
    with torch.no_grad():
        for param in model.parameters():
            param.mul_(run["initial_weight_scale"])
    scheduler = distiller.file_config(model, None, distiller.preset_path(preset))
    generator = np.random.RandomState(SCHEDULER["noise_seed"])
    batches = SCHEDULER["minibatches_per_epoch"]
    names = run["named_parameters_order"]
    counted = list(run["epochs"][0]["nnz_after_on_epoch_begin"])

    def check(key):
        now = nonzeros(model)
        assert {name: now[name] for name in counted} == expected[key], (expected["epoch"], key)

    for expected in run["epochs"]:
        epoch = expected["epoch"]
        scheduler.on_epoch_begin(epoch)
        for name, zeros in expected["mask_zeros_after_on_epoch_begin"].items():
            mask = scheduler.zeros_mask_dict[name].mask
            assert (None if mask is None else int((~mask).sum())) == zeros, (epoch, name)
        check("nnz_after_on_epoch_begin")
        for batch in range(batches):
            scheduler.on_minibatch_begin(epoch, batch, batches)
            if batch == 0:
                check("nnz_in_first_forward")
            scheduler.before_backward_pass(epoch, batch, batches, torch.zeros(()))
            noise(model, generator, names)
            if batch == 0:
                check("nnz_after_first_update_before_on_minibatch_end")
            scheduler.on_minibatch_end(epoch, batch, batches)
        check("nnz_at_validation")
        scheduler.on_epoch_end(epoch)
        check("nnz_after_on_epoch_end")
        for name, want in expected.get("mask_sha256", {}).items():
            mask = scheduler.zeros_mask_dict[name].mask
            assert (None if mask is None else digest(mask.numpy().astype(np.uint8))) == want
        parameters = dict(model.named_parameters())
        for name, want in expected.get("weight_sha256", {}).items():
            assert digest(parameters[name].detach().numpy()) == want, (epoch, name)
    assert nonzeros(model) == run["final_nnz"]


VARIANTS = {
    name: rows for name, rows in SCHEDULER["policy_arg_variants"].items() if isinstance(rows, list)
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_policy_arguments_count_as_in_the_original(variant):
    arguments = {
        "default": {},
        "mask_on_forward_only_keep_mask": {"mask_on_forward_only": True, "keep_mask": True},
        "mini_batch_pruning_frequency_1": {"mini_batch_pruning_frequency": 1},
    }.get(variant, {variant: True})
    model = tie(tiny_weights(TINY))
    scheduler = distiller.CompressionScheduler(model)
    pruner = pruning.AutomatedGradualPruner("agp", 0.1, 0.6, ["encoder.weight"])
    scheduler.add_policy(
        distiller.PruningPolicy(pruner, arguments), starting_epoch=1, ending_epoch=6, frequency=2
    )
    generator = np.random.RandomState(SCHEDULER["noise_seed"])
    names = SCHEDULER["runs"]["baidu"]["named_parameters_order"]

    def count():
        return int(model.encoder.weight.count_nonzero())

    for row in VARIANTS[variant]:
        epoch = row["epoch"]
        scheduler.on_epoch_begin(epoch)
        mask = scheduler.zeros_mask_dict["encoder.weight"].mask
        got = {
            "epoch": epoch,
            "active": epoch in scheduler.policies,
            "mask_zeros_begin": None if mask is None else int((~mask).sum()),
            "nnz_begin": count(),
        }
        for batch in range(3):
            scheduler.on_minibatch_begin(epoch, batch, 3)
            got.setdefault("nnz_first_forward", count())
            scheduler.before_backward_pass(epoch, batch, 3, torch.zeros(()))
            noise(model, generator, names)
            got.setdefault("nnz_after_update", count())
            scheduler.on_minibatch_end(epoch, batch, 3)
        got["nnz_validation"] = count()
        scheduler.on_epoch_end(epoch)
        got["nnz_epoch_end"] = count()
        assert got == row


@pytest.mark.parametrize("name", [n for n in TABLE["functions"] if n.startswith("spars")])
def test_sparsity_functions_are_those_of_the_original(name):
    matrix = torch.tensor(TABLE["functions"]["tensor"])
    if name.startswith("sparsity_matrix_dim"):
        value = distiller.sparsity_matrix(matrix, int(name[-1]))
    elif name.endswith("_not_transposed"):
        value = getattr(distiller, name.removesuffix("_not_transposed"))(matrix, False)
    else:
        value = getattr(distiller, name)(matrix)
    assert value == pytest.approx(TABLE["functions"][name])
