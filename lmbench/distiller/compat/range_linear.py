"""``distiller.quantization.range_linear``."""

from lmbench.distiller.quantization.clipping import ClipMode
from lmbench.distiller.quantization.command_line import add_post_train_quant_args
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
from lmbench.distiller.quantization.training_time import QuantAwareTrainRangeLinearQuantizer
from lmbench.distiller.quantization.weights import (
    RangeLinearEmbeddingWrapper,
    RangeLinearQuantParamLayerWrapper,
)
from lmbench.distiller.quantization.wrappers import RangeLinearQuantWrapper
