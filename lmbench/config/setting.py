"""What a setting is: a value with bounds, unit and help, checked with a message that helps.

A field's metadata beyond pydantic's own lives in ``json_schema_extra``:

* ``flags``: further spellings on the command line (``--wd``),
* ``unit``: what the number counts (``words``, ``minutes``),
* ``label``: the form's label where the field's name would not read well,
* ``group``: the heading it stands under in help and forms,
* ``choices_from``: what a form may offer (``corpora``, ``runs``, ``teachers``, ``schedules``),
* ``hidden``: kept out of the forms (it is about the command, not about the run).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from contextlib import suppress
from types import NoneType
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lmbench.errors import LmbenchError

__all__ = [
    "SLIP",
    "Config",
    "as_number",
    "changed_settings",
    "first_mistake",
    "flag_of",
    "number_type",
    "setting",
    "validate",
    "value_text",
]


SLIP = 1_000
"""An upper bound from here on only catches slips, and tells a reader of help or a form nothing."""


def setting(
    default: Any,
    help: str,
    *,
    group: str,
    unit: str | None = None,
    label: str | None = None,
    flags: tuple[str, ...] = (),
    choices_from: str | None = None,
    hidden: bool = False,
    **bounds: Any,
) -> Any:
    """A pydantic field with the extra metadata that flags and forms are made from."""
    given = {"unit": unit, "label": label, "choices_from": choices_from, "hidden": hidden}
    extra: dict[str, Any] = {"group": group} | {key: it for key, it in given.items() if it}
    if flags:
        extra["flags"] = list(flags)
    return Field(default, description=help, json_schema_extra=extra, **bounds)


class Config(BaseModel):
    """Base of all settings: frozen, and a name that is none of them is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def check(self) -> None:
        """See that settings which are right alone are right together.

        Raises:
            LmbenchError: they are not; says which and what to change.
        """


C = TypeVar("C", bound=Config)


def validate(model: type[C], values: Mapping[str, Any], *, together: bool = True) -> C:
    """The settings that `values` give, with defaults for the rest.

    Args:
        together: see also that they fit together; not where others will join them.

    Raises:
        LmbenchError: one line that names the setting, the value, what is wrong and the bounds.
    """
    try:
        config = model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        raise LmbenchError(_line(model, first)) from None
    if together:
        config.check()
    return config


def first_mistake(model: type[Config], values: Mapping[str, Any]) -> str | None:
    """What is wrong with the first of these values that does not fit alone, in a line; None where
    all do. Whether they fit together `validate` says."""
    for name, value in values.items():
        field = model.model_fields.get(name)
        if isinstance(value, bool) and field and number_type(field.annotation):
            return f"{flag_of(name)}: {value}: input should be a number"
    try:
        model.model_validate(dict(values))
    except ValidationError as error:
        return _line(model, error.errors()[0])
    return None


def _line(model: type[Config], error: Any) -> str:
    name = str(error["loc"][0]) if error["loc"] else model.__name__
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, model.model_fields, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        return f"unknown setting '{name}'{hint}"
    message = str(error["msg"])
    message = message[0].lower() + message[1:]
    if error["type"] == "string_pattern_mismatch":
        message = f"none of {model.model_fields[name].description}"
    return f"{flag_of(name)}: {error['input']!r}: {message}"


def flag_of(name: str) -> str:
    """The command line's spelling of a setting: ``batch_size`` is ``--batch-size``."""
    return "--" + name.replace("_", "-")


def number_type(annotation: Any) -> type[int] | type[float] | None:
    """``int`` or ``float`` of a setting that is such a number (or nothing); None of any other."""
    kinds = set(get_args(annotation) or (annotation,)) - {NoneType}
    return next((kind for kind in (int, float) if kinds == {kind}), None)


def as_number(value: Any) -> Any:
    """Text as the number that it is, as 1e-6, which YAML takes for text (it wants 1.0e-6); anything
    else as it is."""
    for kind in (int, float):
        with suppress(ValueError):
            return kind(value) if isinstance(value, str) else value
    return value


def value_text(value: Any) -> str:
    """A single value as the shortest text that reads back as the same value: 20, not 20.0."""
    if not isinstance(value, float):
        return str(value)
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def changed_settings(config: Config) -> dict[str, Any]:
    """What differs from the defaults: all that a form stores and a command line needs."""
    return config.model_dump(mode="json", exclude_defaults=True)
