"""A student that learns from a teacher's predictions too."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lmbench.config import TrainConfig
from lmbench.corpus.batches import windows
from lmbench.distiller.quantization import QuantAwareTrainRangeLinearQuantizer
from lmbench.model import Hidden, RNNModel, build_model, detach
from lmbench.training import loss as loss_module
from lmbench.training.distillation import Distillation, draw_words
from lmbench.training.loss import DecoderLoss, DrawnWords, Teacher, add_rows

WORDS = 40
STEPS, BATCH = 25, 8


def small(model: str = "LSTM", seed: int = 0, **changes: object) -> RNNModel:
    torch.manual_seed(seed)
    shape = {"emsize": 10, "nhid": 10, "nlayers": 2, "dropout": 0.0, "tied": True}
    built = build_model(TrainConfig.model_validate({"model": model, **shape, **changes}), WORDS)
    with torch.no_grad():
        for parameter in built.parameters():
            # Far enough from even odds that predictions differ.
            parameter.mul_(6.0)
    return built


@pytest.fixture
def window() -> tuple[Tensor, Tensor]:
    data = torch.randint(WORDS, (STEPS + 1, BATCH), generator=torch.Generator().manual_seed(5))
    return next(iter(windows(data, STEPS)))


def gradients(
    distillation: Distillation, model: RNNModel, window: tuple[Tensor, Tensor], adjust=None
) -> tuple[float, dict[str, Tensor], Hidden]:
    """What one window leaves: the loss that is told, the gradients, the state."""
    model.train().zero_grad(set_to_none=True)
    loss, hidden = distillation.gradients(model, *window, model.init_hidden(BATCH), adjust)
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return float(loss), found, hidden


def by_hand(
    student: RNNModel,
    logits: Tensor,
    window: tuple[Tensor, Tensor],
    temperature: float,
    weight: float,
) -> tuple[float, dict[str, Tensor]]:
    """The blend as Hinton et al. write it, all rows at once, in probabilities."""
    model = copy.deepcopy(student).train()
    own, _ = model(window[0], model.init_hidden(BATCH))
    own = own.flatten(0, 1)
    entropy = F.cross_entropy(own, window[1])
    p = torch.softmax(logits / temperature, 1)
    q = torch.softmax(own / temperature, 1)
    divergence = (p * (p.log() - q.log())).sum(1).mean() * temperature**2
    ((1 - weight) * entropy + weight * divergence).backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return float(entropy.detach()), found


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN_TANH"])
@pytest.mark.parametrize("temperature, weight", [(1.0, 0.0), (1.0, 1.0), (2.5, 0.3)])
@pytest.mark.parametrize("projection", [False, True])
def test_the_gradient_is_that_of_the_blend(kind, temperature, weight, projection, window):
    emsize = 12 if projection else 14
    student = small(kind, projection=projection)
    teacher = small("LSTM", seed=1, emsize=emsize, nhid=14, projection=projection)
    with torch.no_grad():
        logits = teacher.eval()(window[0], teacher.init_hidden(BATCH))[0].flatten(0, 1)
    distillation = Distillation(teacher, temperature, weight)
    distillation.start_epoch(BATCH)
    loss, found, hidden = gradients(distillation, student, window)
    entropy, wanted = by_hand(student, logits, window, temperature, weight)
    assert loss == pytest.approx(entropy, rel=1e-5)
    assert set(found) == set(wanted)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)
    state = hidden[0] if isinstance(hidden, tuple) else hidden
    assert not state.requires_grad


def test_one_who_knows_all_the_teacher_knows_has_nothing_to_learn(window):
    student = small()
    distillation = Distillation(copy.deepcopy(student), 2.0, 1.0)
    distillation.start_epoch(BATCH)
    _, found, _ = gradients(distillation, student, window)
    assert all(float(gradient.abs().max()) < 1e-6 for gradient in found.values())


def test_the_teacher_never_changes_and_does_not_drop(window):
    teacher = small(seed=1, dropout=0.5).train()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    distillation = Distillation(teacher, 1.0, 0.5)
    results = []
    for _ in range(2):
        distillation.start_epoch(BATCH)
        results.append(gradients(distillation, small(), window)[1])
    for name, gradient in results[0].items():
        assert torch.equal(gradient, results[1][name])
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_the_teacher_reads_on_from_window_to_window_and_begins_again_with_the_epoch(window):
    teacher, student = small(seed=1), small()
    distillation = Distillation(teacher, 1.0, 1.0)
    distillation.start_epoch(BATCH)
    _, first, _ = gradients(distillation, student, window)
    _, second, _ = gradients(distillation, student, window)
    with torch.no_grad():
        _, state = teacher(window[0], teacher.init_hidden(BATCH))
        logits = teacher(window[0], detach(state))[0].flatten(0, 1)
    _, wanted = by_hand(student, logits, window, 1.0, 1.0)
    for name, gradient in wanted.items():
        torch.testing.assert_close(second[name], gradient, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(first["decoder.bias"], second["decoder.bias"], atol=1e-5)
    distillation.start_epoch(BATCH)
    _, again, _ = gradients(distillation, student, window)
    assert torch.equal(again["decoder.bias"], first["decoder.bias"])


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_resumed_teacher_goes_on_where_it_read(kind, window):
    teacher, student = small(kind, seed=1), small()
    one = Distillation(teacher, 1.0, 0.7)
    assert one.tensors() == {}
    one.start_epoch(BATCH)
    gradients(one, student, window)
    kept = {name: tensor.clone() for name, tensor in one.tensors().items()}
    assert len(kept) == (2 if kind == "LSTM" else 1)
    other = Distillation(copy.deepcopy(teacher), 1.0, 0.7)
    other.load_tensors(kept)
    _, wanted, _ = gradients(one, student, window)
    _, found, _ = gradients(other, student, window)
    for name, gradient in wanted.items():
        assert torch.equal(found[name], gradient)


def test_what_a_schedule_adds_to_the_loss_is_added(window):
    student = small()
    plain, more = (Distillation(small(seed=1), 1.0, 0.5) for _ in range(2))
    for one in (plain, more):
        one.start_epoch(BATCH)
    loss, without, _ = gradients(plain, student, window)
    same, found, _ = gradients(
        more, student, window, lambda value: value + student.decoder.bias.sum()
    )
    # Told is the cross-entropy, whatever is minimised.
    assert same == loss
    torch.testing.assert_close(found["decoder.bias"], without["decoder.bias"] + 1.0)
    torch.testing.assert_close(found["rnn.weight_hh_l0"], without["rnn.weight_hh_l0"])


def test_a_student_comes_to_predict_what_the_teacher_predicts(window):
    student, teacher = small(), small(seed=1)
    distillation = Distillation(teacher, 1.0, 1.0)
    optimizer = torch.optim.SGD(student.parameters(), lr=1.0)

    def distance() -> float:
        with torch.no_grad():
            p, q = (
                torch.log_softmax(m.eval()(window[0], m.init_hidden(BATCH))[0], -1)
                for m in (teacher, student)
            )
        return float(F.kl_div(q, p, reduction="batchmean", log_target=True))

    before = distance()
    for _ in range(60):
        distillation.start_epoch(BATCH)
        gradients(distillation, student, window)
        torch.nn.utils.clip_grad_norm_(student.parameters(), 0.25)
        optimizer.step()
    assert distance() < 0.5 * before


def test_a_student_of_few_bits_learns_by_its_image_which_is_made_once_a_window(window):
    """The gradients are those of a plain student whose weights are the image itself."""
    student, teacher = small(), small(seed=1)
    quantizer = QuantAwareTrainRangeLinearQuantizer(
        student, bits_activations=None, bits_weights=2, rounding="codes"
    )
    quantizer.prepare_model()
    plain, made = quantizer.plain_model(), []
    assert isinstance(plain, RNNModel)
    student.decoder.register_forward_pre_hook(lambda _module, _inputs: made.append(1))
    found = {}
    for name, model in (("coded", student), ("plain", plain)):
        distillation = Distillation(teacher, 2.0, 0.6)
        distillation.start_epoch(BATCH)
        found[name] = gradients(distillation, model, window)[1]
    assert len(made) == 1
    torch.testing.assert_close(
        found["coded"]["encoder.float_weight"], found["plain"]["encoder.weight"]
    )
    torch.testing.assert_close(
        found["coded"]["rnn.cells.1.fc_gate_h.float_weight"],
        found["plain"]["rnn.weight_hh_l1"],
    )


def predicting(counts: Tensor) -> Teacher:
    """A teacher that predicts each word of a row [N, V] in proportion to its count."""
    eye = torch.eye(len(counts), dtype=torch.float64)
    weight = counts.double().log().clamp(min=-100).T
    return Teacher(eye, weight, torch.zeros(counts.shape[1]).double(), 1.0, 0.7)


def test_words_are_drawn_as_often_as_they_are_likely() -> None:
    torch.manual_seed(3)
    counts = torch.randint(1, 9, (20, 50))
    counts[:, 11] = 0
    likely = counts / counts.sum(1, keepdim=True)
    sums = torch.zeros(20, 50)
    for _ in range(400):
        words = draw_words(predicting(counts), 16)
        assert words.shape == (20, 16)
        often = torch.zeros(20, 50).scatter_add_(1, words, torch.ones(20, 16))
        assert bool(((often - 16 * likely).abs() < 1).all())
        sums += often
    # A word is among them or not: the deviation of its share is at most a half of 400 draws' root.
    assert float((sums / 400 - 16 * likely).abs().max()) < 5 * 0.5 / 20
    assert not sums[:, 11].any()


def test_gradients_of_drawn_words_are_added_a_slice_of_the_window_at_a_time(monkeypatch) -> None:
    torch.manual_seed(4)
    drawn = DrawnWords(torch.randint(50, (20, 7)), 0.7)
    hidden, weight, targets = torch.randn(20, 12), torch.randn(50, 12), torch.randint(50, (20,))
    added: list[int] = []

    def add(into: Tensor, rows: Tensor, values: Tensor) -> None:
        added.append(values.numel())
        add_rows(into, rows, values)

    found = []
    monkeypatch.setattr(loss_module, "add_rows", add)
    for bound in (2**25, 3 * 8 * 12):
        monkeypatch.setattr(loss_module, "ROWS_TIMES_WORDS", bound)
        gradients = torch.zeros(20, 12), torch.zeros(50, 12), torch.zeros(50)
        drawn.pull(gradients, hidden, weight, targets)
        found.append(gradients)
        assert max(added) <= bound
        assert sum(added) == 20 * 8 * (12 + 1)
        added.clear()
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_gradient_of_drawn_words_is_the_teachers_where_they_are_in_its_proportions(
    precision, monkeypatch
) -> None:
    monkeypatch.setattr("lmbench.training.distillation._AT_ONCE", 200)
    torch.manual_seed(4)
    # Of so many words that the compiled kernel takes them, 64 have a chance at each position.
    rows, words, count = 40, 600, 128
    counts = torch.zeros(rows, words, dtype=torch.long)
    counts.scatter_(1, torch.rand(rows, words).argsort(1)[:, :64], 2)
    exact = predicting(counts)
    hidden, weight, bias = (t.float() for t in (exact.hidden, exact.weight, exact.bias))
    drawn = DrawnWords(draw_words(exact, count), 0.7)
    operands = [torch.randn(rows, 12), torch.randn(words, 12), torch.randn(words)]
    targets = torch.randint(words, (rows,))
    found = []
    for teacher, words_of_it in ((Teacher(hidden, weight, bias, 1.0, 0.7), None), (None, drawn)):
        loss = DecoderLoss(precision)
        loss.teacher, loss.drawn = teacher, words_of_it
        given = [t.clone().requires_grad_() for t in operands]
        value = loss(given[0], given[1], given[2], targets)
        (3 * value).backward()
        found.append((value.detach(), *(t.grad for t in given)))
    for one, other in zip(*found, strict=True):
        assert float((one - other).norm()) < (1e-5 if precision == "fp32" else 1e-2) * one.norm()


def test_drawn_words_teach_what_the_teacher_predicts(window) -> None:
    student, teacher = small(), small(seed=1)
    whole = Distillation(teacher, 1.0, 0.8)
    drawn = Distillation(teacher, 1.0, 0.8, samples=4096, rows=STEPS)
    for one in (whole, drawn):
        one.start_epoch(BATCH)
    loss, wanted, _ = gradients(whole, student, window)
    same, found, _ = gradients(drawn, student, window)
    assert same == pytest.approx(loss)
    for name, gradient in wanted.items():
        assert float((found[name] - gradient).norm()) < 5e-3 * float(gradient.norm())


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_teacher_reads_the_text_once_where_words_are_drawn(kind, window, monkeypatch) -> None:
    """Later windows have the same words, however they are cut and wherever the run was resumed."""
    teacher, student = small(kind, seed=1), small()
    ids = torch.cat((window[0], window[1].view(STEPS, BATCH)[-1:]))

    def learn(taught: Distillation, start: int, stop: int) -> Tensor:
        cut = ids[start:stop], ids[start + 1 : stop + 1].flatten()
        return gradients(taught, student, cut)[1]["decoder.bias"]

    one = Distillation(teacher, 1.0, 0.5, samples=8, rows=STEPS + 1)
    assert one.tensors() == {}
    one.start_epoch(BATCH)
    learn(one, 0, 10)
    kept = {name: tensor.clone() for name, tensor in one.tensors().items()}
    generator = torch.get_rng_state()
    first = learn(one, 10, STEPS)
    other = Distillation(copy.deepcopy(teacher), 1.0, 0.5, samples=8, rows=STEPS + 1)
    other.load_tensors(kept)
    torch.set_rng_state(generator)
    assert torch.equal(learn(other, 10, STEPS), first)
    monkeypatch.setattr(Distillation, "_read", lambda *_: pytest.fail("the teacher reads again"))
    for taught in (one, other):
        taught.start_epoch(BATCH)
        learn(taught, 0, 7)
        learn(taught, 7, 10)
        assert torch.equal(learn(taught, 10, STEPS), first)
