"""Knowledge distillation: a model learns from a teacher too (Hinton et al. 2015).

arXiv 1503.02531: the student matches the teacher's distribution, softened by a temperature, as
well as the words themselves.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from lmbench.distiller.errors import DistillerError
from lmbench.distiller.pruning.masks import MaskDict
from lmbench.distiller.schedules.policies import (
    LossComponent,
    Meta,
    PolicyLoss,
    ScheduledTrainingPolicy,
)

__all__ = [
    "DistillationLossWeights",
    "KnowledgeDistillation",
    "KnowledgeDistillationPolicy",
    "add_distillation_args",
    "distillation_loss",
]


def add_distillation_args(
    argparser: ArgumentParser,
    arch_choices: Sequence[str] | None = None,
    enable_pretrained: bool = False,
) -> None:
    """Add the original's flags of distillation: ``--kd-teacher``, ``--kd-temperature`` and so on.

    Args:
        argparser: gets a group of them.
        arch_choices: the teachers that may be named; any when left out.
        enable_pretrained: add ``--kd-pretrained``.
    """
    group = argparser.add_argument_group("Knowledge Distillation Training Arguments")
    group.add_argument("--kd-teacher", choices=arch_choices, metavar="ARCH", help="teacher's model")
    if enable_pretrained:
        group.add_argument("--kd-pretrained", action="store_true", help="a pretrained teacher")
    group.add_argument("--kd-resume", type=str, default="", metavar="PATH", help="its checkpoint")
    group.add_argument("--kd-temperature", "--kd-temp", type=float, default=1.0, dest="kd_temp")
    for part, weight in (("distill", 0.5), ("student", 0.5), ("teacher", 0.0)):
        group.add_argument(f"--kd-{part}-wt", f"--kd-{part[0]}w", type=float, default=weight)
    group.add_argument("--kd-start-epoch", type=int, default=0, help="first epoch with the teacher")


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


class KnowledgeDistillationPolicy(ScheduledTrainingPolicy):
    """A teacher as a policy of a scheduler: at its epochs the loss is also that against it.

    The training calls `forward` in place of the student, so that both get the same inputs.

    Args:
        student_model: the model in training.
        teacher_model: a trained model with the same outputs; put into evaluation mode and frozen.
        temperature: softens both distributions; above 0.
        loss_weights: of the parts.

    Raises:
        DistillerError: as `KnowledgeDistillation`, or a weight for the teacher's own loss.
    """

    def __init__(
        self,
        student_model: nn.Module,
        teacher_model: nn.Module,
        temperature: float = 1.0,
        loss_weights: DistillationLossWeights = DistillationLossWeights(0.5, 0.5, 0),  # noqa: B008
    ) -> None:
        super().__init__()
        loss_weights = DistillationLossWeights(*loss_weights)
        if loss_weights.teacher:
            raise DistillerError("distillation weights: the teacher is not trained; give it 0")
        self.student = student_model
        self.distillation = KnowledgeDistillation(teacher_model, temperature, loss_weights)
        self.active = False
        self._logits: tuple[Tensor, Tensor] | None = None

    def forward(self, *inputs: Any) -> Any:
        """The student's outputs; the teacher's are kept for the loss.

        Of a tuple, as a language model gives (logits, hidden state), the first is the logits. The
        teacher gets the student's hidden state when that is among the inputs, so its own is as
        wide; carry another teacher's with `KnowledgeDistillation`.
        """
        outputs = self.student(*inputs)
        if self.active:
            self._logits = _logits(outputs), _logits(self.distillation.teach(*inputs))
        return outputs

    def on_epoch_begin(
        self, model: nn.Module, zeros_mask_dict: MaskDict, meta: Meta, **kwargs: Any
    ) -> None:
        self.active = True

    def on_minibatch_begin(
        self,
        model: nn.Module,
        epoch: int,
        minibatch_id: int,
        minibatches_per_epoch: int,
        zeros_mask_dict: MaskDict,
        meta: Meta,
        optimizer: Optimizer | None = None,
    ) -> None:
        # Also here, since a resumed run does not begin its epoch a second time.
        self.active = True

    def on_epoch_end(
        self, model: nn.Module, zeros_mask_dict: MaskDict, meta: Meta, **kwargs: Any
    ) -> None:
        self.active, self._logits = False, None

    def before_backward_pass(
        self,
        model: nn.Module,
        epoch: int,
        minibatch_id: int,
        minibatches_per_epoch: int,
        loss: Tensor,
        zeros_mask_dict: MaskDict,
        optimizer: Optimizer | None = None,
    ) -> PolicyLoss:
        if self._logits is None:
            raise DistillerError(
                "KnowledgeDistillationPolicy: the student ran without its teacher; call the "
                "policy's forward in place of the model, and on_epoch_begin before"
            )
        student, teacher = self._logits
        self._logits = None
        temperature, weights = self.distillation.temperature, self.distillation.weights
        divergence = distillation_loss(student, teacher, temperature)
        overall = weights.distill * divergence + weights.student * loss
        # As in the original without weight and temperature, so that runs can be compared.
        plain = divergence.detach() / temperature**2
        return PolicyLoss(overall, [LossComponent("Distill Loss", plain)])


def _logits(outputs: Any) -> Tensor:
    return outputs[0] if isinstance(outputs, tuple) else outputs
