"""From this package's scales and integers to those of torch's quantized tensors.

torch counts x = (q - zero_point) * scale, so its scale is the inverse of the one here and its zero
point has the other sign; integers move by half their range where only one side has a sign.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lmbench.distiller.quantization.scale_and_zero_point import LinearQuantMode, linear_dequantize

__all__ = ["distiller_qparams_to_pytorch", "distiller_quantized_tensor_to_pytorch"]


def distiller_qparams_to_pytorch(
    scale: float | Tensor,
    zp: float | Tensor,
    num_bits: int,
    distiller_mode: LinearQuantMode,
    dest_dtype: torch.dtype,
    reduce_range: bool = False,
) -> tuple[Tensor, Tensor]:
    """Scale and zero point as torch's quantized tensors have them.

    Args:
        scale, zp: of one tensor, or one a channel.
        num_bits: of the integers.
        distiller_mode: how the range maps to them.
        dest_dtype: torch.qint8 or torch.quint8.
        reduce_range: for the same range in one bit less, which some of torch's kernels need.

    Returns:
        0-dim, or (channels,); the zero points are integers.
    """
    scale, zp = torch.as_tensor(scale).squeeze(), torch.as_tensor(zp).squeeze()
    signed_asymmetric = distiller_mode.signed and not distiller_mode.symmetric
    half = 2 ** (num_bits - 1)
    if reduce_range:
        low, high = distiller_mode.quantized_range(num_bits)
        new_low, new_high = distiller_mode.quantized_range(num_bits - 1)
        ratio = (new_high - new_low) / (high - low)
        offset = half if signed_asymmetric else 0
        half //= 2
        scale = scale * ratio
        zp = torch.round((zp - offset) * ratio) + (half if signed_asymmetric else 0)
    shift = {(True, True): 0, (False, False): 0, (True, False): half, (False, True): -half}
    moved = shift[distiller_mode.signed, dest_dtype == torch.qint8] - zp
    return 1 / scale, moved.round().long()


def distiller_quantized_tensor_to_pytorch(
    tensor: Tensor,
    scale: float | Tensor,
    zp: float | Tensor,
    num_bits: int,
    distiller_mode: LinearQuantMode,
    dest_dtype: torch.dtype,
    per_channel: bool = False,
    channel_dim: int = 0,
) -> Tensor:
    """Integers, held in any type, as one of torch's quantized tensors; arguments as above.

    Args:
        per_channel: `scale` and `zp` are of the slices along `channel_dim`.
    """
    own = distiller_qparams_to_pytorch(scale, zp, num_bits, distiller_mode, dest_dtype)
    if per_channel:
        shape = [1] * tensor.dim()
        shape[channel_dim] = -1
        scale, zp = (torch.as_tensor(each).reshape(shape) for each in (scale, zp))
    values = linear_dequantize(tensor.float(), scale, zp)
    if per_channel:
        return torch.quantize_per_channel(values, *own, channel_dim, dest_dtype)
    return torch.quantize_per_tensor(values, *own, dest_dtype)
