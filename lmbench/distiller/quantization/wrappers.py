"""Modules that stand in for others and compute what an integer implementation of them would.

An input is quantized by the scale it carries from the wrapper that made it, else by its own
calibrated statistics, else (dynamic) by what is in it. The operation then happens on integers,
held in floats that represent them exactly, the result saturates at the accumulator's width, and
is requantized to the output's range. Between wrappers travel ordinary float tensors whose values
lie on the output's grid, with the grid attached as `quant_metadata`.

Integers are kept with their zero point added ("shifted": they are then exactly scale * x), so
that products and sums need no correction terms and 0.0 is always the integer 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lmbench.distiller.errors import did_you_mean
from lmbench.distiller.quantization.clipping import (
    ClipMode,
    get_quant_params_from_stats_dict,
    get_quant_params_from_tensor,
    parse_clip,
)
from lmbench.distiller.quantization.errors import NoStatsError, QuantizationError
from lmbench.distiller.quantization.integers import by_slices_, constant
from lmbench.distiller.quantization.modes import LinearQuantMode, check_bits, parse_mode
from lmbench.distiller.quantization.scale_and_zero_point import approx_scale_as_mult_and_shift
from lmbench.distiller.quantization.settings import ModuleQuantMode, TensorQuantSettings

__all__ = [
    "Grid",
    "QuantizedWrapper",
    "RangeLinearQuantWrapper",
    "attach_grid",
    "check_unquantized",
    "is_quantized",
]


def is_quantized(model: nn.Module) -> bool:
    """Whether any module was already replaced by a quantizer."""
    return any(getattr(module, "is_quantized_wrapper", False) for module in model.modules())


def check_unquantized(model: nn.Module, do: str = "quantize") -> None:
    """Raises QuantizationError where a quantizer was here: say what to `do` with its parent."""
    if is_quantized(model):
        raise QuantizationError(f"this model is quantized already: {do} the model it was made from")


@dataclass(frozen=True)
class Grid:
    """What an activation's values are multiples of.

    Attributes:
        scale: steps per unit (positive; already rounded to float32).
        zero_point: in the original's sign convention.
        q_min, q_max: the stored integers' range.
    """

    scale: float
    zero_point: float
    q_min: int
    q_max: int

    @property
    def low(self) -> float:
        """The lowest shifted integer."""
        return self.q_min + self.zero_point

    @property
    def high(self) -> float:
        """The highest shifted integer."""
        return self.q_max + self.zero_point

    @property
    def magnitude(self) -> float:
        """The largest magnitude of a shifted integer."""
        return max(abs(self.low), abs(self.high))

    @cached_property
    def _constants(self) -> tuple[Tensor, Tensor]:
        return constant(self.scale), constant(self.zero_point)

    def integers(self, x: Tensor) -> Tensor:
        """Floats → shifted integers, a new tensor."""
        return self.round_(x.mul(self._constants[0]))

    def values_(self, x: Tensor) -> Tensor:
        """Shifted integers, in place, to floats."""
        return x.div_(self._constants[0])

    def round_(self, x: Tensor) -> Tensor:
        """Steps, in place, to shifted integers: ties are rounded before the zero point is added."""
        if self.zero_point == 0:
            return x.round_().clamp_(self.q_min, self.q_max)
        zero_point = self._constants[1]
        return x.sub_(zero_point).round_().clamp_(self.q_min, self.q_max).add_(zero_point)


def attach_grid(x: Tensor, grid: Grid) -> Tensor:
    """Marks a tensor as lying on a grid; the mark is lost by any operation but passing it on."""
    x.quant_metadata = grid  # type: ignore[attr-defined]
    return x


def read_grid(x: Tensor) -> Grid | None:
    """The grid a tensor carries, if any; also the original's `TensorQuantMetadata`."""
    mark = getattr(x, "quant_metadata", None)
    if mark is None or isinstance(mark, Grid):
        return mark
    scale, zero_point, q_min, q_max = mark
    return Grid(float(scale), float(zero_point), int(q_min), int(q_max))


def _grid_of(params: tuple[Tensor, Tensor], num_bits: int, mode: LinearQuantMode) -> Grid:
    return Grid(float(params[0]), float(params[1]), *mode.quantized_range(num_bits))


class QuantizedWrapper(nn.Module):
    """What all wrappers share: values derived from their buffers, some of which can be set."""

    is_quantized_wrapper = True

    def __init__(self) -> None:
        super().__init__()
        self._cache: dict[Any, Any] = {}
        self.changes = 0

    @property
    def force_readjust(self) -> Tensor:
        """Whether the next call computes anew what follows from the buffers, a boolean (0-dim)."""
        return torch.tensor(not self._cache)

    def readjust(self) -> None:
        """Forgets what follows from the buffers, after some of the model's were changed."""
        self._cache.clear()
        self.changes += 1

    def cached(self, key: Any, build: Callable[[], Any], given: Any = None) -> Any:
        """What was derived from the buffers and what is `given`, until either changes."""
        held = self._cache.get(key)
        if held is None or held[0] != given:
            self._cache[key] = held = given, build()
        return held[1]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.readjust()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.readjust()
        super()._load_from_state_dict(*args, **kwargs)

    def named_linear_quant_params(self, filter: bool = False) -> Iterator[tuple[str, Tensor]]:
        """The scales and zero points that can be set, by name.

        Args:
            filter: leave out those of a weight whose floats are not kept.
        """
        yield from ()

    def set_linear_quant_param(self, name: str, val: float | Tensor) -> None:
        """Changes one of `named_linear_quant_params`.

        Raises:
            QuantizationError: it has none of this name.
        """
        known = dict(self.named_linear_quant_params())
        if name not in known:
            raise QuantizationError(
                f"{name!r} cannot be set here {did_you_mean(name, known, 'it has')}"
            )
        with torch.no_grad():
            known[name].copy_(torch.as_tensor(val))
        self.readjust()

    def update_linear_quant_params(self, new_config: Mapping[str, float | Tensor]) -> None:
        """Changes several of them."""
        for name, val in new_config.items():
            self.set_linear_quant_param(name, val)


class RangeLinearQuantWrapper(QuantizedWrapper, ABC):
    """Base of the wrappers that compute on integers; arguments as the original's.

    Args:
        wrapped_module: what it stands in for.
        num_bits_acts: width of inputs and outputs, or None to leave them alone.
        num_bits_accum: width of the accumulators.
        mode: a mode, or a `ModuleQuantMode`.
        clip_acts: how ranges are chosen.
        activation_stats: {"inputs": {0: …}, "output": …}, or None for dynamic quantization.
        clip_n_stds: for N_STD.
        clip_half_range: the output passes a ReLU, which is applied here: the range begins at 0, and
            GAUSS and LAPLACE take the table for one-sided distributions.
        scale_approx_mult_bits: scales as integer multiplier and shift.
        input_overrides: {input number: {bits_activations, mode, clip_acts, clip_n_stds}} or
            {input number: {"from_output": True}} to give an input the output's grid.
        inputs_quant_auto_fallback: quantize an input that carries no grid by its statistics; else
            it is an error.

    Attributes:
        WRAPS: the modules that it can stand in for; any when there is none.
        DYNAMIC: whether it computes without statistics, too.

    Raises:
        QuantizationError: bits out of range, or another module than those of `WRAPS`.
        NoStatsError: no statistics, and it is not `DYNAMIC`.
    """

    WRAPS: ClassVar[tuple[type[nn.Module], ...]] = ()
    DYNAMIC: ClassVar[bool] = True

    def __init__(
        self,
        wrapped_module: nn.Module,
        num_bits_acts: int | None,
        num_bits_accum: int = 32,
        mode: LinearQuantMode | ModuleQuantMode | str = LinearQuantMode.SYMMETRIC,
        clip_acts: ClipMode | str = ClipMode.NONE,
        activation_stats: Mapping[str, Any] | None = None,
        clip_n_stds: float | None = None,
        clip_half_range: bool = False,
        scale_approx_mult_bits: int | None = None,
        input_overrides: Mapping[int, Mapping[str, Any]] | None = None,
        inputs_quant_auto_fallback: bool = False,
    ) -> None:
        super().__init__()
        if self.WRAPS and not isinstance(wrapped_module, self.WRAPS):
            known = " or ".join(kind.__name__ for kind in self.WRAPS)
            raise QuantizationError(
                f"{type(self).__name__} wraps a {known}, not a {type(wrapped_module).__name__}"
            )
        self.wrapped_module = wrapped_module
        self.num_bits_acts = check_bits(num_bits_acts, "num_bits_acts")
        if activation_stats is None and self.num_bits_acts is not None and not self.DYNAMIC:
            raise NoStatsError(f"{type(self).__name__} needs activation_stats: calibrate first")
        self.num_bits_accum = num_bits_accum
        self.mode = ModuleQuantMode.parse(mode)
        self.clip_acts = parse_clip(clip_acts)
        self.clip_n_stds = clip_n_stds
        self.clip_half_range = clip_half_range
        self.scale_approx_mult_bits = scale_approx_mult_bits
        self.inputs_quant_auto_fallback = inputs_quant_auto_fallback
        self.preset_act_stats = self.num_bits_acts is not None and activation_stats is not None
        self._input_options: dict[int, tuple[int, LinearQuantMode]] = {}
        if self.preset_act_stats and activation_stats is not None:
            self._register_grids(activation_stats, dict(input_overrides or {}))

    def _register_grids(
        self, stats: Mapping[str, Any], overrides: dict[int, Mapping[str, Any]]
    ) -> None:
        assert self.num_bits_acts is not None
        mode, output = self.mode.activations, stats["output"]
        result = get_quant_params_from_stats_dict(
            output,
            self.num_bits_acts,
            mode,
            self.clip_acts,
            self.clip_n_stds,
            self.clip_half_range,
            self.scale_approx_mult_bits,
        )
        self._register("output", result)
        for index in overrides:
            if index not in map(int, stats["inputs"]):
                raise QuantizationError(
                    f"input_overrides: {index}: a {type(self.wrapped_module).__name__} has no such "
                    f"input {did_you_mean(index, map(str, stats['inputs']))}"
                )
        for index, values in stats["inputs"].items():
            override = overrides.get(int(index), {})
            if override.get("from_output"):
                self._input_options[int(index)] = self.num_bits_acts, mode
                self._register(f"input_{index}", result)
                continue
            bits = check_bits(
                override.get("bits_activations", self.num_bits_acts), f"input {index}"
            )
            assert bits is not None
            own_mode = parse_mode(override.get("mode", mode))
            self._input_options[int(index)] = (bits, own_mode)
            params = get_quant_params_from_stats_dict(
                values,
                bits,
                own_mode,
                parse_clip(override.get("clip_acts", self.clip_acts)),
                override.get("clip_n_stds", self.clip_n_stds),
                scale_approx_mult_bits=self.scale_approx_mult_bits,
            )
            self._register(f"input_{index}", params)

    def _register(self, which: str, params: tuple[Tensor, Tensor]) -> None:
        self.register_buffer(f"{which}_scale", params[0])
        self.register_buffer(f"{which}_zero_point", params[1])

    @property
    def output_quant_settings(self) -> TensorQuantSettings:
        """How the output is quantized, by the original's names."""
        return TensorQuantSettings(
            self.num_bits_acts,
            self.mode.activations,
            self.clip_acts,
            self.clip_n_stds,
            self.clip_half_range,
            False,
        )

    @property
    def output_grid(self) -> Grid | None:
        """The calibrated grid of the output, None when dynamic or not quantized."""
        if not self.preset_act_stats:
            return None
        assert self.num_bits_acts is not None
        return self._registered_grid("output", self.num_bits_acts, self.mode.activations)

    def input_grid(self, index: int) -> Grid | None:
        """The calibrated grid of an input, None when dynamic or not quantized."""
        if not self.preset_act_stats or index not in self._input_options:
            return None
        return self._registered_grid(f"input_{index}", *self._input_options[index])

    def _registered_grid(self, which: str, bits: int, mode: LinearQuantMode) -> Grid:
        def build() -> Grid:
            scale, zero_point = f"{which}_scale", f"{which}_zero_point"
            return _grid_of((self.get_buffer(scale), self.get_buffer(zero_point)), bits, mode)

        return self.cached(which, build)

    def named_linear_quant_params(self, filter: bool = False) -> Iterator[tuple[str, Tensor]]:
        """The calibrated scale and zero point of the output, by name; they can be set."""
        yield from super().named_linear_quant_params(filter)
        if self.preset_act_stats:
            for name in ("output_scale", "output_zero_point"):
                yield name, self.get_buffer(name)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Runs the module as integers would.

        Raises:
            QuantizationError: in training mode; an input without a grid when the fallback is off.
        """
        if self.training:
            raise QuantizationError(
                "a model quantized after training only evaluates: call model.eval() first"
            )
        if self.num_bits_acts is None:
            out = self.float_forward(*inputs)
            return out.relu() if self.clip_half_range else out
        integers, grids = self.on_grids(inputs)
        accum, accum_scale = self.accumulate(integers, grids)
        if self.clip_half_range:
            accum = accum.relu_()
        grid = self.output_grid or self._dynamic_grid(accum / accum_scale, self.clip_half_range)
        factor = self.requant_factor(grid, accum_scale)
        out = by_slices_(accum, lambda piece: grid.values_(grid.round_(piece.mul_(factor))))
        return attach_grid(out if out.dtype == torch.float32 else out.float(), grid)

    def on_grids(self, inputs: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Grid]]:
        """Shifted integers of each input, new tensors, and its grid."""
        grids = [self._grid_for(index, x) for index, x in enumerate(inputs)]
        return [grid.integers(x) for grid, x in zip(grids, inputs, strict=True)], grids

    def float_forward(self, *inputs: Tensor) -> Tensor:
        """Without quantized activations."""
        return self.wrapped_module(*inputs)

    @abstractmethod
    def accumulate(
        self, integers: list[Tensor], grids: list[Grid]
    ) -> tuple[Tensor, float | Tensor]:
        """The operation.

        Args:
            integers: shifted integers of each input; may be overwritten.
            grids: the grid of each input.

        Returns:
            The accumulators (may be overwritten) and their scale, a number or (features,).
        """

    def requant_factor(self, grid: Grid, accum_scale: float | Tensor) -> float | Tensor:
        """What accumulators are multiplied by to become output integers."""
        if isinstance(accum_scale, Tensor):
            factor = grid.scale / accum_scale
        else:
            factor = torch.tensor(grid.scale) / torch.tensor(accum_scale)
        if self.scale_approx_mult_bits is not None:
            factor = approx_scale_as_mult_and_shift(factor, self.scale_approx_mult_bits)
        return float(factor) if factor.dim() == 0 else factor

    def _grid_for(self, index: int, x: Tensor) -> Grid:
        carried = read_grid(x)
        if carried is not None:
            return carried
        if not self.preset_act_stats:
            return self._dynamic_grid(x, False)
        grid = self.input_grid(index) if self.inputs_quant_auto_fallback else None
        if grid is None:
            raise QuantizationError(
                f"input {index} of a quantized {type(self.wrapped_module).__name__} carries no "
                "scale and has no statistics to fall back to: calibrate again, or set "
                "inputs_quant_auto_fallback"
            )
        return grid

    def _dynamic_grid(self, x: Tensor, half_range: bool) -> Grid:
        assert self.num_bits_acts is not None
        params = get_quant_params_from_tensor(
            x,
            self.num_bits_acts,
            self.mode.activations,
            self.clip_acts,
            num_stds=self.clip_n_stds,
            half_range=half_range,
            scale_approx_mult_bits=self.scale_approx_mult_bits,
        )
        return _grid_of(params, self.num_bits_acts, self.mode.activations)

    def extra_repr(self) -> str:
        text = f"acts={self.num_bits_acts}, accum={self.num_bits_accum}, mode={self.mode.plain()}"
        grid = self.output_grid
        if grid is None:
            return text
        return f"{text}, output_scale={grid.scale:.5g}, output_zero_point={grid.zero_point:.0f}"

    def saturate_(self, accum: Tensor, bound: float) -> Tensor:
        """Limits accumulators to their width, unless `bound` shows that none can exceed it."""
        top = 2 ** (self.num_bits_accum - 1)
        return accum if bound < top else accum.clamp_(-top, top - 1)
