"""The original's flags of post-training quantization, for a program's own `argparse` parser."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from typing import Any

from lmbench.distiller.quantization.errors import QuantizationError
from lmbench.distiller.quantization.modes import (
    ClipMode,
    LinearQuantMode,
    check_bits,
    parse_clip,
    parse_mode,
)
from lmbench.distiller.quantization.settings import ModuleQuantMode

__all__ = ["add_post_train_quant_args", "quantizer_arguments"]

_MODES = {
    "sym": LinearQuantMode.SYMMETRIC,
    "sym_restr": LinearQuantMode.SYMMETRIC_RESTRICTED,
    "asym_u": LinearQuantMode.ASYMMETRIC_UNSIGNED,
    "asym_s": LinearQuantMode.ASYMMETRIC_SIGNED,
}


def _flag_type(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return parse(text)
        except (QuantizationError, ValueError) as error:
            raise ArgumentTypeError(str(error)) from None

    return read


def _mode(text: str) -> LinearQuantMode:
    return _MODES.get(text.lower()) or parse_mode(text)


def _bits(text: str) -> int | None:
    """0 leaves alone."""
    return check_bits(int(text) or None, "bits")


def _share(text: str) -> float:
    if not 0 < float(text) <= 1:
        raise ValueError(f"{text} is not above 0 and at most 1")
    return float(text)


def add_post_train_quant_args(argparser: ArgumentParser, add_lapq_args: bool = False) -> None:
    """Adds the flags that `PostTrainLinearQuantizer.from_args` reads.

    Args:
        argparser: any parser.
        add_lapq_args: the original's search by coordinates, which is not here.

    Raises:
        QuantizationError: `add_lapq_args`; `auto_quantize` is the search here.
    """
    if add_lapq_args:
        raise QuantizationError("add_lapq_args: LAPQ is not here; auto_quantize searches settings")
    group = argparser.add_argument_group("post-training quantization")
    add = group.add_argument
    mode, clip = _flag_type(_mode), _flag_type(parse_clip)
    add("--quantize-eval", "--qe", action="store_true", help="quantize before evaluation")
    add("--qe-mode", "--qem", type=mode, default=LinearQuantMode.SYMMETRIC, help="of both")
    add("--qe-mode-acts", "--qema", type=mode, help="mode of activations, else --qe-mode")
    add("--qe-mode-wts", "--qemw", type=mode, help="mode of weights, else --qe-mode")
    add("--qe-bits-acts", "--qeba", type=_flag_type(_bits), default=8, help="0 for floats")
    add("--qe-bits-wts", "--qebw", type=_flag_type(_bits), default=8, help="0 for floats")
    add("--qe-bits-accum", type=int, default=32, help="bits of the accumulators")
    add("--qe-clip-acts", "--qeca", type=clip, default=ClipMode.NONE, help="how ranges are chosen")
    add("--qe-clip-n-stds", type=float, help="of the clip mode n_std")
    names: dict[str, Any] = {"nargs": "+", "default": [], "metavar": "LAYER"}
    add("--qe-no-clip-layers", "--qencl", **names, help="not clipped")
    add("--qe-no-quant-layers", "--qenql", **names, help="not quantized")
    add("--qe-per-channel", "--qepc", action="store_true", help="a range for each output")
    add("--qe-scale-approx-bits", "--qesab", type=int, help="scales as so many bits and a shift")
    add("--qe-save-fp-weights", action="store_true", help="keep the float weights, too")
    source = group.add_mutually_exclusive_group()
    source.add_argument("--qe-stats-file", metavar="PATH", help="activation statistics, YAML")
    source.add_argument("--qe-dynamic", action="store_true", help="without statistics")
    source.add_argument("--qe-calibration", type=_flag_type(_share), help="share of the data")
    source.add_argument("--qe-config-file", metavar="PATH", help="YAML with a quantizer's entry")


def quantizer_arguments(args: Namespace) -> dict[str, Any]:
    """What the flags but `--qe-config-file` mean to `PostTrainLinearQuantizer`.

    A name in `--qe-no-clip-layers` or `--qe-no-quant-layers` is an override's pattern.
    """
    overrides: dict[str, dict[str, Any]] = {
        name: {"clip_acts": "NONE"} for name in args.qe_no_clip_layers
    }
    for name in args.qe_no_quant_layers:
        overrides[name] = {"bits_activations": None, "bits_weights": None}
    return {
        "bits_activations": args.qe_bits_acts or None,
        "bits_parameters": args.qe_bits_wts or None,
        "bits_accum": args.qe_bits_accum,
        "overrides": overrides,
        "mode": ModuleQuantMode(
            args.qe_mode_acts or args.qe_mode, args.qe_mode_wts or args.qe_mode
        ),
        "clip_acts": args.qe_clip_acts,
        "per_channel_wts": args.qe_per_channel,
        "model_activation_stats": args.qe_stats_file,
        "clip_n_stds": args.qe_clip_n_stds,
        "scale_approx_mult_bits": args.qe_scale_approx_bits,
        "save_fp_weights": args.qe_save_fp_weights,
    }
