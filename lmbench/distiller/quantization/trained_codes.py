"""Training under codes: the scales of a weight that is a sum of scaled signs while it trains.

Forward passes compute with the codes of Xu et al. 2018 (arXiv 1802.00150, section 4; see `codes`),
and gradients go to the float weights unchanged. The paper alternates anew at every step. Here each
step takes for every weight the nearest sum, which is one of the two alternating halves, and fits
scales anew for one of `SHARES` parts of the rows, with its own start and all rounds: a row's
scales are never older than so many steps, and a step costs a few passes over the weights.

The scales are state. They are buffers of the module, so that checkpoints have them, what is
evaluated has the levels that were trained, and packing finds them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lmbench.distiller.quantization.codes import Codes, fit_codes, nearest_levels
from lmbench.distiller.quantization.modes import CODE_BITS

__all__ = ["CODE_BUFFERS", "SHARES", "TrainedCodes"]

SHARES = 64
CODE_BUFFERS = ("code_unit", "code_steps", "code_group")


class TrainedCodes:
    """The codes of one weight (R, C), and its image under them.

    Args:
        module: holds the buffers: `code_unit` (R, 1) and `code_steps` (4, R, groups) as in `Codes`,
            where bits that it does not have are 0, and `code_group`, the columns of a group.
        weight: its floats.
        group_size: as `fit_codes` takes it.
    """

    def __init__(self, module: nn.Module, weight: Tensor, group_size: int | None) -> None:
        rows, columns = weight.shape
        group = min(group_size or columns, columns)
        steps = torch.zeros(CODE_BITS[1], rows, -(-columns // group), dtype=torch.uint8)
        self._module, self._weight, self._group = module, weight, group
        module.register_buffer("code_unit", torch.ones(rows, 1).to(weight.device))
        module.register_buffer("code_steps", steps.to(weight.device))
        module.register_buffer("code_group", torch.tensor(group, device=weight.device))
        self._image: tuple[object, Tensor] | None = None

    def fit(self, bits: int, rows: slice = slice(None)) -> None:
        """Fit the scales of these rows to the weights as they are, for codes of `bits` signs."""
        fitted = fit_codes(self._weight.detach()[rows], bits, self._group, pruned=True)
        held = self._held()
        held.unit[rows] = fitted.unit
        held.steps[:bits, rows] = fitted.steps
        held.steps[bits:, rows] = 0

    def fit_share(self, bits: int, step: int) -> None:
        """As `fit`, of the rows whose turn it is at this step of the training."""
        size = -(-len(self._weight) // SHARES)
        first = step % SHARES * size
        if first < len(self._weight):
            self.fit(bits, slice(first, first + size))

    def image(self, bits: int) -> Tensor:
        """(R, C) the nearest sum of each weight, without a gradient; a weight of 0 stays 0.

        Made once for the same weights and scales: a tied matrix is asked for twice a step.
        """
        unit, steps = self._held()
        of = (self._weight.data_ptr(), self._weight._version, unit._version, steps._version, bits)
        if self._image is None or self._image[0] != of:
            weight = self._weight.detach()
            levels = nearest_levels(weight, unit, steps[:bits], self._group, pruned=True)
            self._image = of, levels.mul_(unit)
        return self._image[1]

    def _held(self) -> Codes:
        """The buffers, which moving the module to another device replaces."""
        return Codes(self._module.get_buffer("code_unit"), self._module.get_buffer("code_steps"))
