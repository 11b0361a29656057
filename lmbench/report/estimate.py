"""What a training will take, said before it starts. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from lmbench.config import TrainConfig
from lmbench.model_shapes import GATES

__all__ = ["Estimate", "estimate", "fitting"]

_FLOAT = 4
# A number in a packed operand, and words at a time; see training/native/tiles.h (GROUP blocks).
_PACKED, _GROUP = 2, 256
# An interpreter with torch loaded, its libraries and its work space.
_PROCESS_BYTES = 450 * 2**20


@dataclass(frozen=True)
class Estimate:
    """`weights` and `biases` count parameters, tied ones once; the rest is in bytes."""

    weights: int
    biases: int
    model_bytes: int
    step_bytes: int

    @property
    def parameters(self) -> int:
        return self.weights + self.biases

    @property
    def bytes(self) -> int:
        """The whole process while it trains."""
        return _PROCESS_BYTES + self.model_bytes + self.step_bytes


def estimate(config: TrainConfig, ntoken: int) -> Estimate:
    """Parameters and memory of a training with these settings over `ntoken` types.

    The model's bytes are weights, their gradients, averages and what the optimizer keeps; the
    step's are the logits of one window (a long one, where they differ), kept once (and those of a
    teacher), the layers' activations and, where their number is set, what each thread of the
    decoder's kernel has for itself (on AMX; see `lmbench.training.loss`). A teacher's weights are
    not counted, nor the words that are drawn from what it predicts of the text.
    """
    gates, e, h = GATES[config.model], config.emsize, config.nhid
    shapes = config.parameter_shapes(ntoken).values()
    weights = sum(prod(shape) for shape in shapes if len(shape) == 2)
    biases = sum(prod(shape) for shape in shapes if len(shape) == 1)
    copies = 2 + config.state_copies
    # Of a thousand windows that differ in length, one is longer.
    window = config.batch_size * (config.bptt + round(3 * config.bptt_spread))
    # Those that words are drawn from, where they are, are not rounded.
    logit = 2 if config.precision == "bf16" and not config.gradient_samples else _FLOAT
    # A teacher's, and at another temperature the student's softened ones.
    whole = config.teacher is not None and not config.teacher_samples
    logits = 1 + whole * (1 + (config.distill_temp != 1.0))
    terms = 1 if config.precision == "bf16" else 3
    # A gradient of the hidden rows, and a group of words packed: their gradients twice, and they.
    seen = e if config.projection else h
    a_thread = window * seen * _FLOAT + terms * _PACKED * _GROUP * (2 * window + seen)
    ends = e + (e if config.projection else 0)
    activations = window * (ends + config.nlayers * h * (gates + 3)) * _FLOAT * 2
    return Estimate(
        weights=weights,
        biases=biases,
        model_bytes=(weights + biases) * _FLOAT * copies,
        step_bytes=window * ntoken * logit * logits + activations + config.threads * a_thread,
    )


def fitting(config: TrainConfig, ntoken: int, available: int) -> TrainConfig | None:
    """The largest batch (then bptt) not above the wanted one that `available` bytes can hold."""
    while estimate(config, ntoken).bytes > available:
        if config.batch_size > 1:
            config = config.model_copy(update={"batch_size": config.batch_size // 2})
        elif config.bptt > 1:
            config = config.model_copy(update={"bptt": config.bptt // 2})
        else:
            return None
    return config
