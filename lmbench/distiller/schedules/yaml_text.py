"""From YAML to plain values, and from validation errors to lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from lmbench.distiller.errors import did_you_mean
from lmbench.distiller.yaml_values import one_line

_BOUNDS = {
    "greater_than": "greater than",
    "greater_than_equal": "at least",
    "less_than": "less than",
    "less_than_equal": "at most",
}
SPARSITIES = ("initial_sparsity", "final_sparsity", "desired_sparsity", "levels")


def validation_lines(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    """A line for each mistake that pydantic found: the argument, what is wrong, the fix."""
    found = error.errors(include_url=False)
    # A misspelt argument is also a missing one, so the unknown ones come first.
    for problem in sorted(found, key=lambda one: one["type"] != "extra_forbidden"):
        place = ": ".join(str(part) for part in problem["loc"] if part != "[key]")
        kind, context = problem["type"], problem.get("ctx", {})
        given = one_line(repr(problem["input"]), 60)
        if kind == "missing":
            yield f"{place} is missing; add it"
        elif kind == "extra_forbidden":
            *outer, name = problem["loc"]
            known = _fields(model, outer)
            inside = f" in {': '.join(map(str, outer))}" if outer else ""
            yield f"unknown argument '{name}'{inside} {did_you_mean(name, known)}"
        elif kind == "value_error":
            text = str(context["error"])
            wrong = f", not {given}" if text.startswith("must") else ""
            yield f"{place}: {text}{wrong}" if place else text
        elif kind in ("greater_than_equal", "less_than") and problem["loc"][0] in SPARSITIES:
            yield f"{place}: {given} is out of [0, 1); give the share of weights to prune"
        elif kind in _BOUNDS:
            yield f"{place}: {given} must be {_BOUNDS[kind]} {next(iter(context.values())):g}"
        elif kind == "literal_error":
            yield f"{place}: {given} is unknown; choose {context['expected']}"
        elif kind in ("too_short", "string_too_short"):
            yield f"{place} is empty; list at least one"
        else:
            text = f"{problem['msg'].lower()}, not {given}"
            yield f"{place}: {text}" if place else text


def _fields(model: type[BaseModel], path: list[Any]) -> list[str]:
    """The argument names of the model, or of the model inside that a path leads to."""
    for part in path:
        info = model.model_fields.get(str(part))
        inner = (
            [
                kind
                for kind in (info.annotation, *get_args(info.annotation))
                if isinstance(kind, type) and issubclass(kind, BaseModel)
            ]
            if info
            else []
        )
        if not inner:
            break
        model = inner[0]
    return list(model.model_fields)
