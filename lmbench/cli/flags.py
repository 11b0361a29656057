"""Command-line flags made from the settings' definitions, so that none is written twice."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from cyclopts import Group, Parameter, Token, convert
from pydantic.fields import FieldInfo

from lmbench.config import Config, TrainConfig, flag_of, validate
from lmbench.config.setting import SLIP, number_type
from lmbench.config.training import laid_over
from lmbench.errors import LmbenchError
from lmbench.session.files import write_new as write_new_file
from lmbench.training.recipe_files import recipe_settings
from lmbench.user_folder import expanded

__all__ = [
    "Whole",
    "check_needs",
    "configured",
    "free_place",
    "refuse_flags",
    "whole",
    "write_new",
]

C = TypeVar("C", bound=Config)


def configured(
    model: type[C], *, only: Collection[str] | None = None, over_others: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a command ``f(config, …)``: each field of `model` becomes a flag of it.

    The command's own parameters stay as they are, and a field of the same name gets no flag;
    `config` is built from the flags that were given (``config.model_fields_set`` tells which) and
    checked once, by the model itself. `only` names the fields that become flags, where not all do.
    Where they go `over_others`, such as a parent's, the command sees whether all fit together, for
    which it is told the settings that were `asked` for by flags. The settings of its ``recipe``
    stand under the flags, if it takes one.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        hints = get_type_hints(function, include_extras=True)
        own = [
            parameter.replace(annotation=hints.get(name, Any))
            for name, parameter in inspect.signature(function).parameters.items()
            if name not in ("config", "asked")
        ]
        taken = {parameter.name for parameter in own}
        fields = {
            name: field
            for name, field in model.model_fields.items()
            if name not in taken and (only is None or name in only)
        }

        def command(*args: Any, **given: Any) -> Any:
            settings = {name: given.pop(name) for name in list(given) if name in fields}
            asked = list(settings)
            if given.get("recipe") is not None:
                settings = laid_over(recipe_settings(given["recipe"]), settings)
            config = validate(model, settings, together=not over_others)
            if over_others:
                given["asked"] = frozenset(asked)
            check_needs(config, asked, whole=not over_others)
            return function(config, *args, **given)

        flags = [_flag(name, field) for name, field in fields.items()]
        signature = inspect.Signature(sorted([*own, *flags], key=lambda p: p.kind))
        command.__name__ = function.__name__
        command.__doc__ = function.__doc__
        command.__module__ = function.__module__
        command.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
        command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        return command

    return decorate


def refuse_flags(reason: str, **flags: object) -> None:
    """Refuse flags that would do nothing: those of `flags` whose value is neither None nor False.

    Raises:
        LmbenchError: names them, and gives `reason`.
    """
    given = [
        flag_of(name) for name, value in flags.items() if value is not None and value is not False
    ]
    if given:
        raise LmbenchError(f"{', '.join(given)}: {reason}")


def free_place(flag: str, path: str | Path) -> Path:
    """Where the file or folder that a flag names can be made.

    Raises:
        LmbenchError: something is there, or the folder that is to hold it is not, or read-only.
    """
    place = expanded(path)
    if os.path.lexists(place):
        raise LmbenchError(f"{flag} {path}: is there already; name another place")
    if not place.absolute().parent.is_dir():
        raise LmbenchError(f"{flag} {path}: the folder {place.parent} is not there")
    if not os.access(place.absolute().parent, os.W_OK):
        raise LmbenchError(f"{flag} {path}: nothing may be written in the folder {place.parent}")
    return place


def write_new(flag: str, place: Path, data: bytes, *, kept: Path | None = None) -> None:
    """Write a file to a `free_place` that was found before the work began; `kept` is where its
    content is, too.

    Raises:
        LmbenchError: something came to be there, which is left alone, or it cannot be written.
    """
    where = f"the content is in {kept}" if kept else "name another place and try again"
    try:
        write_new_file(place, data)
    except FileExistsError:
        raise LmbenchError(
            f"{flag} {place}: came to be there during the work and was left alone; {where}"
        ) from None
    except OSError as error:
        raise LmbenchError(
            f"{flag} {place}: cannot be written ({error.strerror}); {where}"
        ) from None


_NEEDS = {
    "distill_temp": "teacher",
    "distill_weight": "teacher",
    "teacher_samples": "teacher",
    "cache_theta": "cache",
    "cache_lambda": "cache",
    "dynamic_lr": "dynamic",
    "dynamic_decay": "dynamic",
    "dynamic_tokens": "dynamic",
    "tune_tokens": "tune",
}


def check_needs(config: Config, asked: Collection[str], *, whole: bool = True) -> None:
    """Refuse those of the flags `asked` for that do something only beside another one.

    Args:
        whole: nothing is laid under `config` any more, such as a parent's optimizer.

    Raises:
        LmbenchError: names them, and says why.
    """
    asked = set(asked)
    for name in sorted(asked):
        other = _NEEDS.get(name)
        if other in type(config).model_fields and not getattr(config, other):
            refuse_flags(f"does nothing without {flag_of(other)}", **{name: True})
    annealing = asked & {"patience", "anneal_factor"}
    if isinstance(config, TrainConfig) and config.rate_schedule != "plateau":
        way = config.lr_schedule
        other = "--decay, which sets the rate after each epoch"
        refuse_flags(
            f"does nothing with {other if way in (None, 'decay') else f'--lr-schedule {way}'}",
            **dict.fromkeys(sorted(annealing), True),
        )
    if "dynamic_tokens" in asked and getattr(config, "dynamic", None) == "sgd":
        refuse_flags("does nothing with --dynamic sgd", dynamic_tokens=True)
    if isinstance(config, TrainConfig) and whole:
        if config.compress is None and "masked_gradients" in asked:
            refuse_flags(f"does nothing without {flag_of('compress')}", masked_gradients=True)
        adamw = config.optimizer == "adamw"
        idle = asked & ({"momentum"} if adamw else {"beta1", "beta2"})
        refuse_flags(
            f"does nothing {'with' if adamw else 'without'} --optimizer adamw",
            **{name: getattr(config, name) for name in sorted(idle)},
        )
        if config.processes == 1 and not {"gpus", "nodes"} & asked:
            refuse_flags("does nothing without --gpus", allow_cpu="allow_cpu" in asked)
    if "device" in asked and getattr(config, "cuda", False):
        refuse_flags("says the same as --device: give one of them", cuda=True)


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
        converter=_converter(field, takes_back=extra.get("choices_from") == "teachers"),
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=field.default,
        annotation=Annotated[field.annotation, parameter],
    )


def _converter(
    field: FieldInfo, *, takes_back: bool
) -> Callable[[Any, Sequence[Token]], Any] | None:
    kinds = get_args(field.annotation)
    if number_type(field.annotation) is int:
        return whole_or_none if NoneType in kinds else whole
    choices = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    # Where it is a choice, a file or a preset, the word means that.
    takes_none = takes_back or float in kinds or (choices and "none" not in choices)
    return _or_none if NoneType in kinds and takes_none else None


def _or_none(annotation: Any, tokens: Sequence[Token]) -> Any:
    """As the parser's own way, and ``none``, which takes back what a parent or a recipe gives."""
    return None if tokens[0].value.lower() == "none" else convert(annotation, tokens)


def whole_or_none(annotation: Any, tokens: Sequence[Token]) -> int | None:
    return None if tokens[0].value.lower() == "none" else whole(annotation, tokens)


def whole(_type: Any, tokens: Sequence[Token]) -> int:
    """A whole number; the parser's own way rounds 1.5."""
    [token] = tokens
    try:
        return int(token.value)
    except ValueError:
        raise LmbenchError(f"{token.keyword}: {token.value!r}: give a whole number") from None


Whole = Annotated[int, Parameter(converter=whole)]
"""A whole number on the command line."""


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
        case Lt(lt=limit) if float(limit) < SLIP:  # pyright: ignore[reportArgumentType]
            return f"< {limit}"
        case Le(le=limit) if float(limit) < SLIP:  # pyright: ignore[reportArgumentType]
            return f"<= {limit}"
    return ""
