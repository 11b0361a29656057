"""Knowledge distillation: the student also learns from a teacher's predictions."""

from __future__ import annotations

import torch
from torch import Tensor

from lmbench.model.rnn import Hidden, RNNModel, detach
from lmbench.training.loss import DecoderLoss, Teacher
from lmbench.training.objective import Adjust, CrossEntropy, Objective
from lmbench.training.regularisation import OFF, Regularisation, at_least_fp32
from lmbench.training.step import as_fp32, run_layers

__all__ = ["Distillation"]


class Distillation(Objective):
    """A blend of cross-entropy and the divergence from a teacher (Hinton et al. 2015).

    The gradients are those of ``(1 - weight) * CE + weight * T**2 * KL(teacher_T || student_T)``,
    both in nats a token, where the distributions are softened by the temperature T (arXiv
    1503.02531); a schedule's callback is handed the cross-entropy. The teacher reads the same
    windows, its own state carried from one to the next.

    Args:
        teacher: a model over the same vocabulary; it is never changed.
        temperature: T. At 1 a step takes the compiled kernels, where there are any.
        weight: the teacher's share, in [0, 1].
        regularisation: of the student; the teacher's words and activations are whole.
        loss: of the student; the teacher computes in its precision, too. Left out, one in fp32.
    """

    def __init__(
        self,
        teacher: RNNModel,
        temperature: float,
        weight: float,
        regularisation: Regularisation = OFF,
        loss: DecoderLoss | None = None,
    ) -> None:
        self._teacher = teacher.eval().requires_grad_(False)
        self._temperature = temperature
        self._weight = weight
        self._loss = loss or DecoderLoss(into_grad=True)
        self._objective = CrossEntropy(self._loss, regularisation, replay=False)
        self._hidden: Hidden | None = None

    def start_epoch(self, batch_size: int) -> None:
        self._hidden = self._teacher.init_hidden(batch_size)

    def gradients(
        self,
        model: RNNModel,
        input: Tensor,
        target: Tensor,
        hidden: Hidden,
        adjust: Adjust | None,
    ) -> tuple[Tensor, Hidden]:
        assert self._hidden is not None
        teacher, decoder = self._teacher, self._teacher.decoder
        with torch.no_grad():
            output, state = run_layers(
                teacher.rnn, teacher.encoder(input), self._hidden, self._loss.precision
            )
            if teacher.projection is not None:
                output = teacher.projected(at_least_fp32(output))
        self._hidden = as_fp32(detach(state))
        self._loss.teacher = Teacher(
            output.flatten(0, 1), decoder.weight, decoder.bias, self._temperature, self._weight
        )
        return self._objective.gradients(model, input, target, hidden, adjust)

    def tensors(self) -> dict[str, Tensor]:
        if self._hidden is None:
            return {}
        state = self._hidden if isinstance(self._hidden, tuple) else (self._hidden,)
        return {f"teacher.{number}": tensor for number, tensor in enumerate(state)}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        device = self._teacher.decoder.bias.device
        state = [tensors[f"teacher.{number}"].to(device) for number in range(len(tensors))]
        if state:
            self._hidden = state[0] if len(state) == 1 else (state[0], state[1])
