"""Knowledge distillation: the student also learns from a teacher's predictions."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lmbench.model.rnn import Hidden, RNNModel, detach
from lmbench.training.loss import DecoderLoss, DrawnWords, Teacher
from lmbench.training.objective import Adjust, CrossEntropy, Objective
from lmbench.training.regularisation import OFF, Regularisation, at_least_fp32
from lmbench.training.step import as_fp32, run_layers

__all__ = ["Distillation", "draw_words"]

# Of predictions that are added up at a time, few enough to stay in a core's cache.
_AT_ONCE = 1 << 22


class Distillation(Objective):
    """A blend of cross-entropy and the divergence from a teacher (Hinton et al. 2015).

    The gradients are those of ``(1 - weight) * CE + weight * T**2 * KL(teacher_T || student_T)``,
    both in nats a token, where the distributions are softened by the temperature T (arXiv
    1503.02531); a schedule's callback is handed the cross-entropy. The teacher reads the same
    windows, its own state carried from one to the next.

    With `samples` it reads the text in the first epoch alone. Words are drawn from each of its
    predictions then, and stand for it from there on: they are the same in every epoch, whatever
    windows the text is cut into.

    Args:
        teacher: a model over the same vocabulary; it is never changed.
        temperature: T. At 1 a step takes the compiled kernels, where there are any.
        weight: the teacher's share, in [0, 1].
        regularisation: of the student; the teacher's words and activations are whole.
        loss: of the student; the teacher computes in its precision, too. Left out, one in fp32.
        samples: how many words are drawn from a prediction, at temperature 1; 0 for none.
        rows: of the text, where words are drawn.
    """

    def __init__(
        self,
        teacher: RNNModel,
        temperature: float,
        weight: float,
        regularisation: Regularisation = OFF,
        loss: DecoderLoss | None = None,
        *,
        samples: int = 0,
        rows: int = 0,
    ) -> None:
        self._teacher = teacher.eval().requires_grad_(False)
        self._temperature = temperature
        self._weight = weight
        self._loss = loss or DecoderLoss(into_grad=True)
        self._objective = CrossEntropy(self._loss, regularisation, replay=False)
        self._hidden: Hidden | None = None
        self._samples, self._rows = samples, rows
        self._words = torch.empty(0)
        self._row = self._drawn = 0

    def start_epoch(self, batch_size: int) -> None:
        self._hidden = self._teacher.init_hidden(batch_size)
        self._row = 0
        if self._samples and not self._drawn:
            self._words = torch.zeros(
                self._rows, batch_size, self._samples, dtype=self._number_of_a_word()
            )

    def gradients(
        self,
        model: RNNModel,
        input: Tensor,
        target: Tensor,
        hidden: Hidden,
        adjust: Adjust | None,
    ) -> tuple[Tensor, Hidden]:
        if self._samples:
            self._loss.drawn = DrawnWords(self._words_of(input), self._weight)
        else:
            self._loss.teacher = self._read(input)
        return self._objective.gradients(model, input, target, hidden, adjust)

    @torch.no_grad()
    def _read(self, input: Tensor) -> Teacher:
        """What the teacher predicts of the next window, ids [T, B]."""
        assert self._hidden is not None
        teacher, decoder = self._teacher, self._teacher.decoder
        output, state = run_layers(
            teacher.rnn, teacher.encoder(input), self._hidden, self._loss.precision
        )
        if teacher.projection is not None:
            output = teacher.projected(at_least_fp32(output))
        self._hidden = as_fp32(detach(state))
        flat = output.flatten(0, 1)
        return Teacher(flat, decoder.weight, decoder.bias, self._temperature, self._weight)

    def _words_of(self, input: Tensor) -> Tensor:
        """The words [T * B, samples] for the next window, drawn where it was not read before."""
        window = slice(self._row, self._row + len(input))
        self._row = window.stop
        if window.stop > self._drawn:
            half = self._loss.precision == "bf16"
            words = draw_words(self._read(input), self._samples, torch.bfloat16 if half else None)
            self._words[window] = words.unflatten(0, input.shape).to(self._words)
            self._drawn = window.stop
        return self._words[window].flatten(0, 1).long().to(input.device)

    def _number_of_a_word(self) -> torch.dtype:
        return torch.uint16 if len(self._teacher.decoder.weight) <= 2**16 else torch.int32

    def tensors(self) -> dict[str, Tensor]:
        if self._hidden is None:
            return {}
        state = self._hidden if isinstance(self._hidden, tuple) else (self._hidden,)
        found = {f"teacher.{number}": tensor for number, tensor in enumerate(state)}
        if self._samples:
            # As bytes: several processes cannot send each other numbers of 16 bits.
            found["words"] = self._words.view(torch.uint8)
            found["rows"] = torch.tensor([self._row, self._drawn])
        return found

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        device = self._teacher.decoder.bias.device
        state = [tensors[name].to(device) for name in ("teacher.0", "teacher.1") if name in tensors]
        if state:
            self._hidden = state[0] if len(state) == 1 else (state[0], state[1])
        if self._samples and "words" in tensors:
            self._words = tensors["words"].view(self._number_of_a_word())
            self._row, self._drawn = tensors["rows"].tolist()


@torch.no_grad()
def draw_words(teacher: Teacher, count: int, dtype: torch.dtype | None = None) -> Tensor:
    """Words [N, count] of each row of its predictions, each as often as it is likely.

    Systematic sampling: a word of probability p is among them p * count times, rounded up or down,
    and that often on average.

    Args:
        dtype: what the products are computed in; None for that of the weights.
    """
    weight = teacher.weight.to(dtype or teacher.weight.dtype)
    teacher = replace(teacher, weight=weight, bias=teacher.bias.to(weight))
    found = []
    at_once = max(1, _AT_ONCE // len(weight))
    for first in range(0, len(teacher.hidden), at_once):
        predicted = teacher.probabilities(slice(first, first + at_once), weight.dtype)
        ends = predicted.to(torch.promote_types(predicted.dtype, torch.float32)).cumsum(1)
        steps = torch.arange(count, device=ends.device) + torch.rand_like(ends[:, :1])
        places = torch.searchsorted(ends, ends[:, -1:] * steps / count, right=True)
        found.append(places.clamp_(max=len(weight) - 1))
    return torch.cat(found)
