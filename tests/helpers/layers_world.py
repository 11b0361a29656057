"""Checkpoints and reports of quantization, for the tables that show them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from driving import screen_of
from safetensors.numpy import save_file
from textual.pilot import Pilot

from lmbench.distiller.quantization import ModuleReport
from lmbench.jobs.kinds.quantize import quant_result
from lmbench.session import Run
from lmbench.session import events as ev
from lmbench.tui.layers.tensor_screen import TensorScreen

NAMES = ("encoder.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0")


def quantized(module: str, **fields: Any) -> ev.QuantResult:
    """The event that a worker writes of a module; `fields` are `ModuleReport`'s."""
    fields.setdefault("kind", "Linear")
    return quant_result(ModuleReport(name=module, **fields))


MODULES = (
    quantized(
        "encoder", kind="Embedding", bits_weights=8, mode="SYMMETRIC", weight_sqnr=43.63,
        output_sqnr=33.25,
    ),
    quantized(
        "rnn.cells.0.fc_gate_x", bits_weights=8, bits_activations=8, clip_acts="AVG",
        mode="SYMMETRIC / ASYMMETRIC_SIGNED", output_scale=14.099803924560547,
        output_zero_point=-3.0, weight_sqnr=46.8, output_sqnr=12.19,
    ),
    quantized("rnn.cells.0.fc_gate_h", precision="16", output_sqnr=70.2),
    quantized(
        "rnn.cells.0.eltwiseadd_gate", kind="EltwiseAdd", bits_activations=8,
        clip_acts="LAPLACE", mode="SYMMETRIC / ASYMMETRIC_SIGNED",
        output_scale=0.0123, output_zero_point=128.0, output_sqnr=math.inf,
    ),
    quantized(
        "decoder", bits_weights=4, bits_activations=8, clip_acts="NONE",
        mode="SYMMETRIC / SYMMETRIC", output_scale=15.17259407043457, output_zero_point=69.0,
        weight_sqnr=21.0, output_sqnr=30.9,
    ),
)  # fmt: skip
"""As quantization reports them: an embedding, layers, one in floats, an operation."""


_STORED = (
    ("encoder.weight", [33278, 200], "bitmask", "code2", 741_255, 1_031_618),
    ("rnn.weight_ih_l0", [800, 200], "bitmask", "code2", 43_900, 96_000),
    ("rnn.weight_hh_l0", [800, 200], "dense", "int4", 81_600, 160_000),
    ("rnn.bias_ih_l0", [800], "dense", "int8", 788, 786),
)
FILE = {
    "bytes": 993_585, "ratio": 28.5, "vocabulary_bytes": 125_930, "nonzero": 1_287_618,
    "sparsity": 0.8154, "tensors": [
        dict(zip(("name", "shape", "layout", "values", "bytes", "nonzero"), row, strict=True))
        for row in _STORED
    ],
}  # fmt: skip
"""As packing leaves them in a run's results."""


def checkpoint(run: Run, which: str = "last", seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    tensors = {name: rng.normal(0, 0.1, (80, 20)).astype(np.float32) for name in NAMES}
    tensors["rnn.weight_hh_l0"][20:40] = 0
    folder = run.path / which
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    run.update(shape={"model": "LSTM"})


async def tensor_of(pilot: Pilot[None]) -> TensorScreen:
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()
    await pilot.pause()
    return screen_of(pilot, TensorScreen)
