"""The original's drawings of a model's graph, which are made elsewhere here."""

from __future__ import annotations

from typing import Any, NoReturn

from lmbench.distiller.errors import DistillerError

__all__ = ["SummaryGraph", "draw_model_to_file"]


def _elsewhere(name: str) -> NoReturn:
    raise DistillerError(
        f"{name}: lmbench draws no graph; export the model to ONNX (lmbench export RUN --format "
        "onnx, or torch.onnx.export) and open the file in a viewer such as netron"
    )


class SummaryGraph:
    """Refused with a line that says what to do. Raises DistillerError."""

    def __init__(self, model: Any, dummy_input: Any, *args: Any, **kwargs: Any) -> None:
        _elsewhere("SummaryGraph")


def draw_model_to_file(sgraph_or_model: Any, png_fname: Any, *args: Any, **kwargs: Any) -> NoReturn:
    """Refused with a line that says what to do. Raises DistillerError."""
    _elsewhere("draw_model_to_file")
