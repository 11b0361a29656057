"""A nested state of tensors and JSON values, split for storage and joined again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

_TENSOR = "tensor:"
# Marks a text that itself begins with one of the two marks.
_TEXT = "text:"


def plain_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``state`` that strict JSON can hold: finite numbers, strings, None, lists."""
    return {key: value for key, value in state.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (bool, int, str))


def split_state(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split a state into its tensors, by path, and a copy for JSON that refers to them.

    Returns:
        ``(tensors, values)``, fit for a safetensors and a JSON file; `join_state` undoes it.
    """
    tensors: dict[str, Tensor] = {}

    def visit(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            while path in tensors:  # a key may hold a slash
                path += "+"
            tensors[path] = value.detach().contiguous()
            return _TENSOR + path
        if isinstance(value, Mapping):
            return {str(key): visit(item, f"{path}/{key}") for key, item in value.items()}
        if isinstance(value, str) and value.startswith((_TENSOR, _TEXT)):
            return _TEXT + value
        if isinstance(value, (list, tuple)):
            return [visit(item, f"{path}/{index}") for index, item in enumerate(value)]
        return value

    values = {str(key): visit(item, str(key)) for key, item in state.items()}
    return tensors, values


def join_state(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `split_state`."""

    def visit(value: Any) -> Any:
        if isinstance(value, str) and value.startswith(_TENSOR):
            return tensors[value.removeprefix(_TENSOR)]
        if isinstance(value, str):
            return value.removeprefix(_TEXT)
        if isinstance(value, Mapping):
            return {key: visit(item) for key, item in value.items()}
        if isinstance(value, list):
            return [visit(item) for item in value]
        return value

    return {key: visit(item) for key, item in values.items()}
