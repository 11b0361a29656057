"""Sensitivity scores pruned copies, goes on where it stopped, and suggests cheap targets."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ptq_world import LanguageModel, tie
from torch import nn

import lmbench.distiller as distiller


def small():
    return tie(LanguageModel(12, 4, 2))


def zeros(model):
    """A score that tells exactly what was pruned."""
    return 1.0 + sum(int((p == 0).sum()) for p in model.parameters() if p.dim() > 1)


def test_each_point_prunes_one_target_of_a_copy_to_its_level():
    torch.manual_seed(0)
    model = small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = distiller.analyse_sensitivity(model, zeros, levels=[0.25, 0.5])
    assert result.dense == 1.0
    curves = result.curves()
    assert curves["encoder.weight"] == [(0.0, 1.0), (0.25, 13.0), (0.5, 25.0)]
    assert curves["model"][-1] == (0.5, 1.0 + (48 + 4 * 64) / 2)
    assert curves["rnn.l1.forget"][-1] == (0.5, 1.0 + 16)
    assert set(result.curves("gate")) == {
        f"rnn.l{layer}.{gate}" for layer in (0, 1) for gate in ("input", "forget", "cell", "output")
    }
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("group, dim", [("rows", 0), ("cols", 1)], ids=["rows", "cols"])
def test_structures_are_pruned_whole(group, dim):
    def dead(model):
        return 100 * distiller.sparsity_matrix(model.rnn.weight_hh_l0, dim)

    targets = distiller.tensor_targets(small(), ["rnn.weight_hh_l0"])
    result = distiller.analyse_sensitivity(small(), dead, targets, [0.5], group)
    assert result.points[-1].score == 50.0


def test_blocks_may_have_any_size():
    targets = distiller.tensor_targets(small(), ["rnn.weight_hh_l0"])
    result = distiller.analyse_sensitivity(
        small(), zeros, targets, [0.5], "blocks", block_shape=(8, 2)
    )
    assert result.points[-1].score == 1.0 + 32


def test_an_analysis_goes_on_where_it_stopped_without_scoring_again():
    model, store, calls = small(), {}, []

    def scored(pruned):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return zeros(pruned)

    targets = distiller.tensor_targets(model)
    with pytest.raises(KeyboardInterrupt):
        distiller.analyse_sensitivity(model, scored, targets, [0.2, 0.4], store=store)
    assert len(store) == 5
    seen = []
    result = distiller.analyse_sensitivity(
        model, scored, targets, [0.2, 0.4], store=store,
        on_point=lambda point, done, total: seen.append((point.key, done, total)),
    )  # fmt: skip
    assert len(calls) == 6 + 11 - 5
    assert seen[-1][1:] == (11, 11)
    assert {point.key for point in result.points} == set(store)
    assert result.points == distiller.analyse_sensitivity(model, zeros, targets, [0.2, 0.4]).points


def test_the_table_gives_the_change_against_the_dense_model():
    targets = distiller.tensor_targets(small(), ["encoder.weight"])
    table = distiller.analyse_sensitivity(small(), zeros, targets, [0.25]).table()
    assert table.records()[-1] == {
        "target": "encoder.weight",
        "kind": "tensor",
        "group": "element",
        "sparsity": 25.0,
        "score": 13.0,
        "change": pytest.approx(1200.0),
    }


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"group": "filter"}, "of convolutions only; choose element"),
        ({"group": "lines"}, "unknown group 'lines'; choose element"),
        ({"levels": [1.0]}, "level 1.0 is out of"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message):
    with pytest.raises(distiller.DistillerError, match=message):
        distiller.analyse_sensitivity(small(), zeros, **arguments)


def test_an_unknown_tensor_names_the_closest():
    with pytest.raises(distiller.DistillerError, match=r"closest: encoder\.weight"):
        distiller.tensor_targets(small(), ["encoder.weigth"])


def test_the_interface_of_the_original_answers_as_it_did(tmp_path):
    answers = distiller.perform_sensitivity_analysis(
        small(),
        ["encoder.weight", "rnn.bias_ih_l0"],
        [0.0, 0.5],
        lambda model: (zeros(model), 0, 0.5),
        "element",
    )
    assert answers == {"encoder.weight": {0.0: (1.0, 0, 0.5), 0.5: (25.0, 0, 0.5)}}
    distiller.sensitivities_to_csv(answers, str(tmp_path / "s.csv"))
    assert (tmp_path / "s.csv").read_text().splitlines() == [
        "parameter,sparsity,top1,top5,loss",
        "encoder.weight,0.0,1.0,0,0.5",
        "encoder.weight,0.5,25.0,0,0.5",
    ]


LEVELS = (0.25, 0.5, 0.75)
COSTS = st.lists(st.floats(0, 2), min_size=3, max_size=3)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 40), COSTS), min_size=2, max_size=3), st.floats(0, 0.7))
def test_no_grid_of_targets_is_predicted_to_cost_less_than_the_suggestion(tensors, total):
    sizes = {f"t{i}": 4 * size for i, (size, _) in enumerate(tensors)}
    curves = {}
    for index, (_, steps) in enumerate(tensors):
        # Convex curves, which their hulls reproduce, so that a plain search is a fair judge.
        slopes = sorted(steps)
        logs = [sum(slopes[: k + 1]) for k in range(3)]
        curves[f"t{index}"] = [(0.0, 50.0)] + [
            (level, 50 * math.exp(log)) for level, log in zip(LEVELS, logs, strict=True)
        ]
    weights = sum(sizes.values())
    suggestion = distiller.suggest_targets(curves, sizes, total)
    assert sum(suggestion.targets[n] * sizes[n] for n in sizes) == pytest.approx(total * weights)

    def cheapest(names, left, logarithm):
        if left <= 1e-9:
            return logarithm
        if not names:
            return math.inf
        return min(
            cheapest(names[1:], left - level * sizes[names[0]], logarithm + math.log(score / 50))
            for level, score in curves[names[0]]
        )

    best = cheapest(list(sizes), total * weights, 0.0)
    assert math.log(suggestion.predicted / 50) <= best + 1e-6


def test_the_suggested_schedule_reaches_the_total_with_the_predicted_targets():
    torch.manual_seed(0)
    model = small()
    curves = {
        "encoder.weight": [(0.0, 100.0), (0.5, 101.0), (0.9, 110.0)],
        "rnn.weight_hh_l0": [(0.0, 100.0), (0.5, 120.0), (0.9, 300.0)],
        "rnn.weight_ih_l1": [(0.0, 100.0), (0.5, 105.0), (0.9, 130.0)],
    }
    sizes = {name: p.numel() for name, p in model.named_parameters() if p.dim() > 1}
    suggestion = distiller.suggest_targets(curves, sizes, 0.3)
    assert suggestion.targets["encoder.weight"] > suggestion.targets["rnn.weight_hh_l0"]
    assert suggestion.predicted > suggestion.dense == 100.0
    text = distiller.suggestion_to_schedule(suggestion, starting_epoch=0, ending_epoch=4)
    plan = distiller.plan_for_model(distiller.parse_schedule(text), model)
    assert plan.final_sparsity == pytest.approx(0.3, abs=3 / 304)


@pytest.mark.parametrize("group", ["rows", "cols", "blocks"])
def test_what_was_measured_in_groups_is_suggested_in_the_same_groups(group):
    model = nn.Linear(16, 16, bias=False)
    curve = [(0.0, 10.0), (0.5, 11.0), (0.75, 12.0)]
    suggestion = distiller.suggest_targets({"weight": curve}, {"weight": 256}, 0.5)
    text = distiller.suggestion_to_schedule(suggestion, 0, 2, group=group)
    scheduler = distiller.build_scheduler(distiller.parse_schedule(text), model)
    scheduler.on_epoch_begin(1)
    mask = scheduler.zeros_mask_dict["weight"].mask
    assert mask is not None
    empty = {
        "rows": distiller.sparsity_rows(mask, transposed=False),
        "cols": distiller.sparsity_cols(mask, transposed=False),
        "blocks": distiller.sparsity_blocks(mask.float(), (8, 8)),
    }
    assert empty[group] == distiller.sparsity(mask) == 0.5


def test_a_total_that_the_curves_do_not_reach_says_how_far_they_do():
    curves = {"a": [(0.0, 10.0), (0.5, 11.0)]}
    with pytest.raises(distiller.DistillerError, match=r"reaches a total sparsity of 0\.250"):
        distiller.suggest_targets(curves, {"a": 10, "b": 10}, 0.5)


def test_scores_that_are_not_finite_are_no_prediction():
    curves = {name: [(0.0, 10.0), (0.5, 11.0), (0.9, math.inf)] for name in "ab"}
    sizes = {"a": 10, "b": 10}
    assert distiller.suggest_targets(curves, sizes, 0.5).predicted == pytest.approx(12.1)
    with pytest.raises(distiller.DistillerError, match="scores are not finite; ask for less"):
        distiller.suggest_targets(curves, sizes, 0.9)


@pytest.mark.parametrize("dense", [0.0, math.inf, math.nan])
def test_a_dense_model_without_a_score_to_judge_by_is_refused(dense):
    curves = {"a": [(0.0, dense), (0.5, 20.0)]}
    with pytest.raises(distiller.DistillerError, match="the dense model scores"):
        distiller.suggest_targets(curves, {"a": 10}, 0.1)


def test_a_tensor_of_unknown_size_is_named():
    curves = {name: [(0.0, 10.0), (0.5, 11.0)] for name in ("a", "tied")}
    with pytest.raises(distiller.DistillerError, match="suggest: tied is no weight"):
        distiller.suggest_targets(curves, {"a": 10}, 0.1)


def test_two_names_that_differ_in_a_dot_alone_are_both_pruned():
    curve = [(0.0, 10.0), (0.5, 11.0)]
    suggestion = distiller.suggest_targets(
        {"a.b_c": curve, "a_b.c": curve}, {"a.b_c": 10, "a_b.c": 10}, 0.4
    )
    schedule = distiller.parse_schedule(distiller.suggestion_to_schedule(suggestion, 0, 2))
    assert [entry.instance_name for entry in schedule.policies] == ["a.b_c_pruner", "a_b.c_pruner"]


def test_a_suggestion_of_nothing_is_refused():
    suggestion = distiller.suggest_targets({"a": [(0.0, 10.0), (0.5, 11.0)]}, {"a": 10}, 0.0)
    with pytest.raises(distiller.DistillerError, match="nothing is to be pruned"):
        distiller.suggestion_to_schedule(suggestion)
