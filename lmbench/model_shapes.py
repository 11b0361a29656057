"""The tensors of each kind of model, known from its settings alone. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmbench.errors import LmbenchError

__all__ = ["GATES", "parameter_shapes", "shapes_of"]

GATES: Mapping[str, int] = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}
"""Gates of each kind of cell: a layer's weights have gates times hidden units rows."""


def parameter_shapes(
    kind: str,
    ntoken: int,
    emsize: int,
    nhid: int,
    nlayers: int,
    *,
    tied: bool,
    projection: bool = False,
) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter by name, in the order of the model's; tied ones once.

    Raises:
        LmbenchError: no such kind of model.
    """
    if kind not in GATES:
        raise LmbenchError(f"model type '{kind}': use one of {', '.join(GATES)}")
    rows = GATES[kind] * nhid
    shapes: dict[str, tuple[int, ...]] = {"encoder.weight": (ntoken, emsize)}
    for i in range(nlayers):
        shapes[f"rnn.weight_ih_l{i}"] = (rows, nhid if i else emsize)
        shapes[f"rnn.weight_hh_l{i}"] = (rows, nhid)
        shapes[f"rnn.bias_ih_l{i}"] = shapes[f"rnn.bias_hh_l{i}"] = (rows,)
    if not tied:
        shapes["decoder.weight"] = (ntoken, emsize if projection else nhid)
    shapes["decoder.bias"] = (ntoken,)
    if projection:
        shapes["projection.weight"] = (emsize, nhid)
    return shapes


def shapes_of(shape: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The same for the shape in a run's record or a file. Raises as `parameter_shapes`."""
    sizes = (shape[name] for name in ("model", "ntoken", "emsize", "nhid", "nlayers"))
    projection = bool(shape.get("projection"))
    return parameter_shapes(*sizes, tied=shape["tied"], projection=projection)
