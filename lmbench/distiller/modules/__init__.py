"""Operations and recurrent layers as modules that can be named, observed and quantized."""

from __future__ import annotations

from types import ModuleType

from lmbench.distiller.compat import aliased_submodule
from lmbench.distiller.modules.cells import (
    DistillerGRUCell,
    DistillerLSTMCell,
    DistillerRNNCell,
    ModularCell,
)
from lmbench.distiller.modules.convert import (
    convert_model_to_distiller_lstm,
    convert_model_to_modular,
    convert_model_to_pytorch,
)
from lmbench.distiller.modules.eltwise import EltwiseAdd, EltwiseDiv, EltwiseMult, EltwiseSub
from lmbench.distiller.modules.grouping import BatchMatmul, Chunk, Concat, Matmul, Split, Stack
from lmbench.distiller.modules.recurrent import (
    DistillerGRU,
    DistillerLSTM,
    DistillerRNN,
    ModularRecurrent,
)

__all__ = [
    "BatchMatmul",
    "Chunk",
    "Concat",
    "DistillerGRU",
    "DistillerGRUCell",
    "DistillerLSTM",
    "DistillerLSTMCell",
    "DistillerRNN",
    "DistillerRNNCell",
    "EltwiseAdd",
    "EltwiseDiv",
    "EltwiseMult",
    "EltwiseSub",
    "Matmul",
    "ModularCell",
    "ModularRecurrent",
    "Split",
    "Stack",
    "convert_model_to_distiller_lstm",
    "convert_model_to_modular",
    "convert_model_to_pytorch",
]


def __getattr__(name: str) -> ModuleType:
    return aliased_submodule(__name__, name)
