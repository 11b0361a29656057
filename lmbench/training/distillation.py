"""Knowledge distillation: the student also learns from a teacher's predictions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmbench.model.rnn import Hidden, RNNModel, detach
from lmbench.training.objective import Adjust, Objective, is_quantized_in_training
from lmbench.training.regularisation import OFF, Regularisation
from lmbench.training.step import features, minimised

__all__ = ["Distillation"]

# Rows of logits of teacher and student held at a time.
_ROWS = 128


class Distillation(Objective):
    """A blend of cross-entropy and the divergence from a teacher (Hinton et al. 2015).

    The loss is ``(1 - weight) * CE + weight * T**2 * KL(teacher_T || student_T)``, both in nats a
    token, where the distributions are softened by the temperature T (arXiv 1503.02531). The
    teacher reads the same windows, its own state carried from one to the next.

    Args:
        teacher: a model over the same vocabulary; it is never changed.
        temperature: T.
        weight: the teacher's share, in [0, 1].
        regularisation: of the student; the teacher's words and activations are whole.
    """

    def __init__(
        self,
        teacher: RNNModel,
        temperature: float,
        weight: float,
        regularisation: Regularisation = OFF,
    ) -> None:
        self._teacher = teacher.eval().requires_grad_(False)
        self._temperature = temperature
        self._weight = weight
        self._regularisation = regularisation
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
        words = model.encoder(input)  # [T, B, E]
        output, hidden, penalty = features(model, input, words, hidden, self._regularisation)
        assert self._hidden is not None
        with torch.no_grad():
            taught, state = self._teacher.features(input, self._hidden)
        self._hidden = detach(state)
        student, teacher = output.flatten(0, 1), taught.flatten(0, 1)  # [T * B, H]
        entropy, divergence = self._blend(model.decoder, student, teacher, target)
        loss = (1.0 - self._weight) * entropy + self._weight * divergence
        minimised(loss, adjust, penalty).backward()
        return entropy.detach(), detach(hidden)

    def _blend(
        self, decoder: nn.Module, student: Tensor, teacher: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy and mean softened divergence over the rows, a slice at a time."""
        rows, t = len(student), self._temperature
        assert isinstance(decoder, nn.Linear)
        if is_quantized_in_training(decoder):
            decoder(student[:1].detach())  # The quantizer makes the image before a call: once.
        entropy = divergence = student.new_zeros(())
        for start in range(0, rows, _ROWS):
            part = slice(start, start + _ROWS)
            logits = F.linear(student[part], decoder.weight, decoder.bias)  # [R, V]
            with torch.no_grad():
                wanted = F.log_softmax(self._teacher.decoder(teacher[part]) / t, dim=1)
            softened = F.log_softmax(logits / t, dim=1)
            kl = F.kl_div(softened, wanted, reduction="sum", log_target=True)
            divergence = divergence + t * t * kl / rows
            entropy = entropy + F.cross_entropy(logits, target[part], reduction="sum") / rows
        return entropy, divergence

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
