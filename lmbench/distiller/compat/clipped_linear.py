"""The original's module of this name: the training-time quantizers of DoReFa, PACT and WRPN."""

from lmbench.distiller.quantization.training_time import (
    DorefaQuantizer,
    PACTQuantizer,
    WRPNQuantizer,
)

__all__ = ["DorefaQuantizer", "PACTQuantizer", "WRPNQuantizer"]
