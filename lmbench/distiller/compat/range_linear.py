"""``distiller.quantization.range_linear``."""

from typing import NamedTuple

from torch import Tensor

from lmbench.distiller.quantization.clipping import ClipMode
from lmbench.distiller.quantization.clipping import (
    get_quant_params_from_stats_dict as _get_quant_params_from_stats_dict,
)
from lmbench.distiller.quantization.clipping import (
    get_quant_params_from_tensor as _get_quant_params_from_tensor,
)
from lmbench.distiller.quantization.command_line import add_post_train_quant_args
from lmbench.distiller.quantization.errors import NoStatsError
from lmbench.distiller.quantization.fake_quantization import FakeLinearQuantization
from lmbench.distiller.quantization.floating import FP16Wrapper, FPWrapper
from lmbench.distiller.quantization.operations import (
    RangeLinearFakeQuantWrapper,
    RangeLinearQuantConcatWrapper,
    RangeLinearQuantEltwiseAddWrapper,
    RangeLinearQuantEltwiseMultWrapper,
    RangeLinearQuantMatmulWrapper,
)
from lmbench.distiller.quantization.post_training import PostTrainLinearQuantizer
from lmbench.distiller.quantization.scale_and_zero_point import LinearQuantMode
from lmbench.distiller.quantization.settings import ModuleQuantMode
from lmbench.distiller.quantization.settings import TensorQuantSettings as QuantSettings
from lmbench.distiller.quantization.training_time import QuantAwareTrainRangeLinearQuantizer
from lmbench.distiller.quantization.weights import (
    RangeLinearEmbeddingWrapper,
    RangeLinearQuantParamLayerWrapper,
)
from lmbench.distiller.quantization.wrappers import RangeLinearQuantWrapper


class TensorQuantMetadata(NamedTuple):
    """What a tensor's values are multiples of, set on it as ``quant_metadata``."""

    scale: float | Tensor
    zero_point: float | Tensor
    min_q_val: int
    max_q_val: int
