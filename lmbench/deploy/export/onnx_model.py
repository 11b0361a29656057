"""A whole recurrent language model as an ONNX graph, in fp32, int8, or int8 with a 4-bit decoder.

Built node by node, so that the graph is the same whatever torch's exporter does this year, tied
weights are stored once, and quantized layers are part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from lmbench.deploy.export import Bits
from lmbench.deploy.export.onnx_matrices import (
    PORTABLE,
    FloatMatrix,
    Int4Matrix,
    Int8Matrix,
    Matrix,
    quantize_int8,
    stored_int8,
)
from lmbench.deploy.export.onnx_nodes import CONTRIB, Graph, array_of, value
from lmbench.deploy.recurrent_weights import LayerWeights, RecurrentWeights
from lmbench.model_shapes import GATES

__all__ = ["Bits", "Network", "build_graph"]

# Torch's order of gates to ONNX's: LSTM i f g o to i o f c, GRU r z n to z r h.
_ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN_TANH": (0,), "RNN_RELU": (0,)}


def build_graph(
    weights: RecurrentWeights,
    bits: Bits = "fp32",
    *,
    score: bool = False,
    one_step: bool = False,
    zero_point: int = PORTABLE,
) -> onnx.ModelProto:
    """The model as ONNX.

    Inputs: ``ids`` int64 [T, B], ``h`` float [L, B, H], for an LSTM ``c`` like it. Outputs:
    ``logits`` float [T, B, V], ``h_out``, ``c_out``.

    Args:
        weights: the model.
        bits: how its weights are kept; activations of int8 products are quantized as they come.
        score: take ``targets`` int64 [T, B] too, and put out ``nll``, each one's negative
            log-likelihood [T, B], in place of the logits.
        one_step: T is 1: cells that have no quantized kernel of their own are then no loop.
        zero_point: of int8 weights, see `weights_zero_point`; a file may be run anywhere.
    """
    states = weights.state_names
    network = Network(weights, bits, zero_point)
    graph = network.graph
    logits, after = network.logits("ids", states, one_step=one_step)
    for name, part in zip(states, after, strict=True):
        graph.named(part, name + "_out")
    shape = graph.op("Shape", "ids")
    inputs = [value("ids", "int64", "T", "B")]
    if score:
        inputs.append(value("targets", "int64", "T", "B"))
        output = _nll(graph, logits, shape)
    else:
        full = graph.op("Concat", shape, graph.ints(weights.ntoken), axis=0)
        graph.named(graph.op("Reshape", logits, full), "logits")
        output = value("logits", "float", "T", "B", weights.ntoken)
    sizes = (weights.nlayers, "B", weights.nhid)
    return graph.model(
        inputs + [value(name, "float", *sizes) for name in states],
        [output] + [value(name + "_out", "float", *sizes) for name in states],
    )


class Network:
    """A model's nodes in a graph of its own, to which inputs and outputs are put."""

    def __init__(self, weights: RecurrentWeights, bits: Bits, zero_point: int = PORTABLE) -> None:
        self._weights = weights
        self._bits: Bits = bits
        self._zero_point = zero_point
        self.graph = Graph()

    def logits(
        self, ids: str, states: Sequence[str], *, one_step: bool = False
    ) -> tuple[str, list[str]]:
        """Ids [T, B] and the state before them, [L, B, H] each, to logits [T * B, V] and the state
        after them. `one_step`: see `build_graph`."""
        graph, weights, zero = self.graph, self._weights, self._zero_point
        encoder, decoder = _ends(graph, weights, self._bits, zero)
        before = [_layers_of(graph, name, weights.nlayers) for name in states]
        after: list[list[str]] = [[] for _ in states]
        x = encoder.rows(ids)  # [T, B, E]
        for i, layer in enumerate(weights.layers):
            state = [parts[i] for parts in before]
            if self._bits == "fp32":
                x, state = _float_layer(graph, weights.kind, i, layer, x, state)
            elif weights.kind == "LSTM":
                x, state = _int8_lstm(graph, layer, x, state, zero)
            else:
                loop = None if one_step else Graph(f"l{i}_")
                x, state = _int8_cell(graph, weights.kind, layer, (ids, x), state[0], loop, zero)
            for parts, part in zip(after, state, strict=True):
                parts.append(part)
        rows = graph.op("Reshape", x, graph.ints(-1, weights.nhid))  # [T * B, H]
        if weights.projection is not None:
            turned = array_of(weights.projection.t())
            rows = graph.op("MatMul", rows, graph.const(turned, "projection.weight"))  # [T * B, E]
        logits = decoder.times(rows, graph.const(array_of(weights.bias), "decoder.bias"))
        joined = [
            graph.op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0] for parts in after
        ]
        return logits, joined


def _ends(graph: Graph, weights: RecurrentWeights, bits: Bits, zero: int) -> tuple[Matrix, Matrix]:
    """Embedding and decoder; one object where they are tied."""
    decoder: Matrix
    if bits == "fp32":
        decoder = FloatMatrix(graph, weights.decoder, None if weights.tied else "decoder.weight")
    elif bits == "int8":
        decoder = Int8Matrix(graph, weights.decoder, zero)
    else:
        decoder = Int4Matrix(graph, weights.decoder)
    if weights.tied:
        return decoder, decoder
    if bits == "fp32":
        return FloatMatrix(graph, weights.encoder, "encoder.weight"), decoder
    return Int8Matrix(graph, weights.encoder, zero), decoder


def _layers_of(graph: Graph, state: str, layers: int) -> list[str]:
    """[L, B, H] to L times [1, B, H]."""
    if layers == 1:
        return [state]
    return graph.ops("Split", state, outputs=layers, axis=0)


def _nll(graph: Graph, logits: str, shape: str) -> onnx.ValueInfoProto:
    log_probs = graph.op("LogSoftmax", logits, axis=1)  # [T * B, V]
    targets = graph.op("Reshape", "targets", graph.ints(-1, 1))
    chosen = graph.op("GatherElements", log_probs, targets, axis=1)
    graph.named(graph.op("Reshape", graph.op("Neg", chosen), shape), "nll")
    return value("nll", "float", "T", "B")


def _ordered(tensor: Tensor, kind: str) -> Tensor:
    """Rows of a layer's tensor in ONNX's order of gates."""
    gates = tensor.detach().cpu().chunk(GATES[kind])
    return torch.cat([gates[i] for i in _ORDER[kind]])


def _biases(layer: LayerWeights, kind: str) -> np.ndarray:
    both = torch.cat([_ordered(layer.b_ih, kind), _ordered(layer.b_hh, kind)])
    return array_of(both)[None]  # [1, 2 G H]


def _float_layer(
    graph: Graph, kind: str, index: int, layer: LayerWeights, x: str, state: list[str]
) -> tuple[str, list[str]]:
    nhid = layer.w_hh.shape[1]
    operator = kind if kind in ("LSTM", "GRU") else "RNN"
    attributes: dict[str, Any] = {"hidden_size": nhid}
    if kind == "GRU":
        # As torch: the reset gate acts on the product with its bias, not on the state.
        attributes["linear_before_reset"] = 1
    elif operator == "RNN":
        attributes["activations"] = ["Tanh" if kind == "RNN_TANH" else "Relu"]
    y, *after = graph.ops(
        operator,
        x,
        graph.const(array_of(_ordered(layer.w_ih, kind))[None], f"rnn.weight_ih_l{index}"),
        graph.const(array_of(_ordered(layer.w_hh, kind))[None], f"rnn.weight_hh_l{index}"),
        graph.const(_biases(layer, kind), f"rnn.bias_l{index}"),
        "",
        *state,
        outputs=1 + len(state),
        **attributes,
    )
    return graph.op("Squeeze", y, graph.ints(1)), after  # [T, 1, B, H] to [T, B, H]


def _int8_lstm(
    graph: Graph, layer: LayerWeights, x: str, state: list[str], zero: int
) -> tuple[str, list[str]]:
    """ONNX Runtime's own quantized LSTM, a scale for each gate's each row."""
    quantized = []
    for weight in (layer.w_ih, layer.w_hh):
        q, scale = quantize_int8(_ordered(weight, "LSTM"))
        kept = stored_int8(q, zero)
        quantized.append(
            (
                graph.const(kept.T[None]),  # [1, in, 4H]
                graph.const(scale.numpy()[None]),
                graph.const(np.full((1, len(scale)), zero, kept.dtype)),
            )
        )
    (w, w_scale, w_zero), (r, r_scale, r_zero) = quantized
    y, h, c = graph.ops(
        "DynamicQuantizeLSTM",
        *(x, w, r, graph.const(_biases(layer, "LSTM")), "", *state, ""),
        *(w_scale, w_zero, r_scale, r_zero),
        outputs=3,
        domain=CONTRIB,
        hidden_size=layer.w_hh.shape[1],
    )
    return graph.op("Squeeze", y, graph.ints(1)), [h, c]


def _int8_cell(
    graph: Graph,
    kind: str,
    layer: LayerWeights,
    read: tuple[str, str],
    h: str,
    loop: Graph | None,
    zero: int,
) -> tuple[str, list[str]]:
    """Quantized products with the cell in float, for the cells that have no quantized kernel.

    `read` is the ids [T, B] and what the layer sees of them, [T, B, in].
    The words are walked by a Scan whose body `loop` becomes; without one there is one word.
    """
    rows, nhid = layer.w_hh.shape
    ids, x = read
    flat = graph.op("Reshape", x, graph.ints(-1, layer.w_ih.shape[1]))
    from_x = Int8Matrix(graph, layer.w_ih, zero).times(flat, graph.const(array_of(layer.b_ih)))
    if loop is None:
        before = graph.op("Squeeze", h, graph.ints(0))  # [B, H]
        after = _cell(graph, kind, layer, from_x, before, zero)
        y = graph.op("Unsqueeze", after, graph.ints(0))  # [1, B, H]
        return y, [y]
    shape = graph.op("Concat", graph.op("Shape", ids), graph.ints(rows), axis=0)
    after = _cell(loop, kind, layer, "x_t", "h_t", zero)
    loop.named(after, "h_next")
    loop.named(after, "y_t")
    state, step = ("B", nhid), ("B", rows)
    body = loop.body(
        "cell",
        [value("h_t", "float", *state), value("x_t", "float", *step)],
        [value("h_next", "float", *state), value("y_t", "float", *state)],
    )
    last, y = graph.ops(
        "Scan",
        graph.op("Squeeze", h, graph.ints(0)),
        graph.op("Reshape", from_x, shape),  # [T, B, G H]
        outputs=2,
        body=body,
        num_scan_inputs=1,
    )
    return y, [graph.op("Unsqueeze", last, graph.ints(0))]


def _cell(graph: Graph, kind: str, layer: LayerWeights, from_x: str, h: str, zero: int) -> str:
    """Products of the input [B, G H] and the state [B, H] to the next state [B, H]."""
    from_h = Int8Matrix(graph, layer.w_hh, zero).times(h, graph.const(array_of(layer.b_hh)))
    if kind != "GRU":
        activation = "Tanh" if kind == "RNN_TANH" else "Relu"
        return graph.op(activation, graph.op("Add", from_x, from_h))
    x_reset, x_update, x_new = graph.ops("Split", from_x, outputs=3, axis=1)
    h_reset, h_update, h_new = graph.ops("Split", from_h, outputs=3, axis=1)
    reset = graph.op("Sigmoid", graph.op("Add", x_reset, h_reset))
    update = graph.op("Sigmoid", graph.op("Add", x_update, h_update))
    new = graph.op("Tanh", graph.op("Add", x_new, graph.op("Mul", reset, h_new)))
    # (1 - z) n + z h
    return graph.op("Add", new, graph.op("Mul", update, graph.op("Sub", h, new)))
