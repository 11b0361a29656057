"""An automatic choice of bits and clipping for each module, within a budget.

First clip modes: the one that is best for all activations, then from module to module the one that
is better for it, the others as they were found best so far. Then a sensitivity pass: each weight
alone at each candidate width, everything else at the most careful settings, and the loss measured.
Of all combinations of widths those count that none beats in both bytes and predicted loss. A budget
of bytes takes the most careful of them that fits, one of loss the boldest that meets it when it is
measured as a whole, found by bisection. One width for all weights, and settings that are given
whole, are candidates beside it. Every measurement is a `Trial`; a search that is given the trials
of an earlier one does not repeat them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from lmbench.distiller.quantization.calibration import ActivationStats
from lmbench.distiller.quantization.clipping import ClipMode
from lmbench.distiller.quantization.errors import QuantizationError
from lmbench.distiller.quantization.net_aware import cell_roles
from lmbench.distiller.quantization.post_training import modular_copy, quantizable_modules, quantize
from lmbench.distiller.quantization.settings import QuantSettings
from lmbench.distiller.quantization.storage import quantized_bytes
from lmbench.distiller.quantization.trials import Budget, Choice, Trial
from lmbench.distiller.quantization.wrappers import Grid, RangeLinearQuantWrapper

__all__ = ["SearchResult", "auto_quantize"]

# Operands of the modules that have most.
_OPERANDS = 2
# A module's own clip mode must gain so many nats a token (0.01% of perplexity): less is what
# differs between two samples of text.
_WORTH = 1e-4
_SAME_SCALE = 0.01
# In a choice: the name of settings that were given whole.
_WHOLE = "settings"


@dataclass(frozen=True)
class SearchResult:
    """What the search found.

    Attributes:
        settings: to give to `quantize`.
        loss, bytes: as measured.
        float_loss: of the model before.
        trials: everything that was measured, in order.
    """

    settings: QuantSettings
    loss: float
    bytes: int
    float_loss: float
    trials: tuple[Trial, ...]


@dataclass
class _Search:
    """Measures; the arguments are those of `auto_quantize`."""

    model: nn.Module
    stats: ActivationStats | None
    evaluate: Callable[[nn.Module], float]
    base: QuantSettings
    moments: Mapping[str, Tensor] | None
    on_try: Callable[[Trial], None] | None
    resume: Iterable[Trial]
    size: Callable[[nn.Module], int]
    whole: Mapping[str, QuantSettings]

    def __post_init__(self) -> None:
        self.known = {self._key(trial.phase, trial.choice): trial for trial in self.resume}
        self.trials: list[Trial] = []
        # of tied modules only the first is varied, and the others follow it
        modular = modular_copy(self.model)
        self.modules, self.roles = quantizable_modules(modular), cell_roles(modular)
        groups: dict[int, list[str]] = {}
        for name, module in self.modules.items():
            if isinstance(module, nn.Linear | nn.Embedding):
                groups.setdefault(id(module.weight), []).append(name)
        self.groups = {names[0]: names for names in groups.values()}

    @staticmethod
    def _key(phase: str, choice: Choice) -> str:
        return phase + json.dumps(choice, sort_keys=True)

    def settings(self, choice: Choice) -> QuantSettings:
        """The base with each chosen module's settings in front of its overrides."""
        common = choice.get("*", {})
        if _WHOLE in common:
            return self.whole[common[_WHOLE]]
        base = QuantSettings.from_dict(self.base.to_dict() | common)
        own = {
            re.escape(name): self._inherited(base, name) | entry
            for name, entry in self._own(choice).items()
        }
        kept = {pattern: entry for pattern, entry in base.overrides.items() if pattern not in own}
        return replace(base, overrides=own | kept)

    def _inherited(self, base: QuantSettings, name: str) -> dict[str, Any]:
        """What a module has beside the base, by an override or by its role in a cell."""
        pattern = base.pattern_of(name)
        if pattern is not None:
            return dict(base.overrides[pattern])
        in_role = base.settings_of(name, self.roles.get(name, "")).plain()
        plain = base.base.plain()
        return {key: value for key, value in in_role.items() if value != plain.get(key)}

    def _own(self, choice: Choice) -> Choice:
        """What each module gets: bits are of a matrix, and hold for all that share it; a clip mode
        is of one module's activations."""
        own: Choice = {}
        for chosen, entry in choice.items():
            for name in self.groups.get(chosen, [chosen] if chosen != "*" else []):
                shared = {key: v for key, v in entry.items() if key != "clip_acts"}
                given = entry if name == chosen else shared
                if given:
                    own[name] = own.get(name, {}) | given
        return own

    def grids(self, choice: Choice) -> dict[str, list[Grid]]:
        """The calibrated grids of each module's output and inputs."""
        candidate = quantize(self.model, self.settings(choice), self.stats, self.moments)
        found: dict[str, list[Grid]] = {}
        for name in self.modules:
            module = candidate.get_submodule(name)
            if isinstance(module, RangeLinearQuantWrapper):
                grids = [module.output_grid, *map(module.input_grid, range(_OPERANDS))]
                found[name] = [grid for grid in grids if grid is not None]
        return found

    def bytes_of(self, choice: Choice) -> int:
        """Of the packed model, without scoring it."""
        candidate = quantize(self.model, self.settings(choice), self.stats, self.moments)
        return self.size(candidate)

    def measure(self, phase: str, choice: Choice) -> Trial:
        key = self._key(phase, choice)
        trial = self.known.get(key)
        if trial is None:
            if phase == "float":
                plain = modular_copy(self.model)
                size = sum(p.numel() * p.element_size() for p in plain.parameters())
                trial = Trial(phase, choice, self.evaluate(plain), size)
            else:
                candidate = quantize(self.model, self.settings(choice), self.stats, self.moments)
                trial = Trial(phase, choice, self.evaluate(candidate), self.size(candidate))
            self.known[key] = trial
        self.trials.append(trial)
        if self.on_try is not None:
            self.on_try(trial)
        return trial


def auto_quantize(
    model: nn.Module,
    stats: ActivationStats | None,
    evaluate: Callable[[nn.Module], float],
    budget: Budget,
    base: QuantSettings | None = None,
    bits: Iterable[int] = (8, 6, 5, 4, 3),
    clips: Iterable[ClipMode] = (ClipMode.NONE, ClipMode.AVG, ClipMode.MSE),
    input_moments: Mapping[str, Tensor] | None = None,
    on_try: Callable[[Trial], None] | None = None,
    resume: Iterable[Trial] = (),
    size: Callable[[nn.Module], int] | None = None,
    whole: Mapping[str, QuantSettings] | None = None,
) -> SearchResult:
    """Chooses the clip mode of each module's activations and the bits of each weight.

    Clip modes take a measurement for each candidate, and one more for each module and each other
    candidate that would move its range by more than 1%.

    Args:
        model: not changed.
        stats: from `calibrate`; None quantizes dynamically, and then `clips` is not searched.
        evaluate: a model → its mean negative log-likelihood in nats; on a validation sample.
        budget: bytes, or a rise of the loss.
        base: settings to start from; default: full INT8, asymmetric activations, symmetric
            weights with a range for each row.
        bits: candidate widths of weights.
        clips: candidate clip modes of activations.
        input_moments: for a base with `rounding: gptq`.
        on_try: called with each trial as it is known.
        resume: trials of an earlier search with the same arguments.
        size: a quantized model → its bytes; default: each weight in so many bits as it has.
        whole: settings that are candidates as they are, by name; the result is never worse than one
            of them.

    Raises:
        QuantizationError: nothing that was tried fits the budget.
    """
    start = base or QuantSettings.from_dict(
        {
            "mode": {"activations": "ASYMMETRIC_SIGNED", "weights": "SYMMETRIC"},
            "per_channel_wts": True,
            "clip_weights": "MSE",
        }
    )
    widths = sorted(set(bits), reverse=True)
    start = replace(start, base=replace(start.base, bits_weights=widths[0]))
    search = _Search(
        model,
        stats,
        evaluate,
        start,
        input_moments,
        on_try,
        resume,
        size or _own_width,
        whole or {},
    )
    float_loss = search.measure("float", {}).loss
    common: Choice = {}
    if stats is not None and start.base.bits_activations is not None:
        common = _clips(search, [clip.name for clip in clips]).choice
    careful = search.measure("candidate", common)
    walk = _front(_sensitivities(search, common, careful, widths), common)
    fitted = _fit(search, careful, walk, budget, float_loss)
    found = [careful, *([fitted] if fitted else [])]
    found += _with_one_width(search, common, widths, budget, float_loss)
    found += _whole_settings(search, budget, float_loss, found)
    best = _best(found, budget, float_loss)
    if best is None:
        raise _cannot_be_met(budget, search.trials[1:], float_loss)
    return SearchResult(
        search.settings(best.choice), best.loss, best.bytes, float_loss, tuple(search.trials)
    )


def _own_width(model: nn.Module) -> int:
    return quantized_bytes(model)["total"]


def _clips(search: _Search, clips: list[str]) -> Trial:
    """The best clip mode for all, then for each module in turn what lowers the loss further."""
    alone = {clip: search.measure("clip", {"*": {"clip_acts": clip}}) for clip in clips}
    common = min(alone, key=lambda clip: alone[clip].loss)
    best = alone[common]
    grids = {clip: search.grids(trial.choice) for clip, trial in alone.items()}
    for name, now in grids[common].items():
        others = [clip for clip in clips if clip != common and not _alike(now, grids[clip][name])]
        tried = [
            search.measure("clip", _with(best.choice, name, {"clip_acts": clip})) for clip in others
        ]
        better = min(tried, key=lambda trial: trial.loss, default=best)
        if better.loss < best.loss - _WORTH:
            best = better
    return best


def _alike(one: list[Grid], other: list[Grid]) -> bool:
    """Do two grids lie so close that there is nothing to measure?"""
    return all(
        abs(a.scale / b.scale - 1) <= _SAME_SCALE and abs(a.zero_point - b.zero_point) <= 1
        for a, b in zip(one, other, strict=True)
    )


def _with(choice: Choice, name: str, entry: Mapping[str, Any]) -> Choice:
    """The choice with more settings for one module."""
    return {**choice, name: {**choice.get(name, {}), **entry}}


def _sensitivities(
    search: _Search, common: Choice, careful: Trial, widths: list[int]
) -> dict[str, list[tuple[int, float, int]]]:
    """For each weight its [(bits, loss above, bytes saved), …], narrower and narrower."""
    found: dict[str, list[tuple[int, float, int]]] = {}
    for name in search.groups:
        found[name] = [(widths[0], 0.0, 0)]
        for width in widths[1:]:
            trial = search.measure("sensitivity", _with(common, name, {"bits_weights": width}))
            rise = max(trial.loss - careful.loss, found[name][-1][1])
            found[name].append((width, rise, careful.bytes - trial.bytes))
    return found


def _front(
    sensitivities: Mapping[str, list[tuple[int, float, int]]], common: Choice
) -> list[Choice]:
    """Choices from careful to bold: of all combinations of widths those that none beats in both
    bytes and predicted loss, which is the sum of what the weights cost one by one."""
    # (bytes saved, loss above, {weight: bits}), the careful one first
    front: list[tuple[int, float, dict[str, int]]] = [(0, 0.0, {})]
    for name, steps in sensitivities.items():
        combined = [
            (saved + more, rise + above, {**bits, name: width} if place else bits)
            for saved, rise, bits in front
            for place, (width, above, more) in enumerate(steps)
        ]
        combined.sort(key=lambda state: (-state[0], state[1]))
        front, cheapest = [], math.inf
        for state in combined:
            if state[1] < cheapest:
                cheapest = state[1]
                front.append(state)
        front.reverse()
    choices: list[Choice] = []
    for saved, _, bits in front:
        if saved > 0:
            narrowed = common
            for name, width in bits.items():
                narrowed = _with(narrowed, name, {"bits_weights": width})
            choices.append(narrowed)
    return choices


def _fit(
    search: _Search, careful: Trial, walk: list[Choice], budget: Budget, float_loss: float
) -> Trial | None:
    """The boldest choice within a loss, or the most careful one within a size, by bisection."""

    def at(place: int) -> Trial:
        return careful if place == 0 else search.measure("candidate", walk[place - 1])

    # Places on the front, 0 the careful model: those that fit are the first ones for a loss, the
    # last ones for a size.
    by_loss = budget.loss is not None
    first, last = 0, len(walk)
    best = at(first if by_loss else last)
    if not budget.holds(best, float_loss):
        return None
    while first < last:
        middle = (first + last + by_loss) // 2
        trial = at(middle)
        fits = budget.holds(trial, float_loss)
        best = trial if fits else best
        if fits == by_loss:
            first = middle if by_loss else middle + 1
        else:
            last = middle - 1 if by_loss else middle
    return best


def _with_one_width(
    search: _Search, common: Choice, widths: list[int], budget: Budget, float_loss: float
) -> list[Trial]:
    """One width for all weights, those that may fit.

    What weights cost one by one does not quite add up, so the prediction that leads to a choice may
    be beaten by plain rounding of the same size.
    """
    tried: list[Trial] = []
    for width in widths[1:]:
        uniform = common
        for name in search.groups:
            uniform = _with(uniform, name, {"bits_weights": width})
        if budget.bytes is not None and search.bytes_of(uniform) > budget.bytes:
            continue
        tried.append(search.measure("candidate", uniform))
        if budget.bytes is not None or not budget.holds(tried[-1], float_loss):
            break
    return tried


def _whole_settings(
    search: _Search, budget: Budget, float_loss: float, found: list[Trial]
) -> list[Trial]:
    """Of the settings that were given whole, those that may be better than what was found."""
    tried: list[Trial] = []
    for name in search.whole:
        choice = {"*": {_WHOLE: name}}
        size = search.bytes_of(choice)
        best = _best(found + tried, budget, float_loss)
        if budget.bytes is not None and size > budget.bytes:
            continue
        if budget.loss is not None and best is not None and size >= best.bytes:
            continue
        tried.append(search.measure("candidate", choice))
    return tried


def _best(trials: list[Trial], budget: Budget, float_loss: float) -> Trial | None:
    """Of those that fit, the least loss within a size, or the fewest bytes within a loss."""
    fitting = [trial for trial in trials if budget.holds(trial, float_loss)]
    if budget.bytes is not None:
        return min(fitting, key=lambda trial: (trial.loss, trial.bytes), default=None)
    return min(fitting, key=lambda trial: (trial.bytes, trial.loss), default=None)


def _cannot_be_met(budget: Budget, trials: list[Trial], float_loss: float) -> QuantizationError:
    need = f"{budget.bytes} bytes" if budget.bytes is not None else f"a rise of {budget.loss}"
    nearest = min(trials, key=lambda t: t.bytes if budget.bytes is not None else t.loss)
    return QuantizationError(
        f"the budget of {need} cannot be met: the closest is {nearest.bytes} bytes with a rise of "
        f"{nearest.loss - float_loss:.4f} nats; widen the budget or the candidate bits"
    )
