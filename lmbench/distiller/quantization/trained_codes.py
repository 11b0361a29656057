"""Training under codes: the scales of a weight that is a sum of scaled signs while it trains.

Forward passes compute with the codes of Xu et al. 2018 (arXiv 1802.00150, section 4; see `codes`),
and gradients go to the float weights unchanged. The paper alternates anew at every step. Here each
step takes for every weight the nearest sum, which is one of the two alternating halves, and fits
scales anew for one of `SHARES` parts of the rows, with its own start and all rounds: a row's
scales are never older than so many steps, and a step costs a few passes over the weights.

The scales are state. They are buffers of the module, so that checkpoints have them, what is
evaluated has the levels that were trained, and packing finds them.

Scales can also be learned with the weights (LSQ, Esser et al. 2020, arXiv 1902.08153): those of a
row's group keep their ratios, and one step for all of them has a gradient.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from lmbench.distiller.quantization.codes import AT_ONCE, Codes, fit_codes, nearest_levels, unit_for
from lmbench.distiller.quantization.fake_quantization import gradient_passed_to
from lmbench.distiller.quantization.modes import CODE_BITS

__all__ = ["CODE_BUFFERS", "LEARNED", "SHARES", "Passes", "TrainedCodes"]

SHARES = 64
CODE_BUFFERS = ("code_unit", "code_steps", "code_group")
LEARNED = ("code_fitted", "code_learned")
"""The scales as they were fitted, and the steps (R, groups) that are learned since."""

_LEAST = 1e-30


class Passes(Protocol):
    """The passes over all weights, fp32 on a CPU, where they are compiled."""

    def image(self, weight: Tensor, unit: Tensor, steps: Tensor, group: int) -> Tensor:
        """(R, C) `nearest_levels` of pruned weights, times their unit; to the bit."""
        ...

    def step_gradients(
        self, weight: Tensor, image: Tensor, grad: Tensor, used: Tensor, most: int, group: int
    ) -> Tensor:
        """(R, groups) those of learned steps; see `_step_gradients`."""
        ...


class TrainedCodes:
    """The codes of one weight (R, C), and its image under them.

    Args:
        module: holds the buffers: `code_unit` (R, 1) and `code_steps` (4, R, groups) as in `Codes`,
            where bits that it does not have are 0, and `code_group`, the columns of a group.
        weight: its floats.
        group_size: as `fit_codes` takes it.
        learned: give the scales a gradient, by the parameter `code_learned`.

    Attributes:
        passes: compiled ones that this process may take; None for torch's operations.
    """

    passes: ClassVar[Passes | None] = None

    def __init__(
        self, module: nn.Module, weight: Tensor, group_size: int | None, *, learned: bool = False
    ) -> None:
        rows, columns = weight.shape
        group = min(group_size or columns, columns)
        steps = torch.zeros(CODE_BITS[1], rows, -(-columns // group), dtype=torch.uint8)
        self._module, self._weight, self._group = module, weight, group
        module.register_buffer("code_unit", torch.ones(rows, 1).to(weight.device))
        module.register_buffer("code_steps", steps.to(weight.device))
        module.register_buffer("code_group", torch.tensor(group, device=weight.device))
        self._image: tuple[object, Tensor] | None = None
        self._scaled: object = None
        if learned:
            module.register_buffer("code_fitted", steps.clone().to(weight.device))
            ones = torch.ones(steps.shape[1:], device=weight.device)
            module.register_parameter("code_learned", nn.Parameter(ones))

    @property
    def learned(self) -> nn.Parameter | None:
        """The steps (R, groups) that are learned, where they are."""
        return self._module._parameters.get("code_learned")

    def fit(self, bits: int, rows: slice | Tensor = slice(None)) -> None:
        """Fit the scales of these rows to the weights as they are, for codes of `bits` signs."""
        fitted = fit_codes(self._weight.detach()[rows], bits, self._group, pruned=True)
        held = self._held()
        held.unit[rows] = fitted.unit
        held.steps[:bits, rows] = fitted.steps
        held.steps[bits:, rows] = 0
        if (learned := self.learned) is not None:
            # A scale that is none could not be learned.
            least = self._has_weights(rows).to(torch.uint8)
            ratios = self._module.get_buffer("code_fitted")
            ratios[:bits, rows] = held.steps[:bits, rows].maximum(least)
            ratios[bits:, rows] = 0
            with torch.no_grad():
                top = ratios[:, rows].sum(0) * held.unit[rows]
                learned[rows] = top / (2**bits - 1)

    def fit_share(self, bits: int, step: int) -> None:
        """As `fit`, of the rows whose turn it is at this step of the training; of learned scales
        only where all weights of a group were pruned and some have come back."""
        size = -(-len(self._weight) // SHARES)
        rows = slice(first := step % SHARES * size, first + size)
        if first >= len(self._weight):
            return
        if self.learned is not None:
            ratios = self._module.get_buffer("code_fitted")[:, rows]
            back = (self._has_weights(rows) & (ratios.sum(0) == 0)).any(1)
            if bool(back.any()):
                self.fit(bits, back.nonzero().flatten() + first)
            return
        self.fit(bits, rows)

    def _has_weights(self, rows: slice | Tensor) -> Tensor:
        """(rows, groups): is any weight of the group not 0?"""
        groups = (self._weight.detach()[rows] != 0).split(self._group, dim=1)
        return torch.stack([group.any(1) for group in groups], 1)

    def image(self, bits: int) -> Tensor:
        """(R, C) the nearest sum of each weight; a weight of 0 stays 0. Its gradient passes to the
        weights unchanged, and to the steps where they are learned."""
        if (learned := self.learned) is None:
            return gradient_passed_to(self._weight, self._levels(bits))
        self._scale(bits, learned.detach())
        unit, steps = self._held()
        used = steps.sum(0) * unit / (2**bits - 1)
        return _LearnedSteps.apply(  # type: ignore[return-value]
            self._weight, learned, used, self._levels(bits), 2**bits - 1, self._group
        )

    def _scale(self, bits: int, learned: Tensor) -> None:
        """Take the scales that the learned steps (R, groups) stand for: whole units, as in `Codes`,
        in the ratios that were fitted."""
        unit, steps = self._held()
        ratios = self._module.get_buffer("code_fitted")
        of = (learned.data_ptr(), learned._version, ratios._version, bits)
        if of == self._scaled:
            return
        self._scaled = of
        # An update may throw one below zero.
        top = learned.clamp(min=_LEAST) * (2**bits - 1)
        unit.copy_(unit_for(top.amax(1, keepdim=True), bits))
        fresh = (ratios * (top / unit / ratios.sum(0).clamp(min=1))).round()
        # A code without a scale would be a bit less.
        steps.copy_(torch.where(ratios > 0, fresh.clamp(min=1), 0))

    def _levels(self, bits: int) -> Tensor:
        """The image itself, made once for the same weights and scales: a tied matrix is asked for
        twice a step."""
        unit, steps = self._held()
        of = (self._weight.data_ptr(), self._weight._version, unit._version, steps._version, bits)
        if self._image is None or self._image[0] != of:
            weight, steps = self._weight.detach(), steps[:bits]
            if passes := _passes_for(weight):
                image = passes.image(weight, unit, steps, self._group)
            else:
                image = nearest_levels(weight, unit, steps, self._group, pruned=True).mul_(unit)
            self._image = of, image
        return self._image[1]

    def _held(self) -> Codes:
        """The buffers, which moving the module to another device replaces."""
        return Codes(self._module.get_buffer("code_unit"), self._module.get_buffer("code_steps"))


class _LearnedSteps(torch.autograd.Function):
    """The image of weights under steps that are learned: equation 3 of the paper, for
    levels that need not be equally far apart. Weights beyond the largest get their gradient, too,
    as with all quantizers here."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        learned: Tensor,
        used: Tensor,
        image: Tensor,
        most: int,
        group: int,
    ) -> Tensor:
        # The steps `used` are the learned ones in whole units.
        ctx.save_for_backward(weight, used, image)
        ctx.most, ctx.group = most, group
        return image.view_as(image)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:
        weight, used, image = ctx.saved_tensors
        grad = grad_outputs[0].contiguous()
        passes = _passes_for(weight)
        step_gradients = passes.step_gradients if passes else _step_gradients
        found = step_gradients(weight, image, grad, used, ctx.most, ctx.group)
        return grad, found, None, None, None, None


def _step_gradients(
    weight: Tensor, image: Tensor, grad: Tensor, used: Tensor, most: int, group: int
) -> Tensor:
    """(R, groups) the gradients of the steps, from that of the image (R, C)."""
    found = torch.empty_like(used)
    at_once = max(1, AT_ONCE // weight.shape[1])
    for first in range(0, len(weight), at_once):
        piece = slice(first, first + at_once)
        parts = (each[piece].split(group, dim=1) for each in (weight, image, grad))
        for g, (cells, levels, grads) in enumerate(zip(*parts, strict=True)):
            step = used[piece, g : g + 1]
            inside = torch.empty_like(cells)
            # Beyond the largest level the image no longer follows the weight.
            torch.le(cells.abs(), step * most, out=inside)
            slope = torch.addcmul(levels, inside, cells, value=-1).mul_(grads)
            # A row without any weight has no step.
            over = torch.where(step > 0, step, 1)[:, 0] * (cells.shape[1] * most) ** 0.5
            found[piece, g] = slope.sum(1) / over
    return found


def _passes_for(weight: Tensor) -> Passes | None:
    fits = weight.dtype == torch.float32 and weight.device.type == "cpu"
    return TrainedCodes.passes if fits and weight.is_contiguous() else None
