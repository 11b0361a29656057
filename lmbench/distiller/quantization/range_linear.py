"""The original's module of this name: quantization by ranges, after and during training."""

from .clipping import ClipMode
from .floating import FP16Wrapper, FPWrapper
from .linear import LinearQuantMode
from .post_training import PostTrainLinearQuantizer
from .settings import ModuleQuantMode
from .training_time import QuantAwareTrainRangeLinearQuantizer
from .weights import RangeLinearEmbeddingWrapper, RangeLinearQuantParamLayerWrapper
from .wrappers import (
    RangeLinearFakeQuantWrapper,
    RangeLinearQuantEltwiseAddWrapper,
    RangeLinearQuantEltwiseMultWrapper,
    RangeLinearQuantWrapper,
)

__all__ = [
    "ClipMode",
    "FP16Wrapper",
    "FPWrapper",
    "LinearQuantMode",
    "ModuleQuantMode",
    "PostTrainLinearQuantizer",
    "QuantAwareTrainRangeLinearQuantizer",
    "RangeLinearEmbeddingWrapper",
    "RangeLinearFakeQuantWrapper",
    "RangeLinearQuantEltwiseAddWrapper",
    "RangeLinearQuantEltwiseMultWrapper",
    "RangeLinearQuantParamLayerWrapper",
    "RangeLinearQuantWrapper",
]
