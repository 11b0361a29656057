"""A schedule's text judged as it is typed: each mistake with its line, and the sparsity it gives.

The engine names mistakes by their place in the document (``pruners: l0: final_sparsity: …``);
here the place is looked up in the text, so that an editor can show the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import yaml

from lmbench.config import TrainConfig
from lmbench.distiller.errors import ScheduleError
from lmbench.distiller.schedules.checking import check_parameters, parse_schedule
from lmbench.distiller.schedules.plan import SchedulePlan, predict_sparsity
from lmbench.report.plots.series import Colour, Series

__all__ = ["Checked", "Problem", "check_text", "curves"]

_LINE = re.compile(r"line (\d+) ")
_ENTRY = re.compile(r"entry (\d+)(?: \(.*\))?$")
_MARKERS = "●◆■▲▼★○◇"
# So many epochs or fewer get a sign each.
_FEW = 10


@dataclass(frozen=True)
class Problem:
    """A mistake: `line` counts from 0, and is None where the text as a whole is meant."""

    line: int | None
    text: str

    @property
    def words(self) -> str:
        return self.text if self.line is None else f"line {self.line + 1}: {self.text}"


@dataclass(frozen=True)
class Checked:
    """What was found: mistakes, or, without any, the plan of what the schedule will do."""

    problems: tuple[Problem, ...]
    plan: SchedulePlan | None = None


def check_text(text: str, config: TrainConfig, types: int, *, lengthened: bool = False) -> Checked:
    """Judge a schedule for the model of `config` over a vocabulary of `types` words.

    Args:
        lengthened: does a training have no fewer epochs than the schedule needs?
    """
    names, shapes = config.parameter_names(), config.parameter_shapes(types)
    try:
        schedule = parse_schedule(text, "it")
        check_parameters(schedule, names, f"this {config.model}")
        needed = schedule.last_epoch + 1 if lengthened else 0
        plan = predict_sparsity(schedule, shapes, names, max(config.epochs, needed))
    except ScheduleError as error:
        tree = _tree(text)
        problems = [_problem(line, tree) for line in error.problems]
        return Checked(tuple(sorted(problems, key=lambda p: -1 if p.line is None else p.line)))
    return Checked((), plan)


def _tree(text: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return None


def _problem(message: str, tree: yaml.Node | None) -> Problem:
    text = message.removeprefix("schedule it:").strip()
    match = _LINE.match(text)
    if match:
        return Problem(int(match[1]) - 1, text[match.end() :])
    if text.startswith("top: "):
        return Problem(None, text.removeprefix("top: "))
    return Problem(_line_of(text, tree) if tree is not None else None, text)


def _line_of(message: str, tree: yaml.Node) -> int | None:
    """The line of the innermost thing that the message's path leads to."""
    node, line = tree, None
    for part in message.split(": "):
        found = _inside(node, part)
        if found is None:
            named = _named_key(node, part)
            return named if named is not None else line
        line, node = found
    return line


def _inside(node: yaml.Node, part: str) -> tuple[int, yaml.Node] | None:
    """The entry `part` of a mapping or sequence: its line and its value."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part or part.startswith(f"{key.value} "):
                return key.start_mark.line, value
    if isinstance(node, yaml.SequenceNode):
        entry = _ENTRY.match(part)
        number = int(entry[1]) - 1 if entry else int(part) if part.isdecimal() else -1
        if 0 <= number < len(node.value):
            return node.value[number].start_mark.line, node.value[number]
    return None


def _named_key(node: yaml.Node, part: str) -> int | None:
    """The line of a key or a value that a message names in quotes, or as its first word."""
    words = re.findall(r"'([^']+)'", part) + part.split()[:1]
    for word in words:
        for key, line in _scalars(node):
            if key == word:
                return line
    return None


def _scalars(node: yaml.Node) -> Iterator[tuple[str, int]]:
    """Each plain value in a node, keys too, with its line."""
    stack = [node]
    seen: set[int] = set()
    while stack:
        here = stack.pop()
        if id(here) in seen:
            continue
        seen.add(id(here))
        if isinstance(here, yaml.ScalarNode):
            yield here.value, here.start_mark.line
        elif isinstance(here, yaml.SequenceNode):
            stack.extend(here.value)
        elif isinstance(here, yaml.MappingNode):
            stack.extend(part for pair in here.value for part in pair)


def curves(plan: SchedulePlan, colours: list[Colour]) -> tuple[Series, ...]:
    """The sparsity of each tensor over the epochs, those that go alike in one, then the total."""
    epochs, tensors, totals = plan.drawn()
    alike: dict[tuple[float | None, ...], list[str]] = {}
    for name, curve in tensors.items():
        alike.setdefault(curve, []).append(name)
    lines = [(_together(names), sparsity) for sparsity, names in alike.items()]
    if len(alike) > 1 or any(len(t.shape) > 1 for t in plan.tensors):
        lines.append(("whole model", totals))
    made = []
    for number, (name, sparsity) in enumerate(lines):
        known = [
            (epoch, share)
            for epoch, share in zip(epochs, sparsity, strict=True)
            if share is not None
        ]
        if known:
            x, y = np.array(known, dtype=np.float64).T
            marker = _MARKERS[number % len(_MARKERS)]
            style = "points" if len(known) <= _FEW else "line"
            made.append(Series(name, x, y, marker, colours[number % len(colours)], style))
    return tuple(made)


def _together(names: list[str]) -> str:
    """``rnn.weight_ih_l0, hh_l0``: what follows the first name without what they share."""
    first = names[0]
    rest = [
        name.removeprefix("rnn.weight_").removeprefix("rnn.") if first.startswith("rnn.") else name
        for name in names[1:]
    ]
    return ", ".join([first, *rest])
