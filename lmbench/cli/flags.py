"""Command-line flags made from the settings' definitions, so that none is written twice."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from cyclopts import Group, Parameter
from pydantic.fields import FieldInfo

from lmbench.config import Config, flag_of, validate

__all__ = ["configured"]

C = TypeVar("C", bound=Config)


def configured(model: type[C]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a command ``f(config, …)``: each field of `model` becomes a flag of it.

    The command's own parameters stay as they are, and a field of the same name gets no flag;
    `config` is built from the flags that were given (``config.model_fields_set`` tells which) and
    checked once, by the model itself.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        hints = get_type_hints(function, include_extras=True)
        own = [
            parameter.replace(annotation=hints.get(name, Any))
            for name, parameter in inspect.signature(function).parameters.items()
            if name != "config"
        ]
        taken = {parameter.name for parameter in own}
        fields = {name: field for name, field in model.model_fields.items() if name not in taken}

        def command(*args: Any, **given: Any) -> Any:
            settings = {name: given.pop(name) for name in list(given) if name in fields}
            return function(validate(model, settings), *args, **given)

        flags = [_flag(name, field) for name, field in fields.items()]
        signature = inspect.Signature(sorted([*own, *flags], key=lambda p: p.kind))
        command.__name__ = function.__name__
        command.__doc__ = function.__doc__
        command.__module__ = function.__module__
        command.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
        command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        return command

    return decorate


def _flag(name: str, field: FieldInfo) -> inspect.Parameter:
    extra: dict[str, Any] = (
        dict(field.json_schema_extra) if isinstance(field.json_schema_extra, dict) else {}
    )
    spellings = (flag_of(name), *extra.get("flags", ()))
    parameter = Parameter(
        name=spellings,
        help=_help(field, str(extra.get("unit", ""))),
        group=Group(str(extra.get("group", "Settings"))),
        negative="" if field.default is False else None,
        consume_multiple=isinstance(field.default, tuple) or None,
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=field.default,
        annotation=Annotated[field.annotation, parameter],
    )


def _help(field: FieldInfo, unit: str) -> str:
    bounds = [_bound(item) for item in field.metadata]
    note = ", ".join([text for text in bounds if text] + ([f"in {unit}"] if unit else []))
    return f"{field.description} ({note})" if note else str(field.description)


def _bound(item: object) -> str:
    """A bound as help shows it; upper bounds that only catch slips are left out."""
    match item:
        case Ge():
            return f">= {item.ge}"
        case Gt():
            return f"> {item.gt}"
        case Lt(lt=limit) if float(limit) < 1000:  # pyright: ignore[reportArgumentType]
            return f"< {limit}"
        case Le(le=limit) if float(limit) < 1000:  # pyright: ignore[reportArgumentType]
            return f"<= {limit}"
    return ""
