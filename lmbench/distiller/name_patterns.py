"""Regular expressions for names of modules. No torch here.

They may come from a stranger's file, and Python's own matcher can be made to compute for ever. The
one within pydantic takes a time that grows with the name alone; it knows neither look-around nor
back references.
"""

from __future__ import annotations

from functools import lru_cache

from pydantic_core import SchemaError, SchemaValidator, core_schema

__all__ = ["check_pattern", "matches"]


@lru_cache(maxsize=1024)
def _validator(pattern: str) -> SchemaValidator:
    try:
        # By itself first: `a)|(b` must not pass for being within a group.
        for text in (pattern, rf"\A(?:{pattern})\z"):
            schema = core_schema.str_schema(pattern=text, regex_engine="rust-regex")
            validator = SchemaValidator(schema)
    except SchemaError as error:
        reason = str(error).rstrip().splitlines()[-1].strip()
        for prefix in ("SchemaError: ", "error: "):
            reason = reason.removeprefix(prefix)
        raise ValueError(reason) from None
    return validator


def check_pattern(pattern: str) -> None:
    """Is it a regular expression that can be matched?

    Raises:
        ValueError: it is none; says why in one line.
    """
    _validator(pattern)


def matches(pattern: str, name: str) -> bool:
    """Does the pattern match all of the name?

    Raises:
        ValueError: as `check_pattern`.
    """
    return _validator(pattern).isinstance_python(name)
