"""From YAML to plain values, and from validation errors to lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from lmbench.distiller.errors import ScheduleError, did_you_mean

LARGEST_FILE = 1_000_000
LARGEST_CONTENT = 100_000
LARGEST_BITS = 64
DEEPEST = 32
_BOUNDS = {
    "greater_than": "greater than",
    "greater_than_equal": "at least",
    "less_than": "less than",
    "less_than_equal": "at most",
}
SPARSITIES = ("initial_sparsity", "final_sparsity", "desired_sparsity", "levels")


def one_line(value: object, length: int = 120) -> str:
    """``value`` as printable text on one line, cut when long."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(value))
    return text if len(text) <= length else text[: length - 1] + "…"


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice; YAML would silently take the last."""


def _mapping_once(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, (str, int, float, bool, type(None))):
            raise yaml.constructor.ConstructorError(
                None, None, "a key must be text", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key '{key}' is given twice; rename one", key_node.start_mark
            )
        seen.add(key)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping_once)


def read_yaml(text: str | bytes, source: str) -> Any:
    """The plain values of a YAML text.

    Raises:
        ScheduleError: one line, with the line number where there is one.
    """
    prefix = f"schedule {one_line(source)}"
    if len(text) > LARGEST_FILE:
        raise ScheduleError(f"{prefix}: is larger than {LARGEST_FILE:,} bytes; is it a schedule?")
    try:
        data = yaml.load(text, Loader=_Loader)
        _measure(data)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}" if mark else ""
        raise ScheduleError(f"{prefix}:{line} {one_line(error.problem or error.context)}") from None
    except RecursionError:
        raise ScheduleError(f"{prefix}: is nested too deeply; write it flat") from None
    except (
        yaml.YAMLError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        OverflowError,
    ) as error:
        # SafeLoader lets these escape from scalars with a wrong explicit tag, wrong dates and
        # undecodable bytes.
        raise ScheduleError(f"{prefix}: is not valid YAML ({one_line(error)})") from None
    return data


def _measure(data: Any) -> None:
    """Refuse cycles, the exponential growth that aliases allow, and numbers beyond all use."""
    count = 0
    stack: list[tuple[Any, int]] = [(data, 0)]
    while stack:
        value, depth = stack.pop()
        count += 1
        if depth > DEEPEST:
            raise RecursionError
        if count > LARGEST_CONTENT:
            raise ValueError("it holds too much once its aliases are followed")
        if isinstance(value, dict):
            stack.extend((item, depth + 1) for pair in value.items() for item in pair)
        elif isinstance(value, int) and value.bit_length() > LARGEST_BITS:
            raise ValueError("it holds a number that is too large")
        elif isinstance(value, (list, tuple, set)):
            stack.extend((item, depth + 1) for item in value)


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
            yield f"{place}: {problem['msg'].lower()}, not {given}"


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
