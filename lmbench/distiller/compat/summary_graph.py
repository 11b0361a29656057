"""``distiller.summary_graph``: refused, with what to do instead."""

from __future__ import annotations

from typing import Any, NoReturn

from lmbench.distiller.errors import DistillerError

__all__ = ["SummaryGraph", "draw_model_to_file"]


def _refuse(name: str) -> NoReturn:
    raise DistillerError(
        f"{name}: lmbench draws no graph; export the model to ONNX (lmbench export RUN --format "
        "onnx, or torch.onnx.export) and open the file in a viewer such as netron"
    )


class SummaryGraph:
    """Raises DistillerError."""

    def __init__(self, model: Any, dummy_input: Any, *args: Any, **kwargs: Any) -> None:
        _refuse("SummaryGraph")


def draw_model_to_file(sgraph_or_model: Any, png_fname: Any, *args: Any, **kwargs: Any) -> NoReturn:
    """Raises DistillerError."""
    _refuse("draw_model_to_file")
