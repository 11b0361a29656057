"""YAML that anybody may have written, as plain values: limits on size, depth and aliases."""

from __future__ import annotations

from typing import Any

import yaml

from lmbench.distiller.errors import DistillerError, ScheduleError

LARGEST_FILE = 1_000_000
LARGEST_CONTENT = 100_000
LARGEST_BITS = 64
DEEPEST = 32


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


def read_yaml(
    text: str | bytes,
    source: str,
    *,
    kind: str = "schedule",
    error: type[DistillerError] = ScheduleError,
    most_bytes: int = LARGEST_FILE,
    most_values: int = LARGEST_CONTENT,
    loader: type[yaml.SafeLoader | yaml.CSafeLoader] = _Loader,
) -> Any:
    """The plain values of a YAML text that anybody may have written.

    Args:
        source: the file's name, for messages.
        kind: what the text should be, for messages.
        most_values: after aliases are followed.

    Raises:
        DistillerError: of the class `error`; one line, with the line number where there is one.
    """
    prefix = f"{kind} {one_line(source)}"
    if len(text) > most_bytes:
        raise error(f"{prefix}: is larger than {most_bytes:,} bytes; is it a {kind}?")
    try:
        data = yaml.load(text, Loader=loader)
        _measure(data, most_values)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        line = f" line {mark.line + 1}" if mark else ""
        raise error(f"{prefix}:{line} {one_line(problem.problem or problem.context)}") from None
    except RecursionError:
        raise error(f"{prefix}: is nested too deeply; write it flat") from None
    except (
        yaml.YAMLError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        OverflowError,
    ) as problem:
        # SafeLoader lets these escape from scalars with a wrong explicit tag, wrong dates and
        # undecodable bytes.
        raise error(f"{prefix}: is not valid YAML ({one_line(problem)})") from None
    return data


def _measure(data: Any, most_values: int) -> None:
    """Refuse cycles, the exponential growth that aliases allow, and numbers beyond all use."""
    count = 0
    stack: list[tuple[Any, int]] = [(data, 0)]
    while stack:
        value, depth = stack.pop()
        count += 1
        if depth > DEEPEST:
            raise RecursionError
        if count > most_values:
            raise ValueError("it holds too much once its aliases are followed")
        if isinstance(value, dict):
            stack.extend((item, depth + 1) for pair in value.items() for item in pair)
        elif isinstance(value, int) and value.bit_length() > LARGEST_BITS:
            raise ValueError("it holds a number that is too large")
        elif isinstance(value, (list, tuple, set)):
            stack.extend((item, depth + 1) for item in value)
