"""Training under codes against the definitions: nearest sums, gradients that pass, one matrix."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ptq_world import LanguageModel, part, tie
from torch import nn
from torch.nn import functional as F

from lmbench.distiller.quantization import (
    QuantAwareTrainRangeLinearQuantizer,
    QuantizationError,
    modular_copy,
)
from lmbench.distiller.quantization.codes import fit_codes
from lmbench.distiller.quantization.trained_codes import SHARES, TrainedCodes


def coded(model: nn.Module, bits: int, **more) -> QuantAwareTrainRangeLinearQuantizer:
    quantizer = QuantAwareTrainRangeLinearQuantizer(
        model, bits_activations=None, bits_weights=bits, rounding="codes", **more
    )
    quantizer.prepare_model()
    return quantizer


def small() -> LanguageModel:
    torch.manual_seed(0)
    return tie(LanguageModel(40, 12, 2, nn.LSTM))


def plain_sums(weight: torch.Tensor, steps: torch.Tensor, unit: torch.Tensor, group: int):
    """By trying every code, the nearest sum of each weight."""
    found = torch.empty_like(weight)
    for g, cells in enumerate(weight.split(group, dim=1)):
        scales = steps[:, :, g].float() * unit[:, 0]  # (k, rows)
        sums = torch.stack(
            [
                sum((s * scale for s, scale in zip(signs, scales, strict=True)), torch.zeros(()))
                for signs in itertools.product((-1.0, 1.0), repeat=len(steps))
            ],
            1,
        )  # (rows, 2^k)
        nearest = (cells[..., None] - sums[:, None]).abs().argmin(2)
        found[:, g * group : (g + 1) * group] = sums.gather(1, nearest)
    return found


@given(st.integers(1, 4), st.sampled_from([None, 8]), st.integers(0, 99))
def test_an_image_is_the_nearest_sum_and_what_was_pruned_stays_zero(bits, group, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(7, 20, generator=generator)
    pruned = torch.rand(7, 20, generator=generator) < 0.4
    weight[pruned] = 0
    codes = TrainedCodes(module := nn.Module(), weight, group)
    codes.fit(bits)
    image = codes.image(bits)
    steps, unit = module.get_buffer("code_steps")[:bits], module.get_buffer("code_unit")
    wanted = plain_sums(weight, steps, unit, group or 20)
    distance = (weight - wanted).abs()
    torch.testing.assert_close((weight - image).abs()[~pruned], distance[~pruned])
    assert bool((image[pruned] == 0).all())


@given(st.integers(1, 4), st.sampled_from([None, 8]), st.floats(1e-4, 1e4), st.booleans())
def test_bf16_holds_an_image_in_codes(bits, group, size, learned):
    weight = size * torch.randn(7, 20, generator=torch.Generator().manual_seed(0))
    codes = TrainedCodes(nn.Module(), weight, group, learned=learned)
    codes.fit(bits)
    image = codes.image(bits)
    assert torch.equal(image.bfloat16().float(), image)


def test_a_quantizer_is_exact_in_bf16_where_all_that_it_rounds_is_in_codes():
    assert coded(small(), 4).exact_in_bf16
    assert coded(small(), 4, bits_schedule={1: 2}).exact_in_bf16
    ends = "encoder|decoder"
    assert coded(small(), 4, overrides={ends: {"bits_weights": None}}).exact_in_bf16
    assert not coded(small(), 5).exact_in_bf16
    assert not coded(small(), 8, bits_schedule={1: 2}).exact_in_bf16
    assert not coded(small(), 4, overrides={ends: {"bits_weights": 8}}).exact_in_bf16
    gates = {".*act_f": {"bits_activations": 8}}
    assert not coded(small(), 4, overrides=gates).exact_in_bf16
    nearest = QuantAwareTrainRangeLinearQuantizer(small(), None, None, 4, None)
    nearest.prepare_model()
    assert not nearest.exact_in_bf16


def test_scales_are_those_of_the_weights_that_were_not_pruned():
    generator = torch.Generator().manual_seed(3)
    dense = torch.randn(5, 60, generator=generator)
    sparse = torch.zeros(5, 90)
    places = torch.stack([torch.randperm(90, generator=generator)[:60] for _ in range(5)])
    sparse.scatter_(1, places, dense)
    for bits in (1, 2, 3, 4):
        alone, among = fit_codes(dense, bits), fit_codes(sparse, bits, pruned=True)
        torch.testing.assert_close(among.steps * among.unit, alone.steps * alone.unit)
    assert not fit_codes(torch.zeros(2, 9), 3, pruned=True).steps.any()


def test_the_gradient_of_the_image_goes_to_the_floats_of_the_tied_matrix_unchanged():
    """Against plain autograd on a model whose weights are the image itself."""
    model = small()
    quantizer = coded(model, 2)
    plain = modular_copy(quantizer.plain_model())
    ids = torch.randint(40, (9, 4), generator=torch.Generator().manual_seed(1))

    def loss(of):
        logits, _ = of.train()(ids[:-1])
        return F.cross_entropy(logits.flatten(0, 1), ids[1:].flatten())

    loss(model).backward()
    loss(plain).backward()
    for name in ("encoder", "rnn.cells.0.fc_gate_x", "rnn.cells.1.fc_gate_h"):
        wanted = part(plain, name).weight.grad
        torch.testing.assert_close(part(model, name).float_weight.grad, wanted)
    assert part(model, "encoder").float_weight is part(model, "decoder").float_weight
    assert part(model, "encoder").weight.data_ptr() == part(model, "decoder").weight.data_ptr()
    assert part(plain, "encoder").weight is part(plain, "decoder").weight


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("group", [None, 8])
def test_learned_steps_have_the_gradient_of_lsq(bits: int, group: int | None):
    """Against a few lines of autograd: rounding passes gradients, what is cut off has none."""
    generator = torch.Generator().manual_seed(bits)
    weight = nn.Parameter(torch.randn(6, 20, generator=generator))
    with torch.no_grad():
        weight[torch.rand(6, 20, generator=generator) < 0.3] = 0
    codes = TrainedCodes(module := nn.Module(), weight, group, learned=True)
    codes.fit(bits)
    learned, most = module.get_parameter("code_learned"), 2**bits - 1
    fitted = module.get_buffer("code_fitted").sum(0) * module.get_buffer("code_unit")
    torch.testing.assert_close(learned.detach() * most, fitted)
    with torch.no_grad():
        learned *= 0.7
    image = codes.image(bits)
    incoming = torch.randn(6, 20, generator=generator)
    (image * incoming).sum().backward()

    columns = group or 20
    scales = module.get_buffer("code_steps").sum(0) * module.get_buffer("code_unit")
    step = (scales / most).requires_grad_()
    parts = [part.detach() for part in weight.split(columns, dim=1)]
    loss = torch.zeros(())
    for g, cells in enumerate(parts):
        share = (cells.shape[1] * most) ** -0.5
        own = step[:, g : g + 1] * share + (step[:, g : g + 1] * (1 - share)).detach()
        place = (cells / own).clamp(-most, most)
        levels = image.split(columns, dim=1)[g].detach() / own.detach()
        rounded = place + (levels - place).detach()
        loss = loss + (rounded * own * incoming.split(columns, dim=1)[g]).sum()
    loss.backward()
    torch.testing.assert_close(learned.grad, step.grad)
    torch.testing.assert_close(weight.grad, incoming)


@pytest.mark.parametrize("group", [None, 8])
def test_learned_scales_keep_their_ratios_in_whole_units_and_none_is_lost(group: int | None):
    weight = nn.Parameter(torch.randn(5, 40, generator=torch.Generator().manual_seed(0)))
    codes = TrainedCodes(module := nn.Module(), weight, group, learned=True)
    codes.fit(3)
    learned, ratios = module.get_parameter("code_learned"), module.get_buffer("code_fitted").clone()
    first = learned.detach().clone()
    for factor in (1.0, 0.9, 0.01, 50.0, 1e-30, -1.0):
        with torch.no_grad():
            learned.copy_(first * factor)
        image = codes.image(3).detach()
        steps, unit = module.get_buffer("code_steps"), module.get_buffer("code_unit")
        assert bool((steps[:3] > 0).all())
        assert int(steps.sum(0).max()) <= 127
        assert torch.equal(image, (image / unit).round() * unit)
        if factor < 0:
            assert float(image.abs().max()) < 1e-20
        if factor > 1e-9:
            wanted = ratios * (learned.detach() * 7 / ratios.sum(0))
            assert float(((steps * unit - wanted) / unit).abs().max()) <= 0.5001


def test_a_group_whose_weights_come_back_gets_scales_that_are_learned():
    weight = nn.Parameter(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        weight[1, :8] = 0
        weight[2, 8:] *= 1e-4
    codes = TrainedCodes(module := nn.Module(), weight, 8, learned=True)
    codes.fit(2)
    learned = module.get_parameter("code_learned")
    assert [bool(each) for each in (learned > 0).flatten()] == [True] * 2 + [False, True] + [
        True
    ] * 2
    before = learned.detach().clone()
    for step in range(SHARES):
        codes.fit_share(2, step)
    assert torch.equal(learned, before)
    with torch.no_grad():
        weight[1, 3] = 0.5
    for step in range(SHARES):
        codes.fit_share(2, step)
    assert torch.equal(learned[[0, 2]], before[[0, 2]])
    with torch.no_grad():
        # In the share of a row whose weights come back others keep what they have learned.
        learned[0] *= 1.5
        weight[1, :8] = 0
    codes.fit(2, slice(1, 2))
    kept = learned.detach().clone()
    with torch.no_grad():
        weight[1, 3] = 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lmbench.distiller.quantization.trained_codes.SHARES", 1)
        codes.fit_share(2, 0)
    assert torch.equal(learned[0], kept[0])
    assert float(codes.image(2).detach()[1, 3]) == pytest.approx(0.5, rel=0.05)


def test_a_new_width_leaves_learned_scales_and_momentum_of_another_width_alone():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    quantizer = coded(
        model, 3, learned_scales=True, bits_schedule={1: 2}, optimizer=optimizer,
        overrides={"rnn.cells.1.fc_gate_h": {"bits_weights": 1}},
    )  # fmt: skip
    own = part(model, "rnn.cells.1.fc_gate_h").code_learned
    narrowed = part(model, "rnn.cells.0.fc_gate_h").code_learned
    with torch.no_grad():
        own *= 1.1
    before = own.detach().clone()
    for parameter in optimizer.param_groups[0]["params"]:
        optimizer.state[parameter]["momentum_buffer"] = torch.ones_like(parameter)
    assert quantizer.begin_epoch(1)
    assert torch.equal(own, before)
    assert own in optimizer.state
    assert narrowed not in optimizer.state
    assert part(model, "rnn.cells.0.fc_gate_h").float_weight in optimizer.state


def test_an_update_moves_the_codes_at_once_and_the_scales_within_a_round_of_shares():
    model = small()
    quantizer = coded(model, 3)
    held = part(model, "encoder")
    with torch.no_grad():
        held.float_weight.mul_(-4)
    before = held.code_unit * held.code_steps
    levels = plain_sums(held.float_weight.detach(), held.code_steps[:3], held.code_unit, 12)
    image = part(quantizer.plain_model(), "encoder").weight
    torch.testing.assert_close(image.detach(), levels)
    for step in range(SHARES - 1):
        quantizer.begin_batch(step)
    assert not torch.equal(held.code_unit * held.code_steps, before)
    quantizer.begin_batch(SHARES - 1)
    weight = held.float_weight.detach()
    fitted = fit_codes(weight, 3, pruned=True)
    best = plain_sums(weight, fitted.steps, fitted.unit, 12) - weight
    ours = part(quantizer.plain_model(), "encoder").weight.detach() - weight
    assert float(ours.square().sum()) == pytest.approx(float(best.square().sum()), rel=0.1)


def test_bits_fall_at_their_epochs_and_overrides_keep_their_own():
    model = small()
    quantizer = coded(
        model,
        8,
        bits_schedule={1: 4, 3: 2},
        overrides={"rnn.cells.1.fc_gate_h": {"bits_weights": 1}},
        per_channel_wts=True,
    )

    seen = []
    for epoch in range(4):
        fell = quantizer.begin_epoch(epoch)
        plain = quantizer.plain_model().state_dict()
        counts = [
            max(len(row.unique()) for row in plain[name])
            for name in ("rnn.weight_hh_l0", "rnn.weight_hh_l1")
        ]
        seen.append((fell, quantizer.bits, counts[1]))
        assert quantizer.bits is not None
        assert counts[0] <= 2**quantizer.bits
    assert seen == [(False, 8, 2), (True, 4, 2), (False, 4, 2), (True, 2, 2)]


def test_a_state_with_its_buffers_is_the_same_quantizer_again():
    ids = torch.randint(40, (9, 4))
    quantizers = []
    for _ in range(2):
        quantizers.append(coded(small(), 4, bits_schedule={1: 2}, group_size=8))
    first, second = quantizers
    assert first.begin_epoch(1)
    optimizer = torch.optim.SGD(first.model.parameters(), lr=3.0)
    for step in range(3):
        first.begin_batch(step)
        logits, _ = first.model.train()(ids[:-1])
        optimizer.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), ids[1:].flatten()).backward()
        optimizer.step()
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(first.state_dict())
    for ours, theirs in zip(
        first.plain_model().parameters(), second.plain_model().parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"rounding": "code"}, "rounding: 'code' is unknown: use nearest or codes"),
        ({"group_size": 64}, "group_size: 64: is for rounding: codes"),
        ({"rounding": "codes", "group_size": 12}, "group_size: 12: is for rounding: codes, and a"),
        ({"bits_weights": 1}, "1 bits is out of range"),
        ({"rounding": "codes", "bits_schedule": {1: 0}}, "bits_schedule: 0 bits is out of range"),
        ({"bits_weights": None, "bits_schedule": {1: 2}}, "bits_schedule: needs bits_weights"),
    ],
)
def test_settings_that_no_codes_have_are_refused(settings, words):
    with pytest.raises(QuantizationError, match=words):
        QuantAwareTrainRangeLinearQuantizer(small(), **{"bits_weights": 2, **settings})


@pytest.mark.parametrize("learned", [False, True])
def test_a_schedule_is_checked_on_a_model_without_memory(learned: bool):
    with torch.device("meta"):
        model = tie(LanguageModel(40, 12, 2, nn.LSTM))
    quantizer = coded(model, 2, learned_scales=learned)
    assert quantizer.plain_model().get_parameter("encoder.weight").is_meta
