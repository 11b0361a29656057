"""Learning from a dense teacher while being pruned or quantized (Hinton et al. 2015).

arXiv 1503.02531: the student matches the teacher's distribution, softened by a temperature, as
well as the words themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import DistillerError

__all__ = ["DistillationLossWeights", "KnowledgeDistillation", "distillation_loss"]


class DistillationLossWeights(NamedTuple):
    """Weights of the three parts of the loss.

    Attributes:
        distill: divergence from the teacher.
        student: the student's own loss.
        teacher: the teacher's loss, which only a trained teacher needs.
    """

    distill: float
    student: float
    teacher: float = 0.0


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of the softened distributions, a mean over predictions.

    The factor T^2 keeps the gradient's size independent of the temperature.

    Args:
        student_logits: (…, words).
        teacher_logits: of the same shape; no gradient flows to it.
        temperature: above 0.
    """
    words = student_logits.shape[-1]
    student = F.log_softmax(student_logits.reshape(-1, words) / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.detach().reshape(-1, words) / temperature, dim=-1)
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


class KnowledgeDistillation:
    """A teacher, and the loss against it.

    Args:
        teacher: a trained model; put into evaluation mode and frozen.
        temperature: softens both distributions; above 0.
        weights: of the parts; or a number w for w distill and 1 - w student.

    Raises:
        DistillerError: a temperature that is not above 0, or a negative weight.
    """

    def __init__(
        self,
        teacher: nn.Module,
        temperature: float = 1.0,
        weights: DistillationLossWeights | float = 0.5,
    ) -> None:
        if not temperature > 0:
            raise DistillerError(f"distillation temperature: {temperature} is not above 0")
        if isinstance(weights, int | float):
            weights = DistillationLossWeights(float(weights), 1.0 - float(weights))
        if min(weights) < 0:
            raise DistillerError(f"distillation weights must not be negative: {tuple(weights)}")
        self.teacher = teacher.eval().requires_grad_(False)
        self.temperature = temperature
        self.weights = weights

    @torch.no_grad()
    def teach(self, *inputs: Any) -> Any:
        """Runs the teacher on what the student gets."""
        return self.teacher(*inputs)

    def loss(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        student_loss: Tensor | Callable[[], Tensor],
    ) -> Tensor:
        """The weighted sum.

        Args:
            student_logits, teacher_logits: (…, words).
            student_loss: the student's own loss, or what computes it.
        """
        own = student_loss if isinstance(student_loss, Tensor) else student_loss()
        matched = distillation_loss(student_logits, teacher_logits, self.temperature)
        return self.weights.distill * matched + self.weights.student * own
