"""Writing an ONNX graph node by node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import lmbench

__all__ = ["CONTRIB", "Graph", "array_of", "initializer_bytes", "value"]

CONTRIB = "com.microsoft"
"""The domain of ONNX Runtime's own operators; a graph without them runs anywhere."""

# 17 has all that is used here and is understood by runtimes from 2022 on.
_OPSET = 17
_IR_VERSION = 9

_TYPES = {"float": TensorProto.FLOAT, "int64": TensorProto.INT64}


class Graph:
    """Nodes and constants in the order they are added; every method gives the new value's name.

    Args:
        prefix: begins the names that it makes up. A Scan's body shares the names of the graph
            around it, so each body needs a prefix of its own.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._count = 0

    def const(self, array: np.ndarray, name: str | None = None) -> str:
        """A constant; `name` where it should be found again by it."""
        name = name or self._name("const")
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def ints(self, *values: int) -> str:
        """A constant int64 vector: axes, shapes."""
        return self.const(np.array(values, np.int64))

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """A node with one output. An input ``""`` is one that is left out."""
        return self.ops(kind, *inputs, outputs=1, domain=domain, **attributes)[0]

    def ops(
        self, kind: str, *inputs: str, outputs: int | Sequence[str], domain: str = "", **attrs: Any
    ) -> list[str]:
        """A node with several outputs: how many, or their names (``""`` leaves one out)."""
        if isinstance(outputs, int):
            outputs = [self._name(kind) for _ in range(outputs)]
        self._nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **attrs))
        return list(outputs)

    def named(self, value: str, name: str) -> None:
        """Give a value the name under which the graph puts it out."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))

    def body(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
    ) -> onnx.GraphProto:
        """What was added so far, as the body of a Scan."""
        return helper.make_graph(self._nodes, name, inputs, outputs, self._constants)

    def model(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """The finished model; names ONNX Runtime's domain only where it is used."""
        opsets = [helper.make_opsetid("", _OPSET)]
        if any(node.domain == CONTRIB for node in self._every_node()):
            opsets.append(helper.make_opsetid(CONTRIB, 1))
        return helper.make_model(
            self.body("lmbench", inputs, outputs),
            opset_imports=opsets,
            ir_version=_IR_VERSION,
            producer_name="lmbench",
            producer_version=lmbench.__version__,
        )

    def _every_node(self) -> list[onnx.NodeProto]:
        inner = [
            node
            for outer in self._nodes
            for attribute in outer.attribute
            if attribute.type == onnx.AttributeProto.GRAPH
            for node in attribute.g.node
        ]
        return self._nodes + inner

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{self._prefix}{kind}_{self._count}"


def value(name: str, kind: str, *shape: int | str) -> onnx.ValueInfoProto:
    """A graph's input or output: `kind` is ``float`` or ``int64``; a named size is free."""
    return helper.make_tensor_value_info(name, _TYPES[kind], list(shape))


def array_of(tensor: Any) -> np.ndarray:
    """A torch tensor as float32 numpy, on the host."""
    return tensor.detach().to("cpu").float().numpy()


def initializer_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the constants of a model, its subgraphs' too."""
    graphs = [model.graph]
    graphs += [
        a.g for n in model.graph.node for a in n.attribute if a.type == onnx.AttributeProto.GRAPH
    ]
    return sum(numpy_helper.to_array(t).nbytes for g in graphs for t in g.initializer)
