"""Calling lstm.cpp: a layer of an LSTM over a window, and its gradients."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lmbench.compile_kernels import Unit
from lmbench.training.native.process import TERMS, openmp, usable
from lmbench.training.precision import Precision

__all__ = ["LSTM", "lstm_layer", "lstm_library", "prepared"]

LSTM = Unit(Path(__file__).with_name("lstm.cpp"))


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("steps", "batch", "inputs", "width")),
        *((name, ctypes.c_int32) for name in ("terms", "threads")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("x", "h", "c", "w_ih", "w_hh", "b_ih", "b_hh"),
                *("gates", "hidden", "cells", "out", "last_c", "grad"),
                *("grad_x", "grad_w_ih", "grad_w_hh", "grad_bias", "scratch", "parallel"),
            )
        ),
    )


def lstm_library() -> ctypes.CDLL | None:
    """The kernels, compiled if they have to be; None where they may not or cannot be used."""
    return usable(LSTM, prepared)


@cache
def prepared(library: ctypes.CDLL) -> ctypes.CDLL | None:
    """The library, ready to be called; None where the system does not let it multiply by tiles."""
    library.lmb_lstm_columns.restype = ctypes.c_int64
    library.lmb_lstm_scratch.restype = ctypes.c_int64
    return library if library.lmb_lstm_fits() else None


def lstm_layer(
    library: ctypes.CDLL,
    precision: Precision,
    x: Tensor,
    state: tuple[Tensor, ...],
    weights: tuple[Tensor, Tensor, Tensor, Tensor],
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One layer as `torch.nn.LSTM` has it: fp32 [T, B, E] to fp32 [T, B, H] and the last state.

    Args:
        state: [B, H] each; no gradient goes into it or comes from the state that is returned.
        weights: of the input, of the state, and their biases.
    """
    (_, batch, inputs), width = x.shape, weights[1].size(1)
    # The kernel trusts what it is given.
    wanted = [
        *2 * [(batch, width)],
        (4 * width, inputs),
        (4 * width, width),
        *2 * [(4 * width,)],
    ]
    given = [*state, *weights]
    if [t.shape for t in given] != wanted:
        raise ValueError(f"state and weights of {[list(t.shape) for t in given]}, not {wanted}")
    if not all(t.dtype == torch.float32 and t.device.type == "cpu" for t in (x, *given)):
        raise TypeError("input, state and weights must be fp32 on the CPU")
    out, last_h, last_c = _Function.apply(library, precision, x, *state, *weights)  # pyright: ignore[reportGeneralTypeIssues]
    return out, (last_h, last_c)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, library: ctypes.CDLL, precision: Precision, x: Tensor, *given: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        steps, batch, inputs = x.shape
        width = given[0].size(1)
        layer = _Layer(steps, batch, inputs, width, TERMS[precision], torch.get_num_threads())
        layer.parallel = openmp()
        operands = [t.detach().contiguous() for t in (x, *given)]
        for name, tensor in zip(
            ("x", "h", "c", "w_ih", "w_hh", "b_ih", "b_hh"), operands, strict=True
        ):
            setattr(layer, name, tensor.data_ptr())
        columns = library.lmb_lstm_columns(ctypes.byref(layer))
        kept = {
            "gates": torch.empty(4 * width, columns),
            "hidden": torch.empty(width, columns),
            "cells": torch.empty(width, columns),
        }
        made = {"out": torch.empty(steps, batch, width), "last_c": torch.empty(batch, width)}
        scratch = torch.empty(
            library.lmb_lstm_scratch(ctypes.byref(layer), 0), dtype=torch.uint8
        )  # fmt: skip
        for name, tensor in (*kept.items(), *made.items(), ("scratch", scratch)):
            setattr(layer, name, tensor.data_ptr())
        library.lmb_lstm_forward(ctypes.byref(layer))
        ctx.library, ctx.layer = library, layer
        # The layer has addresses only; these keep what is there.
        ctx.save_for_backward(*operands, *kept.values())
        last_h = made["out"][-1].clone()
        ctx.mark_non_differentiable(last_h, made["last_c"])
        return made["out"], last_h, made["last_c"]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        layer: _Layer | None = ctx.layer
        if layer is None:
            raise RuntimeError("the layer's gates became their gradients: backward() works once")
        ctx.layer = None
        _kept_alive = ctx.saved_tensors
        grad = grad.contiguous()
        gates = 4 * layer.width
        made = {
            "grad_x": torch.empty(layer.steps, layer.batch, layer.inputs),
            "grad_w_ih": torch.empty(gates, layer.inputs),
            "grad_w_hh": torch.empty(gates, layer.width),
            "grad_bias": torch.empty(gates),
        }
        size = ctx.library.lmb_lstm_scratch(ctypes.byref(layer), 1)
        scratch = torch.empty(size, dtype=torch.uint8)
        for name, tensor in (*made.items(), ("grad", grad), ("scratch", scratch)):
            setattr(layer, name, tensor.data_ptr())
        ctx.library.lmb_lstm_backward(ctypes.byref(layer))
        d_x, d_ih, d_hh, d_bias = made.values()
        return None, None, d_x, None, None, d_ih, d_hh, d_bias, d_bias
