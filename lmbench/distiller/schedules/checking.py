"""Schedules: read from YAML with a safe loader, and checked entry by entry. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lmbench.distiller.errors import DistillerError, ScheduleError, did_you_mean
from lmbench.distiller.schedules.agp import check_range
from lmbench.distiller.schedules.arguments import (
    ONLY_FOR_CONVOLUTIONS,
    REGULARIZERS,
    Args,
    PruningPolicyArgs,
    RegularizationPolicyArgs,
    bias_beside,
)
from lmbench.distiller.schedules.entries import Component, Kind, PolicyEntry, Schedule
from lmbench.distiller.schedules.lr_arguments import LR_SCHEDULERS
from lmbench.distiller.schedules.pruner_arguments import PRUNERS, AgpArgs, LevelArgs
from lmbench.distiller.schedules.quantizer_arguments import ONLY_AFTER_TRAINING, QUANTIZERS
from lmbench.distiller.schedules.yaml_text import validation_lines
from lmbench.distiller.yaml_values import one_line, read_yaml

SECTIONS: dict[Kind, str] = {
    "pruner": "pruners",
    "regularizer": "regularizers",
    "lr_scheduler": "lr_schedulers",
    "quantizer": "quantizers",
}
_CLASSES: dict[Kind, Mapping[str, type[Args]]] = {
    "pruner": PRUNERS,
    "regularizer": REGULARIZERS,
    "lr_scheduler": LR_SCHEDULERS,
    "quantizer": QUANTIZERS,
}
RANGE = ("starting_epoch", "ending_epoch", "frequency")
LAST_EPOCH = 100_000


def load_schedule(path: str | Path) -> Schedule:
    """Read and check a YAML file.

    Raises:
        ScheduleError: one line for each mistake, with file, section, entry and the fix.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ScheduleError(f"schedule {path}: cannot be read ({reason}); check the path") from None
    except ValueError as error:
        raise ScheduleError(
            f"schedule {one_line(path)}: {one_line(error)}; check the path"
        ) from None
    return parse_schedule(data, path.name)


def parse_schedule(text: str | bytes, source: str = "schedule") -> Schedule:
    """Check the text of a YAML schedule; ``source`` names it in messages. Raises as above."""
    return schedule_from_dict(read_yaml(text, source), source)


def schedule_from_dict(data: Any, source: str = "schedule") -> Schedule:
    """Check a schedule that is a dictionary already. Raises as `load_schedule`."""
    return _Reader(source).read(data)


@dataclass
class _Reader:
    source: str
    problems: list[str] = field(default_factory=list)

    def report(self, where: Sequence[object], what: object) -> None:
        place = ": ".join(one_line(part) for part in where)
        self.problems.append(f"schedule {one_line(self.source)}: {place}: {one_line(what, 400)}")

    def read(self, data: Any) -> Schedule:
        if not isinstance(data, Mapping):
            self.report(["top"], "is not a mapping; a schedule has pruners: and policies:")
            raise ScheduleError(self.problems)
        known = ("version", *SECTIONS.values(), "policies")
        for key in data:
            if key == "extensions":
                self.report(["extensions"], "thin convolutions only; leave the section out")
            elif key not in known:
                self.report([key], f"is not a section {did_you_mean(key, known)}")
        if data.get("version", 1) not in (1, "1", None):
            self.report(["version"], f"{data['version']!r} is not known; write version: 1")
        components: dict[Kind, dict[str, Component]] = {
            kind: self._section(kind, data.get(section)) for kind, section in SECTIONS.items()
        }
        if len(components["quantizer"]) > 1:
            self.report(["quantizers"], "holds more than one; keep one quantizer")
        policies = self._policies(data.get("policies"), components)
        if self.problems:
            raise ScheduleError(self.problems)
        schedule = Schedule(self.source, components, tuple(policies))
        return Schedule(self.source, components, tuple(policies), tuple(_warnings(schedule)))

    def _section(self, kind: Kind, entries: Any) -> dict[str, Component]:
        section = SECTIONS[kind]
        if entries is None:
            return {}
        if not isinstance(entries, Mapping):
            self.report([section], "is not a mapping; give each entry a name and a class")
            return {}
        found = {}
        for name, spec in entries.items():
            where = [section, name]
            if not isinstance(name, str):
                self.report(where, f"the name {name!r} is not text; quote it")
            elif not isinstance(spec, Mapping):
                self.report(where, "is not a mapping; give it class: and arguments")
            elif not isinstance(spec.get("class"), str):
                self.report(where, "has no class; add class: NAME")
            else:
                args = self._arguments(kind, spec["class"], spec, where)
                # A broken entry is kept as a name, so that its policy is not called undefined.
                found[name] = Component(name, spec["class"], args or Args())
        return found

    def _arguments(
        self, kind: Kind, class_name: str, spec: Mapping[Any, Any], where: list[object]
    ) -> Args | None:
        given = {key: value for key, value in spec.items() if key != "class"}
        for key in given:
            if not isinstance(key, str):
                self.report(where, f"the argument {key!r} is not text; quote it")
                return None
        if class_name in ONLY_FOR_CONVOLUTIONS:
            self.report(
                where,
                f"class {class_name} prunes convolutions, which a language model has not; "
                "use L1RankedStructureParameterPruner with group_type Rows, Cols or Blocks",
            )
            return None
        registry = _CLASSES[kind]
        if kind == "quantizer" and class_name in ONLY_AFTER_TRAINING:
            self.report(
                where,
                f"class {class_name} quantizes a trained model: use lmbench quantize; a schedule "
                f"takes {', '.join(registry)}",
            )
            return None
        if class_name not in registry:
            self.report(where, f"unknown class '{class_name}' {did_you_mean(class_name, registry)}")
            return None
        return self._validate(registry[class_name], given, where)

    def _validate(self, model: type[Args], given: Any, where: list[object]) -> Args | None:
        try:
            return model.model_validate(given)
        except ValidationError as error:
            for line in validation_lines(error, model):
                self.report(where, line)
        except RecursionError:
            self.report(where, "is nested too deeply; write it flat")
        return None

    def _policies(
        self, entries: Any, components: Mapping[Kind, Mapping[str, Component]]
    ) -> list[PolicyEntry]:
        if entries is None:
            self.report(["policies"], "is missing; add a list of policies")
            return []
        if not isinstance(entries, list) or not entries:
            self.report(["policies"], "is not a list of policies; begin each one with '- '")
            return []
        found = []
        for number, entry in enumerate(entries, start=1):
            policy = self._policy(number, entry, components)
            if policy is not None:
                found.append(policy)
        if sum(policy.kind == "quantizer" for policy in found) > 1:
            self.report(["policies"], "two run the quantizer; keep one, which begins it")
        return found

    def _policy(
        self, number: int, entry: Any, components: Mapping[Kind, Mapping[str, Component]]
    ) -> PolicyEntry | None:
        where: list[object] = ["policies", f"entry {number}"]
        if not isinstance(entry, Mapping):
            self.report(where, "is not a mapping; it needs pruner: and epochs")
            return None
        known = (*SECTIONS, "epochs", *RANGE)
        for key in entry:
            if key == "extension":
                self.report(where, "extensions thin convolutions only; leave this policy out")
                return None
            if key not in known:
                self.report(where, f"unknown key '{one_line(key)}' {did_you_mean(key, known)}")
        kinds: list[Kind] = [kind for kind in SECTIONS if kind in entry]
        if len(kinds) != 1:
            self.report(where, f"names {len(kinds)} of {', '.join(SECTIONS)}; name exactly one")
            return None
        kind = kinds[0]
        spec = entry[kind]
        if not isinstance(spec, Mapping) or not isinstance(spec.get("instance_name"), str):
            self.report(
                where, f"{kind} has no instance_name; write {kind}: {{instance_name: NAME}}"
            )
            return None
        name = spec["instance_name"]
        where[-1] = f"entry {number} ({kind} {one_line(name)})"
        for key in spec:
            if key not in ("instance_name", "args"):
                hint = did_you_mean(key, ("instance_name", "args"))
                self.report(where, f"unknown key '{one_line(key)}' {hint}")
        if name not in components[kind]:
            hint = did_you_mean(name, components[kind], "defined")
            self.report(where, f"{kind} '{name}' is not defined in {SECTIONS[kind]} {hint}")
        args = self._policy_args(kind, spec.get("args"), where)
        span = self._span(entry, where)
        if span is None:
            return None
        policy = PolicyEntry(kind, name, args, *span)
        if policy.skips_first_epoch and len(policy.run) == 1:
            self.report(
                where,
                f"skip_first_minibatch skips epoch {policy.run[0]}, the only one; take it away",
            )
        component = components[kind].get(name)
        if component is not None:
            levels = isinstance(args, PruningPolicyArgs) and args.levels is not None
            if levels and not hasattr(component.args, "levels"):
                self.report(where, "levels is for a SparsityLevelParameterPruner; leave it out")
            try:
                component.args.check_epochs(policy.meta(policy.run[0]))
            except DistillerError as error:
                self.report(where, error)
        return policy

    def _policy_args(self, kind: Kind, given: Any, where: list[object]) -> Args | None:
        if given is None:
            return None
        if kind == "pruner":
            return self._validate(PruningPolicyArgs, given, where)
        if kind == "regularizer":
            return self._validate(RegularizationPolicyArgs, given, where)
        self.report(where, f"a {kind} takes no args; leave them out")
        return None

    def _span(
        self, entry: Mapping[Any, Any], where: list[object]
    ) -> tuple[tuple[int, ...] | None, int, int, int | None] | None:
        given = {key: entry[key] for key in RANGE if entry.get(key) is not None}
        listed = entry.get("epochs")
        if listed is not None and given:
            self.report(where, f"has both epochs and {', '.join(given)}; leave one of them out")
            return None
        values = listed if listed is not None else list(given.values())
        if not isinstance(values, list) or not all(_is_epoch(value) for value in values):
            self.report(where, f"epochs must be whole numbers from 0 to {LAST_EPOCH}")
            return None
        if listed is not None:
            if not listed:
                self.report(where, "epochs is empty; list at least one epoch")
                return None
            return tuple(listed), min(listed), max(listed) + 1, None
        try:
            start, end, every = check_range(*(given.get(key) for key in RANGE))
        except ScheduleError as error:
            self.report(where, error)
            return None
        return None, start, end, every


def _is_epoch(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -1 < value <= LAST_EPOCH


def _warnings(schedule: Schedule) -> Iterator[str]:
    for kind, components in schedule.components.items():
        used = {policy.instance_name for policy in schedule.policies if policy.kind == kind}
        for name in components:
            if name not in used:
                yield f"{kind} {name}: no policy uses it"


def check_parameters(
    schedule: Schedule,
    names: Mapping[str, str],
    model_name: str = "this model",
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Check that every parameter that a schedule names exists, and is a matrix where it must be.

    Args:
        schedule: a checked schedule.
        names: every name of every parameter, the ties' too, to its first name.
        model_name: how to call the model in messages.
        shapes: of each parameter, by its first name.

    Raises:
        ScheduleError: one line for each wrong name, with the closest ones.
    """
    reader = _Reader(schedule.source)

    def check_one_value(where: Sequence[object], values: Mapping[str, object]) -> None:
        given: dict[str, str] = {}
        for name in (name for name in values if name in names):
            other = given.setdefault(names[name], name)
            if values[other] != values[name]:
                reader.report(
                    where,
                    f"'{other}' and '{name}' are one parameter of {model_name}; give it one value",
                )

    def check(args: Args, where: Sequence[object]) -> None:
        for argument, name in args.parameters():
            if name not in names:
                hint = did_you_mean(name, names)
                reader.report(
                    [*where, argument], f"'{name}' is not a parameter of {model_name} {hint}"
                )
            elif shapes and args.needs_matrices and len(shapes[names[name]]) not in (2, 4):
                reader.report(
                    [*where, argument], f"'{name}' has no rows and columns; name a weight matrix"
                )
        for argument, values in args:
            if isinstance(values, Mapping):
                check_one_value([*where, argument], values)
        if shapes and not reader.problems:
            known = {name: shapes[names[name]] for _, name in args.parameters() if name in names}
            if found := args.mismatch(known):
                reader.report([*where, "group_dependency"], found)
        if isinstance(args, AgpArgs | LevelArgs) and args.bias_exponent and not reader.problems:
            listed = {names.get(name) for name in args.values()}
            handled = [name for name, first in names.items() if first in listed or None in listed]
            if not any(bias_beside(name) in names for name in handled):
                reader.report(
                    [*where, "bias_exponent"],
                    f"no weight of this pruner has rows with biases in {model_name}; name "
                    "decoder.weight, or encoder.weight of a tied model",
                )

    for kind, components in schedule.components.items():
        for component in components.values():
            check(component.args, [SECTIONS[kind], component.name])
    for number, policy in enumerate(schedule.policies, start=1):
        if policy.args:
            entry = f"entry {number} ({policy.kind} {policy.instance_name})"
            check(policy.args, ["policies", entry])
    if reader.problems:
        raise ScheduleError(reader.problems)


__all__ = [
    "Component",
    "PolicyEntry",
    "Schedule",
    "check_parameters",
    "load_schedule",
    "parse_schedule",
    "schedule_from_dict",
]
