"""The original's module of learning rate schedulers."""

from __future__ import annotations

from lmbench.distiller.schedules.lr_schedulers import MultiStepMultiGammaLR, PolynomialLR

__all__ = ["MultiStepMultiGammaLR", "PolynomialLR"]
