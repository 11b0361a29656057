"""What a quantize run's settings mean to the engine, and how it runs a model over text.

The laboratory does the same with the same functions, so that its figures are those of the runs that
are made of them. Imports torch: for workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmbench.config import ModelConfig, QuantizeConfig
from lmbench.config.quantize import parse_override
from lmbench.config.setting import flag_of
from lmbench.corpus.batches import SCORE_COLUMNS, count_windows, windows
from lmbench.distiller.quantization.calibration import ActivationStats
from lmbench.distiller.quantization.errors import QuantizationError
from lmbench.distiller.quantization.post_training import PostTrainLinearQuantizer, modular_copy
from lmbench.distiller.quantization.rounding import collect_input_moments
from lmbench.distiller.quantization.settings import QuantSettings, canonical
from lmbench.distiller.quantization.settings_files import load_preset, load_settings
from lmbench.errors import LmbenchError
from lmbench.model import RNNModel, build_model
from lmbench.training.evaluate import Evaluation, evaluate

__all__ = [
    "check_fit",
    "describe",
    "moments_of",
    "needs_moments",
    "scored",
    "settings_of",
    "window_steps",
]

_BPTT = 35

_DEFAULT = "int8-best"


def _over(below: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A preset's override with the same pattern, some of its settings changed. One of floats or of
    codes is replaced whole."""
    below, given = canonical(below), canonical(given)
    whole = below.get("precision") or below.get("rounding") in ("codes", "calibrated-codes")
    ends = {"mode": {"mode_activations", "mode_weights"}, "clip_weights": {"also_clip_weights"}}
    ended = {name for key in given for name in ends.get(key, ())}
    return given if whole else {k: v for k, v in below.items() if k not in ended} | given


def settings_of(config: QuantizeConfig, file: Path | None = None) -> QuantSettings:
    """The preset or file that is named (int8-best where none is), single settings over it.

    Args:
        file: where the file that is named is read from: `input_files.settings_file`, or a run's
            copy.

    Raises:
        LmbenchError: both are named, or a setting is wrong; says which.
    """
    if config.preset and config.config:
        raise LmbenchError("--preset and --config both name settings: give one of them")
    try:
        if config.config:
            base = load_settings(file or Path(config.config))
        else:
            base = load_preset(config.preset or _DEFAULT)
        own = {
            pattern: _over(base.overrides.get(pattern, {}), changes)
            for pattern, changes in map(parse_override, config.override)
        }
        kept = {k: v for k, v in base.overrides.items() if k not in own}
        entries = {**base.to_dict(), **_changes(config), "overrides": own | kept}
        settings = QuantSettings.from_dict(entries)
        if config.auto and settings.base.codes:
            raise LmbenchError(
                f"{config.config or config.preset}: rounding is '{settings.base.rounding}', and "
                "--auto chooses between 8 and 4 bits, which are no codes: give --rounding nearest "
                "or gptq"
            )
        # Of single modules only the engine knows which are clipped at all.
        settings.base.clip_acts.check_width(settings.base.bits_activations)
        settings.base.clip_weights.check_width(settings.base.bits_weights)
    except QuantizationError as error:
        raise LmbenchError(str(error)) from None
    _refuse_idle(config, settings)
    return settings


def _refuse_idle(config: QuantizeConfig, settings: QuantSettings) -> None:
    """Raises LmbenchError where settings of integers are given and all is computed in floats, or
    settings of activations and those stay as they are."""
    base = settings.base
    words = str(settings.to_dict()).upper().replace("-", "_")
    if config.clip_n_stds is not None and "'N_STD'" not in words:
        raise LmbenchError("--clip-n-stds is of --clip-acts n-std: give that, or leave it out")
    changed = {name for changes in settings.overrides.values() for name in canonical(changes)}
    if base.precision is not None and "precision" not in changed:
        idle = _OF_INTEGERS if settings.fp_activations else _OF_INTEGERS - _OF_SIGMOIDS
        what = f"precision {base.precision} computes in floats"
    elif base.bits_activations is None and "bits_activations" not in changed:
        idle, what = _OF_ACTIVATIONS, "only weights are quantized, and activations stay as they are"
    else:
        idle, what = set[str](), "everything is computed in integers"
    if base.precision is None and "precision" not in changed:
        idle = idle | {"fp_activations"}
    given = [flag_of(name) for name in sorted(idle) if getattr(config, name) not in (None, False)]
    if given:
        raise LmbenchError(
            f"{', '.join(given)}: {what}, which they change nothing of: leave one or the other"
        )


def _changes(config: QuantizeConfig) -> dict[str, Any]:
    """The single settings that were given, in the engine's own words."""
    given: dict[str, Any] = {name: getattr(config, name) for name in _SAME}
    given |= {
        "bits_weights": config.bits_parameters,
        "per_channel_wts": config.per_channel,
    }
    for name in _NAMED:
        word = getattr(config, name)
        given[name] = word and word.upper().replace("-", "_")
    if config.fp16:
        given |= {"precision": "16", "fp_activations": True}
    changes = {name: value for name, value in given.items() if value is not None}
    # Here None is a value: "not quantized".
    return changes | ({"bits_activations": None} if config.weights_only else {})


# Settings that the engine has under the same names, and those whose words it spells in capitals.
_SAME = (
    *("bits_activations", "bits_state", "bits_accum", "clip_n_stds", "rounding", "group_size"),
    *("per_row_embedding", "precision", "fp_activations", "net_aware", "clip_half_range"),
    *("scale_approx_mult_bits", "inputs_quant_auto_fallback", "save_fp_weights"),
)
_NAMED = ("mode", "mode_activations", "mode_weights", "clip_acts", "clip_state", "clip_weights")

# What is nothing to a module that computes in floats, and of it what is something to sigmoids and
# tanhs, which stay quantized without fp_activations.
_OF_SIGMOIDS = {"bits_activations", "mode", "mode_activations", "clip_acts", "clip_n_stds"}
_OF_INTEGERS = _OF_SIGMOIDS | {
    *("auto", "bits_parameters", "bits_accum", "bits_state", "mode_weights", "clip_weights"),
    *("clip_state", "per_channel", "per_row_embedding", "rounding", "group_size", "net_aware"),
}
# What is nothing where weights alone are quantized.
_OF_ACTIVATIONS = {"bits_state", "clip_acts", "clip_state", "mode_activations", "net_aware"}


def check_fit(
    settings: QuantSettings, stats: ActivationStats | None, shape: Mapping[str, Any]
) -> None:
    """See that settings and statistics fit a model of this shape, without its weights.

    Args:
        shape: as a run's record has it.

    Raises:
        LmbenchError: an override matches no module, or the statistics are of another model.
    """
    sizes = {k: v for k, v in shape.items() if k in ModelConfig.model_fields}
    with torch.device("meta"):
        model = modular_copy(build_model(ModelConfig(**sizes), int(shape["ntoken"])))
    try:
        PostTrainLinearQuantizer(model, settings=settings, model_activation_stats=stats).check()
    except QuantizationError as error:
        raise LmbenchError(str(error)) from None


def needs_moments(settings: QuantSettings) -> bool:
    """Does any module round with error compensation, for which inputs' moments are needed?"""
    rules = [settings.base.rounding, *(o.get("rounding") for o in settings.overrides.values())]
    return not {"gptq", "calibrated-codes"}.isdisjoint(rules)


def describe(config: QuantizeConfig) -> str:
    """What a run is called when it was given no name."""
    if config.auto:
        return f"auto {config.budget or ''}".strip()
    if config.config:
        return Path(config.config).stem
    own = _changes(config) or config.override or config.stats or config.dynamic
    return config.preset or ("custom" if own else _DEFAULT)


def scored(
    model: nn.Module, data: Tensor, progress: Callable[[int, int], None] | None = None
) -> Evaluation:
    """The loss of a model, quantized or not, on rows of ids."""
    assert isinstance(model, RNNModel)
    return evaluate(model, data, _BPTT, progress)


def window_steps(
    data: Tensor, most: int | None = None
) -> tuple[Iterator[Callable[[nn.Module], Any]], int]:
    """The windows of `data` as functions that run a model, its state carried along; how many."""
    count = min(most or 10**9, count_windows(len(data), _BPTT))

    def generate() -> Iterator[Callable[[nn.Module], Any]]:
        state: list[Any] = [None]
        for number, (input, _) in enumerate(windows(data, _BPTT)):
            if number == count:
                return

            def step(model: nn.Module, input: Tensor = input) -> None:
                hidden = state[0] if state[0] is not None else _first_state(model)
                _, state[0] = model(input, hidden)

            yield step

    return generate(), count


def moments_of(
    model: RNNModel, data: Tensor, progress: Callable[[int, int], None]
) -> dict[str, Tensor]:
    """Second moments of every linear layer's inputs on `data`, by name; `model` is modular. A tied
    embedding has those of the decoder.

    The decoder is shown its inputs and not multiplied by: its product with a whole vocabulary
    would take most of the time, and nobody asks for it.
    """
    steps, total = window_steps(data)
    with _without_product(model.decoder):
        found = collect_input_moments(model, steps, lambda done: progress(done, total))
    return {**found, "encoder": found["decoder"]} if model.tied else found


@contextmanager
def _without_product(layer: nn.Linear) -> Iterator[None]:
    def as_it_is(x: Tensor) -> Tensor:
        return x

    setattr(layer, "forward", as_it_is)  # noqa: B010 (a method may not be assigned)
    try:
        yield
    finally:
        delattr(layer, "forward")


def _first_state(model: nn.Module) -> Any:
    assert isinstance(model, RNNModel)
    return model.init_hidden(SCORE_COLUMNS)
