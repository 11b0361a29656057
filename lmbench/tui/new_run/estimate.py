"""What a run that is not started yet will be like: the words beside the new-run form."""

from __future__ import annotations

import platform
from collections.abc import Iterable

from rich.text import Text

from lmbench.config import Config, QuantizeConfig, SensitivityConfig, TrainConfig, parse_config
from lmbench.errors import LmbenchError
from lmbench.jobs.chains import quantized_tokens
from lmbench.model_shapes import GATES
from lmbench.report import numbers
from lmbench.report.estimate import estimate
from lmbench.report.training_speed import Measured, Speed, expect
from lmbench.tui.bench.snapshots import RunView
from lmbench.tui.new_run.corpus_size import CorpusSize

__all__ = ["forecast", "forecast_derived", "unknown_time"]


# About what the validation split of WikiText-2 holds.
_WHOLE_SPLIT = 217_646
# Going forwards only is a third of the arithmetic of a training step.
_FORWARD = 3.0


def unknown_time(measured: list[Measured] | None) -> str:
    """Why there is no estimate: `measured` has too little, or (None) a trial is to come."""
    if measured is None:
        return "this machine's speed is being measured …"
    return "unknown until a training has run here"


def forecast(config: TrainConfig, corpus: CorpusSize, measured: list[Measured] | None) -> Text:
    """Parameters, memory and time of a training; of `measured` see `unknown_time`."""
    size = estimate(config, corpus.types)
    text = Text.assemble(
        (f"{size.parameters:,} parameters", "bold"),
        f" ({numbers.size(4 * size.parameters)} as fp32), ",
        f"about {numbers.size(size.bytes)} of memory\n",
    )
    speed = expect(config, corpus.types, measured or [])
    if speed is None:
        text.append(f"time: {unknown_time(measured)}", "dim")
    else:
        epoch = (corpus.train + corpus.valid / _FORWARD) / speed.tokens_per_s
        text.append(f"about {numbers.duration(epoch)} an epoch", "bold")
        epochs = numbers.plural(config.epochs, "epoch")
        text.append(f", {numbers.duration(epoch * config.epochs)} for {epochs} ")
        text.append(_by(speed), "dim")
    text.append(f"\n{corpus.name}: {corpus.train:,} tokens, {corpus.types:,} words", "dim")
    if corpus.missing:
        text.append("; starting fetches it", "dim")
    return text


def _by(speed: Speed) -> str:
    measure = f"{numbers.rate(speed.of.tokens_per_s)} in {speed.of.ref}"
    if not speed.scaled:
        return f"({measure})"
    return f"(about {numbers.rate(speed.tokens_per_s)}, from {measure})"


def forecast_derived(
    config: Config,
    parent: RunView,
    model: TrainConfig | None,
    corpus: CorpusSize | None,
    measured: list[Measured] | None,
    runs: Iterable[RunView],
) -> Text:
    """What is known beforehand of a run that is made of another one.

    Args:
        model: the parent's training; None where it was none.
        corpus: the parent's; None where it is not known, or not yet.
        runs: those of the session.
    """
    text = Text.assemble((f"of {parent.title}", "bold"))
    types = parent.record.shape.get("ntoken") if parent.record else None
    # Valid and test are about as long everywhere.
    split = corpus.valid if corpus is not None else _WHOLE_SPLIT
    known = (model, types) if model is not None and isinstance(types, int) else None
    if isinstance(config, SensitivityConfig) and known is not None:
        if config.split == "train" and corpus is not None:
            split = corpus.train
        return text.append(": ") + _sensitivity(config, *known, split, measured)
    if parent.size:
        how = "when packed" if parent.as_packed else "on disk now"
        text.append(f", itself {parent.size} {how}")
    if isinstance(config, QuantizeConfig) and known is not None:
        text.append("\n").append_text(_quantize(config, parent, split, runs))
    return text


def _quantize(config: QuantizeConfig, parent: RunView, split: int, runs: Iterable[RunView]) -> Text:
    """About how long calibrating and scoring both splits takes, by the newest run that did so for
    a model as large: a simulation takes many times what a training says of its arithmetic."""
    if config.auto:
        return Text("time: as long as the search needs for its budget", "dim")
    for earlier in sorted(runs, key=lambda view: -view.id):
        if seconds := _seconds_by(earlier, config, parent, split):
            text = Text.assemble((f"about {numbers.duration(seconds)} ", "bold"))
            return text.append(f"(judged by {earlier.title})", "dim")
    return Text("time: unknown until a model as large was quantized here", "dim")


def _seconds_by(
    earlier: RunView, config: QuantizeConfig, parent: RunView, split: int
) -> float | None:
    """About how long a quantization takes, by what calibrating and scoring took in another one;
    None where that one tells nothing of it."""
    was, now, rate = earlier.record, parent.record, earlier.tokens_per_s
    if was is None or now is None or (was.kind, was.status) != ("quantize", "finished"):
        return None
    shapes = [{"projection": False, **record.shape, "dropout": 0} for record in (was, now)]
    if shapes[0] != shapes[1] or was.host != platform.node() or not rate:
        return None
    try:
        before = parse_config(was.kind, was.config)
    except LmbenchError:
        return None
    took = was.results.get("seconds")
    if not isinstance(before, QuantizeConfig) or before.auto or took is None:
        return None
    if not _suits(was.device, config):
        return None
    tokens = {"valid": split, "test": split}
    calibrated, scored = quantized_tokens(before, tokens)
    calibrating, scoring = quantized_tokens(config, tokens)
    if calibrating and not calibrated:
        return None
    # A token takes several times as long to calibrate on as to score.
    rest = max(took - scored / rate, 0.0)
    return scoring / rate + (rest * calibrating / calibrated if calibrating else 0.0)


def _suits(device: str, config: QuantizeConfig) -> bool:
    """Is a device of the kind that is asked for? ``auto`` is whatever was used last."""
    asked = "cuda" if config.cuda else config.device.partition(":")[0]
    return asked in ("auto", device.partition(":")[0])


def _sensitivity(
    config: SensitivityConfig,
    model: TrainConfig,
    types: int,
    tokens: int,
    measured: list[Measured] | None,
) -> Text:
    """How many points a sensitivity analysis scores, and about how long that takes."""
    tensors = sum(len(shape) == 2 for shape in model.parameter_shapes(types).values())
    gates = model.nlayers * GATES[model.model]
    places = {"tensor": tensors, "model": 1, "gate": gates}.get(config.per, tensors + 1 + gates)
    points = 1 + places * sum(1 for level in config.levels if level > 0)
    each = min(config.tokens or tokens, tokens)
    text = Text.assemble((f"{numbers.plural(points, 'point')} of {each:,} tokens each", "bold"))
    speed = expect(model.model_copy(update={"device": config.device}), types, measured or [])
    if speed is None:
        text.append(f", time: {unknown_time(measured)}", "dim")
    else:
        seconds = points * each / (speed.tokens_per_s * _FORWARD)
        text.append(f", about {numbers.duration(seconds)} ")
        text.append(_by(speed), "dim")
    return text
