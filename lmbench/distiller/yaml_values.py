"""YAML that anybody may have written, as plain values: limits on size, depth and aliases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


class YamlPlaces:
    """Where in a text that `read_yaml` has read each of its values stands."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._root = yaml.compose(text, Loader=yaml.SafeLoader)

    def line(self, path: Sequence[object]) -> int:
        """The line, from 1, of the key or list entry that `path` leads to; where it is not there,
        that of the last one on the way that is."""
        return self._find(path)[0].start_mark.line + 1 if self._root is not None else 1

    def replaced(self, values: Mapping[tuple[object, ...], str]) -> str:
        """The text with other words in the place of the values that these paths lead to."""
        document = read_yaml(self._text, "")
        for path, value in values.items():
            document = _with(document, path, value)
        text = self._spliced(values)
        try:
            sound = read_yaml(text, "") == document
        except ScheduleError:
            sound = False
        # Where a value is shared by an anchor, the text of one place is that of others, too.
        return text if sound else yaml.safe_dump(document, sort_keys=False, allow_unicode=True)

    def _spliced(self, values: Mapping[tuple[object, ...], str]) -> str:
        spans: dict[tuple[int, int], str] = {}
        for path, value in values.items():
            node = self._find(path)[1]
            spans[node.start_mark.index, node.end_mark.index] = value
        text = self._text
        for (start, end), value in sorted(spans.items(), reverse=True):
            quoted = yaml.safe_dump(value, default_style='"', width=LARGEST_FILE).rstrip("\n")
            text = text[:start] + quoted + text[end:]
        return text

    def _find(self, path: Sequence[object]) -> tuple[yaml.Node, yaml.Node]:
        """The node that names the value, and the value's own."""
        here: Any = self._root
        named: Any = here
        for part in path:
            if isinstance(here, yaml.MappingNode):
                pairs = [pair for pair in here.value if pair[0].value == str(part)]
                if not pairs:
                    break
                named, here = pairs[0]
            elif isinstance(here, yaml.SequenceNode) and isinstance(part, int):
                if part >= len(here.value):
                    break
                named = here = here.value[part]
            else:
                break
        return named, here


def _with(document: Any, path: Sequence[object], value: str) -> Any:
    """A copy of plain values with another one where `path` leads to."""
    if not path:
        return value
    first, *rest = path
    if isinstance(document, list):
        return [_with(v, rest, value) if i == first else v for i, v in enumerate(document)]
    return {k: _with(v, rest, value) if k == first else v for k, v in document.items()}
