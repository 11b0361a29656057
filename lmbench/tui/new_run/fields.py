"""Settings as a form shows them: made from the definitions in `lmbench.config`, nothing twice."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from lmbench.config import Config, ModelConfig, QuantizeConfig
from lmbench.config.machine import (
    ADAPTATION,
    ADVANCED,
    COMPRESSION,
    DATA,
    MACHINE,
    MODEL,
    OUTPUT,
    REGULARISATION,
    SAMPLING,
    TRAINING,
)
from lmbench.config.setting import SLIP, value_text
from lmbench.errors import LmbenchError

__all__ = ["Setting", "Shape", "parse", "problems", "settings_of", "shown"]

Shape = Literal["whole", "number", "numbers", "texts", "text", "choice", "yes/no"]

UNSET = "–"
"""How a choice that is left open is shown."""
_TRUE, _FALSE = "yes", "no"
_ORDER = (
    MODEL,
    DATA,
    TRAINING,
    COMPRESSION,
    SAMPLING,
    ADAPTATION,
    MACHINE,
    OUTPUT,
    # What few runs set comes last.
    REGULARISATION,
    ADVANCED,
)


@dataclass(frozen=True)
class Setting:
    """One setting: what a form needs to show, explain and read it.

    `choices` are all it can be, for a ``choice`` or ``yes/no``; the first is `UNSET` where it may
    be left open. `choices_from` names a list that is found out when the form is used.
    """

    name: str
    label: str
    help: str
    group: str
    unit: str
    shape: Shape
    default: Any
    choices: tuple[str, ...]
    choices_from: str
    bounds: str
    optional: bool

    @property
    def is_number(self) -> bool:
        return self.shape in ("whole", "number")


def settings_of(model: type[Config], first: str = "") -> tuple[Setting, ...]:
    """All settings of a kind of run that a form shows, by heading; `first` is the heading that
    comes first, where it is another than usual."""
    found = [
        _setting(name, field)
        for name, field in model.model_fields.items()
        if not _extra(field).get("hidden")
    ]
    order = list(dict.fromkeys((first, *_ORDER, *(setting.group for setting in found))))
    return tuple(sorted(found, key=lambda setting: order.index(setting.group)))


def _extra(field: FieldInfo) -> dict[str, Any]:
    extra = field.json_schema_extra
    return dict(extra) if isinstance(extra, dict) else {}


def _setting(name: str, field: FieldInfo) -> Setting:
    extra = _extra(field)
    annotation, optional = _without_none(field.annotation)
    shape, choices = _shape(annotation)
    if optional and choices:
        choices = (UNSET, *choices)
    return Setting(
        name=name,
        label=str(extra.get("label") or name.replace("_", " ")),
        help=str(field.description or ""),
        group=str(extra.get("group", "Settings")),
        unit=str(extra.get("unit", "")),
        shape=shape,
        default=field.default,
        choices=choices,
        choices_from=str(extra.get("choices_from", "")),
        bounds=_bounds(field.metadata, shape),
        optional=optional,
    )


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return kinds[0], True
    return annotation, False


def _shape(annotation: Any) -> tuple[Shape, tuple[str, ...]]:
    if annotation is bool:
        return "yes/no", (_FALSE, _TRUE)
    if get_origin(annotation) is Literal:
        return "choice", tuple(map(str, get_args(annotation)))
    if get_origin(annotation) is tuple:
        return ("numbers" if float in get_args(annotation) else "texts"), ()
    if annotation is int:
        return "whole", ()
    return ("number" if annotation is float else "text"), ()


def _bounds(metadata: list[Any], shape: Shape) -> str:
    """The bounds in words: ``1 to 64``, ``above 0``, ``0 to below 1``."""
    low = high = ""
    for item in metadata:
        match item:
            case Ge():
                low = _bound(item.ge)
            case Gt():
                # The least whole number above 0 is 1, which is easier to read.
                limit: Any = item.gt
                low = _bound(int(limit) + 1) if shape == "whole" else f"above {_bound(limit)}"
            case Le(le=limit) if float(limit) < SLIP:  # pyright: ignore[reportArgumentType]
                high = f"to {_bound(limit)}"
            case Lt(lt=limit) if float(limit) < SLIP:  # pyright: ignore[reportArgumentType]
                high = f"to below {_bound(limit)}"
    if low and not high:
        return low if low.startswith("above") else f"{low} or more"
    return " ".join(part for part in (low, high) if part)


def _bound(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,g}"


def shown(setting: Setting, value: Any) -> str:
    """A value as the form's text; `parse` is its inverse."""
    if value is None:
        return UNSET if setting.choices else ""
    if setting.shape == "yes/no":
        return _TRUE if value else _FALSE
    if isinstance(value, list | tuple):
        return " ".join(map(value_text, value))
    return value_text(value)


def parse(setting: Setting, text: str) -> Any:
    """The value that a form's text stands for; bounds are `problems`' part.

    Raises:
        ValueError: it is no number, where one is wanted; says so in words.
    """
    text = text.strip()
    if setting.choices:
        if text == UNSET:
            return None
        return text == _TRUE if setting.shape == "yes/no" else text
    if setting.optional and (not text or (setting.is_number and text.lower() == "none")):
        return None
    match setting.shape:
        case "whole":
            return _whole(text)
        case "number":
            return _real(text)
        case "numbers":
            return tuple(_real(word) for word in text.replace(",", " ").split())
        case "texts":
            # A comma may be part of one of them.
            return tuple(text.split())
    return text


def _whole(text: str) -> int:
    # A comma parts thousands, and nothing else: 1,5 is no 15.
    plain = text.replace(",", "") if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+", text) else text
    try:
        return int(plain)
    except ValueError:
        raise ValueError("a whole number is wanted") from None


def _real(text: str) -> float:
    try:
        return float(text.replace("_", ""))
    except ValueError:
        raise ValueError("a number is wanted") from None


def problems(model: type[Config], values: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with each setting, by its name; empty where all is well."""
    found: dict[str, str] = {}
    bounds = {setting.name: setting.bounds for setting in settings_of(model)}
    try:
        config = model.model_validate(dict(values))
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            name = str(problem["loc"][0]) if problem["loc"] else ""
            words = str(problem["msg"])
            limits = bounds.get(name, "")
            outside = limits and problem["type"].startswith(("greater_than", "less_than"))
            most = problem.get("ctx", {}).get("le")
            if most is not None and " to " not in limits:
                # The bounds leave it out.
                limits = f"at most {_bound(most)}"
            found.setdefault(name, limits if outside else words[:1].lower() + words[1:])
        return found
    if (
        isinstance(config, ModelConfig)
        and (config.tied and not config.projection)
        and config.emsize != config.nhid
    ):
        apart = f"{config.emsize} is not {config.nhid}"
        found["tied"] = f"tied needs emsize = nhid or a projection, and {apart}"
    elif isinstance(config, QuantizeConfig):
        found |= config.conflicts()
    else:
        found |= _conflict(config)
    return found


def _conflict(config: Config) -> dict[str, str]:
    """What does not fit together, by the setting whose flag the words about it begin with."""
    try:
        config.check()
    except LmbenchError as error:
        # As in: --lr-schedule decay: needs --decay, ...
        found = re.match(r"--([a-z0-9-]+)[^:]*: (.*)", error.message)
        flag, reason = found.groups() if found else ("", error.message)
        return {flag.replace("-", "_"): reason}
    return {}
