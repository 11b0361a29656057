"""Typed objects as lines of strict JSON: a union of dataclasses, told apart by their ``kind``.

pydantic reads and writes them. Numbers that JSON has no word for are written as ``"nan"``,
``"inf"``, ``"-inf"``, and read where a field is a `Number`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from functools import cached_property
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import ConfigDict, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, PydanticSerializationError, core_schema

from lmbench.session.files import refuse_constant

__all__ = ["Number", "TaggedLines"]

T = TypeVar("T")

# What pydantic writes in another way than readers know, or loses: its words for numbers that are
# not finite, and the sign that it puts for half a surrogate pair in a key (of a file name that is
# no UTF-8), which can stand only as an escape. In a value it refuses that half.
_NOT_AS_IT_IS = (b'"NaN"', b'Infinity"', "\ufffd".encode())


class _NumberSchema:
    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        number = core_schema.float_schema(strict=True, allow_inf_nan=False)
        words = core_schema.literal_schema(["nan", "inf", "-inf"])
        return core_schema.union_schema(
            [number, core_schema.no_info_after_validator_function(float, words)],
            mode="left_to_right",
            serialization=core_schema.simple_ser_schema("float"),
        )


Number = Annotated[float, _NumberSchema()]
"""A float, or one of the three words for what JSON has no number for; no other text."""


class TaggedLines(Generic[T]):
    """Writes and reads the lines.

    Args:
        union: dataclasses, annotated with their field ``kind``, a literal, as discriminator.
        extra: what becomes of a field that is unknown here: ``ignore`` or ``forbid``.
    """

    def __init__(self, union: Any, *, extra: Literal["ignore", "forbid"]) -> None:
        self._union = union
        self._config = ConfigDict(strict=True, ser_json_inf_nan="strings", extra=extra)

    @cached_property
    def _adapter(self) -> TypeAdapter[T]:
        """Made late: it costs as much as a thousand lines."""
        return TypeAdapter(self._union, config=self._config)

    def line(self, value: T) -> bytes:
        """The object as one line."""
        try:
            line = self._adapter.dump_json(value, warnings=False)
        except PydanticSerializationError:
            line = b""
        if not line or any(found in line for found in _NOT_AS_IT_IS):
            line = json.dumps(_strict(value), allow_nan=False).encode()
        return line + b"\n"

    def parse(self, line: bytes | str) -> T:
        """The object of one line.

        Raises:
            ValueError: it is none; says in one line what is wrong with it.
        """
        try:
            return self._adapter.validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            if first["type"] != "json_invalid":
                where = ".".join(map(str, first["loc"]))
                raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None
        # What pydantic's JSON has no place for: half a surrogate pair.
        try:
            document = json.loads(line, parse_constant=refuse_constant)
            # Python's values are taken loosely, lists as tuples, so types are checked here.
            whole = json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")
            self._adapter.validate_json(whole)
            return self._adapter.validate_python(document, strict=False)
        except ValidationError as error:
            raise ValueError(error.errors(include_url=False)[0]["msg"]) from None
        except RecursionError:
            raise ValueError("nested too deeply") from None


def _strict(value: Any) -> Any:
    """The value without a float that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _strict(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value
