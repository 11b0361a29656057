"""Quantization during training, and distillation."""

import copy
import pydoc_data.topics
import re
from collections import Counter

import pytest
import torch
from ptq_world import LanguageModel, batchify, mean_loss, part, runner, tie
from torch import nn
from torch.nn import functional as F

from lmbench.distiller.errors import DistillerError
from lmbench.distiller.knowledge_distillation import (
    DistillationLossWeights,
    KnowledgeDistillation,
    distillation_loss,
)
from lmbench.distiller.quantization import (
    DorefaQuantizer,
    PACTQuantizer,
    QuantAwareTrainRangeLinearQuantizer,
    QuantizationError,
    QuantSettings,
    WRPNQuantizer,
    calibrate,
    modular_copy,
    quantize,
)

ALL = [QuantAwareTrainRangeLinearQuantizer, DorefaQuantizer, PACTQuantizer, WRPNQuantizer]


def small(kind: type[nn.RNNBase] = nn.LSTM) -> LanguageModel:
    torch.manual_seed(0)
    return tie(LanguageModel(40, 12, 2, kind))


def step(model, optimizer, data, loss=F.cross_entropy):
    model.train()
    optimizer.zero_grad()
    logits, _ = model(data[:-1])
    value = loss(logits.flatten(0, 1), data[1:].flatten())
    value.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.25)
    optimizer.step()
    return float(value)


@pytest.mark.parametrize("quantizer_type", ALL)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_weights_have_few_values_and_still_learn(quantizer_type, kind):
    model = small(kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
    quantizer = quantizer_type(model, optimizer, bits_activations=8, bits_weights=3)
    quantizer.prepare_model()
    quantizer.quantize_params()
    weight = part(model, "rnn.cells.1.fc_gate_h").weight
    assert len(weight.detach().unique()) <= 8
    data = torch.randint(40, (12, 5))
    losses = [step(model, optimizer, data) for _ in range(8)]
    assert losses[-1] < losses[0]
    floats = part(model, "rnn.cells.1.fc_gate_h").float_weight
    assert floats.grad is not None
    assert bool(floats.grad.abs().sum() > 0)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("quantizer_type", ALL)
def test_a_quantizer_that_waits_leaves_the_model_in_floats(quantizer_type):
    model, ids = small().eval(), torch.randint(40, (6, 5))
    with torch.no_grad():
        floats, _ = model(ids)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    quantizer = quantizer_type(model, optimizer, bits_activations=4, bits_weights=3)
    quantizer.prepare_model()
    quantizer.wait()
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(ids)[0], floats, rtol=0, atol=1e-6)
        encoder = part(model, "encoder")
        assert torch.equal(part(quantizer.plain_model(), "encoder").weight, encoder.float_weight)
    before = encoder.float_weight.detach().clone()
    step(model, optimizer, ids)
    assert not torch.equal(encoder.float_weight, before)
    waiting = quantizer.state_dict()
    assert quantizer.begin_epoch(1)
    assert not quantizer.begin_epoch(2)
    step(model, optimizer, ids)
    quantizer.quantize_params()
    assert len(part(model, "rnn.cells.1.fc_gate_h").weight.detach().unique()) <= 8
    model.eval()
    with torch.no_grad():
        quantized, _ = model(ids)
        quantizer.load_state_dict(waiting)
        assert not torch.equal(model(ids)[0], quantized)


@pytest.mark.parametrize("quantizer_type", ALL)
def test_gate_activations_are_really_quantized(quantizer_type):
    model = small()
    quantizer_type(model, bits_activations=2, bits_weights=8).prepare_model()
    seen = []
    part(model, "rnn.cells.0.act_f").register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.no_grad():
        model.train()
        model(torch.randint(40, (6, 5)))
    assert [len(value.unique()) <= 4 for value in seen] == [True] * 6


def test_tied_layers_train_one_parameter_and_the_plain_model_has_the_old_names():
    model = small()
    names = set(model.state_dict())
    quantizer = QuantAwareTrainRangeLinearQuantizer(model, bits_weights=4, bits_activations=None)
    quantizer.prepare_model()
    assert part(model, "encoder").float_weight is part(model, "decoder").float_weight
    plain = quantizer.plain_model()
    assert set(plain.state_dict()) == names
    assert part(plain, "encoder").weight is part(plain, "decoder").weight
    ids = torch.randint(40, (6, 5))
    model.eval()
    torch.testing.assert_close(plain.eval()(ids)[0], model(ids)[0], rtol=0, atol=1e-6)


def test_overrides_choose_by_full_name_and_must_match():
    model = LanguageModel(40, 12, 2, nn.LSTM)
    QuantAwareTrainRangeLinearQuantizer(
        model, bits_weights=4, overrides={"decoder": {"bits_weights": None}}
    ).prepare_model()
    assert hasattr(part(model, "encoder"), "float_weight")
    assert not hasattr(part(model, "decoder"), "float_weight")
    with pytest.raises(QuantizationError, match="matches no module"):
        WRPNQuantizer(small(), bits_weights=4, overrides={"dcoder": {}}).prepare_model()
    with pytest.raises(QuantizationError, match="unknown setting 'bits_wts'; choose"):
        WRPNQuantizer(small(), bits_weights=4, overrides={"decoder": {"bits_wts": 8}})
    with pytest.raises(QuantizationError, match="out of range"):
        DorefaQuantizer(small(), bits_weights=1)


@pytest.mark.parametrize("layer", [nn.LSTM(8, 8), nn.Linear(8, 8)], ids=["recurrent", "linear"])
def test_a_layer_that_is_the_whole_model_is_refused(layer):
    with pytest.raises(QuantizationError, match="of its own first"):
        QuantAwareTrainRangeLinearQuantizer(layer, bits_weights=2).prepare_model()


def test_pact_bounds_are_parameters_with_their_own_decay():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    PACTQuantizer(
        model, optimizer, bits_activations=4, bits_weights=4, act_clip_decay=0.01
    ).prepare_model()
    assert optimizer.param_groups[1]["weight_decay"] == 0.01
    assert len(optimizer.param_groups[1]["params"]) == 10
    step(model, optimizer, torch.randint(40, (8, 4)))
    bounds = [p for name, p in model.named_parameters() if name.endswith("clip_val")]
    assert any(float(bound.detach()) != 1.0 for bound in bounds)


def english(limit=60000, words=800):
    """Tokens of Python's own help topics: real English, on every machine."""
    text = " ".join(pydoc_data.topics.topics.values())
    tokens = re.findall(r"[a-z]+|[.,]", text.lower())[:limit]
    common = {w: i for i, (w, _) in enumerate(Counter(tokens).most_common(words - 1), start=1)}
    return [common.get(token, 0) for token in tokens]


def train(model, data, epochs, rate, extra=None):
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for _ in range(epochs):
        model.train()
        hidden = None
        for start in range(0, len(data) - 1, 20):
            window = data[start : start + 21]
            if hidden is not None:
                hidden = tuple(part.detach() for part in hidden)
            logits, hidden = model(window[:-1], hidden)
            loss = F.cross_entropy(logits.flatten(0, 1), window[1:].flatten())
            if extra is not None:
                loss = extra(window, logits, loss)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.25)
            optimizer.step()


def test_an_epoch_with_four_bit_weights_beats_rounding_them_afterwards():
    torch.manual_seed(0)
    ids = english()
    data, valid = batchify(ids[:50000], 20), batchify(ids[50000:], 10)
    parent = tie(LanguageModel(800, 32, 1))
    nn.init.uniform_(parent.encoder.weight, -0.1, 0.1)
    train(parent, data, 6, 15.0)
    parent.eval()
    stats = calibrate(modular_copy(parent), runner(valid[:40]))
    plain = {"bits_activations": None, "bits_weights": 4, "per_channel_wts": True}
    rounded = quantize(parent, QuantSettings.from_dict(plain), stats)
    student = copy.deepcopy(parent)
    quantizer = QuantAwareTrainRangeLinearQuantizer(
        student, bits_activations=None, bits_weights=4, per_channel_wts=True
    )
    quantizer.prepare_model()
    train(student, data, 1, 2.0)
    trained = quantizer.plain_model().eval()
    assert len(part(trained, "decoder").weight[5].unique()) <= 16
    assert mean_loss(trained, valid) < mean_loss(rounded, valid)


def test_distillation_pulls_the_student_to_the_teacher():
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(7, 20, generator=generator)
    assert float(distillation_loss(teacher, teacher, 3.0)) == pytest.approx(0.0, abs=1e-6)
    student = torch.zeros(7, 20, requires_grad=True)
    first = distillation_loss(student, teacher, 2.0)
    (gradient,) = torch.autograd.grad(first, student)
    closer = distillation_loss(student.detach() - gradient, teacher, 2.0)
    assert float(closer) < float(first)


def test_the_distilled_loss_is_the_weighted_sum_and_freezes_the_teacher():
    teacher = small()
    distiller = KnowledgeDistillation(teacher, 2.0, DistillationLossWeights(0.7, 0.3))
    ids = torch.randint(40, (4, 3))
    target, _ = distiller.teach(ids)
    assert not target.requires_grad
    student, _ = small(nn.GRU)(ids)
    own = student.square().mean()
    expected = 0.7 * distillation_loss(student, target, 2.0) + 0.3 * own
    assert torch.equal(distiller.loss(student, target, own), expected)
    assert KnowledgeDistillation(teacher, weights=0.25).weights == (0.25, 0.75, 0.0)
    with pytest.raises(DistillerError, match="not above 0"):
        KnowledgeDistillation(teacher, 0.0)
    with pytest.raises(DistillerError, match="negative"):
        KnowledgeDistillation(teacher, 1.0, -0.5)


def test_half_of_a_tied_matrix_cannot_follow_a_schedule_of_bits():
    def quantizer(*own):
        overrides = {end: {"bits_weights": 4} for end in own}
        return QuantAwareTrainRangeLinearQuantizer(
            small(), bits_weights=4, bits_schedule={1: 2}, overrides=overrides
        )

    for end in ("encoder", "decoder"):
        with pytest.raises(QuantizationError, match="cannot follow bits_schedule by half"):
            quantizer(end).prepare_model()
    quantizer("encoder", "decoder").prepare_model()
    quantizer().prepare_model()


@pytest.mark.parametrize("end, bits", [("decoder", None), ("encoder", None), ("decoder", 4)])
def test_the_ends_of_a_tied_model_have_the_same_bits(end, bits):
    overrides = {end: {"bits_weights": bits}}
    with pytest.raises(QuantizationError, match="'encoder' and 'decoder' are tied to one matrix"):
        WRPNQuantizer(small(), bits_weights=2, overrides=overrides).prepare_model()
