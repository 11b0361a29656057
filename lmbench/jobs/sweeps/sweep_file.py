"""A sweep's YAML file, read and checked: every mistake at once, each with its line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, Literal, get_args

from lmbench.config import CONFIGS, Config, TrainConfig
from lmbench.config.setting import as_number, first_mistake, number_type
from lmbench.distiller.errors import ScheduleError, did_you_mean
from lmbench.distiller.yaml_values import YamlPlaces, one_line, read_yaml
from lmbench.errors import LmbenchError
from lmbench.jobs.sweeps.axes import MOST_VALUES, AxisError, axis_values

__all__ = [
    "RECIPE",
    "SWEEP_FILE",
    "Halving",
    "Stage",
    "StageKind",
    "Sweep",
    "parse_sweep",
    "read_text",
]

SWEEP_FILE = "sweep.yaml"
"""Under which a session keeps its sweep's file."""

RECIPE = "recipe"
"""What a stage names a recipe by, whose settings stand under its own."""

StageKind = Literal["train", "prune", "quantize"]
_KINDS: tuple[StageKind, ...] = get_args(StageKind)
_SEARCHES = ("grid", "random", "tpe")
_KEYS = ("version", "name", "seeds", "search", "runs", "seed", "early_stopping", "stages")
_STAGE_KEYS = ("kind", "name", "from", "settings", "axes")
_HALVING = {"first_rung", "eta"}
_LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Stage:
    """Runs of one kind: `settings` that all of them have, `axes` over the others, and the `sources`
    that they start from, names of earlier stages or runs; none for a start from scratch."""

    name: str
    kind: StageKind
    settings: Mapping[str, Any]
    axes: Mapping[str, Sequence[Any]]
    sources: tuple[str, ...]

    @property
    def model(self) -> type[Config]:
        return CONFIGS[self.kind]


@dataclass(frozen=True)
class Halving:
    """Early stopping by successive halving: a rung `first_rung` epochs after pruning has ended, and
    after `eta` times as many; at each the best 1/`eta` of the settings go on."""

    first_rung: int = 2
    eta: int = 3


@dataclass(frozen=True)
class Sweep:
    """A checked sweep file. `runs` and `seed` say how many combinations of the axes a random search
    draws, or TPE proposes, and from which seed; None for a grid, which has all of them."""

    source: str
    name: str
    stages: tuple[Stage, ...]
    seeds: tuple[int, ...] = ()
    runs: int | None = None
    seed: int = 0
    early_stopping: Halving | None = None
    search: str = "grid"
    places: YamlPlaces | None = field(default=None, compare=False)

    def stage(self, name: str) -> int | None:
        """The number of the stage of that name."""
        return next((i for i, stage in enumerate(self.stages) if stage.name == name), None)

    def problem(self, where: Sequence[object], what: object) -> str:
        """A line about an entry of the file: ``sweep FILE: line 7: stages: 2: …``."""
        return problem(self.source, self.places, where, what)


def problem(source: str, places: YamlPlaces | None, where: Sequence[object], what: object) -> str:
    line = f" line {places.line(where)}:" if places is not None and where else ""
    # People count from one.
    parts = [part + 1 if isinstance(part, int) else part for part in where]
    place = "".join(f"{one_line(part, 80)}: " for part in parts)
    return f"sweep {one_line(source)}:{line} {place}{one_line(what, 400)}"


def read_text(path: Path) -> bytes:
    """What a sweep's file holds.

    Raises:
        LmbenchError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise LmbenchError(f"sweep {path}: cannot be read ({reason}); check the path") from None


def parse_sweep(data: bytes, path: Path) -> Sweep:
    """Check the text of a sweep's file; `path` names it, and the sweep where it has no name.

    Raises:
        LmbenchError: a line for each mistake. However many combinations there are, none is made.
    """
    try:
        document = read_yaml(data, path.name, kind="sweep")
        text = data.decode("utf-8-sig")
    except ScheduleError as error:
        raise LmbenchError(*error.problems) from None
    except UnicodeDecodeError:
        raise LmbenchError(f"sweep {one_line(path.name)}: is not UTF-8; save it as that") from None
    return _Reader(path.name, YamlPlaces(text)).read(document, path.stem)


@dataclass
class _Reader:
    source: str
    places: YamlPlaces
    problems: list[tuple[int, str]] = field(default_factory=list)

    def report(self, where: Sequence[object], what: object) -> None:
        line = problem(self.source, self.places, where, what)
        self.problems.append((self.places.line(where), line))

    def refuse(self) -> None:
        """Raise what was reported, in the order of the file."""
        if self.problems:
            self.problems.sort(key=lambda problem: problem[0])
            raise LmbenchError(*(line for _, line in self.problems))

    def read(self, document: Any, stem: str) -> Sweep:
        if not isinstance(document, Mapping):
            line = problem(self.source, None, [], "is not a mapping; it has version: and stages:")
            raise LmbenchError(line)
        self._known(document, _KEYS, [], "a key of a sweep")
        version = document.get("version")
        if version != 1 or isinstance(version, bool):
            self.report(["version"], "write version: 1" if version is None else
                        f"{version!r} is not known; write version: 1")  # fmt: skip
        name = document.get("name", stem)
        if not isinstance(name, str):
            self.report(["name"], f"{name!r} is not text; quote it")
        seeds = self._seeds(document["seeds"]) if "seeds" in document else ()
        stages = self._stages(document.get("stages"))
        if stages is not None:
            self._check_seeds(document, seeds, stages)
        runs, seed = self._search(document, stages or ())
        if stages is not None and runs is None and not self.problems:
            self._check_count(stages, seeds)
        halving = self._halving(document)
        self.refuse()
        assert stages is not None
        search = document.get("search", "grid")
        return Sweep(self.source, name, stages, seeds, runs, seed, halving, search, self.places)

    def _known(
        self, given: Mapping[Any, Any], known: Sequence[str], where: list[object], what: str
    ) -> None:
        for key in given:
            if key not in known:
                hint = f" {did_you_mean(key, known)}"
                if where and key in _KEYS:
                    hint = f"; write {key}: at the top of the file"
                self.report([*where, key], f"'{one_line(key)}' is not {what}{hint}")

    # -- the search and the seeds -------------------------------------------------------------

    def _seeds(self, given: Any) -> tuple[int, ...]:
        first = TrainConfig.model_fields["seed"].default
        if _whole(given, 1, MOST_VALUES):
            return tuple(range(first, first + given))
        if not isinstance(given, list) or not given:
            self.report(["seeds"], "write how many (seeds: 3), or list them")
            return ()
        for place, seed in enumerate(given):
            if not _whole(seed, 0, _LARGEST_SEED):
                self.report(["seeds", place], f"{seed!r} must be a whole number, at least 0")
            elif seed in given[:place]:
                self.report(["seeds", place], f"{seed} is there twice; take one away")
        return tuple(given)

    def _check_seeds(
        self, document: Mapping[Any, Any], seeds: tuple[int, ...], stages: Sequence[Stage]
    ) -> None:
        for number, stage in enumerate(stages):
            if "seed" in stage.axes:
                where = ["stages", number, "axes", "seed"]
                self.report(where, "seeds are no axis; write seeds: at the top of the file")
            elif "seeds" in document and stage.kind != "quantize" and "seed" in stage.settings:
                where = ["stages", number, "settings", "seed"]
                self.report(where, "seeds are given twice: at the top, too; take one away")
        scratch = any(not stage.sources for stage in stages)
        if seeds and not scratch:
            self.report(
                ["seeds"],
                "runs that start from another have its seed; name the runs of all seeds in from:",
            )

    def _search(
        self, document: Mapping[Any, Any], stages: Sequence[Stage]
    ) -> tuple[int | None, int]:
        search = document.get("search", "grid")
        if search not in _SEARCHES:
            known = did_you_mean(search, _SEARCHES)
            self.report(["search"], f"'{one_line(search)}' is unknown {known}")
        if search == "tpe":
            self._check_tpe(document, stages)
        elif search != "random":
            for key in ("runs", "seed"):
                if key in document:
                    line = "goes with search: random or tpe; take it away or add one"
                    self.report([key], line)
            return None, 0
        runs, seed = document.get("runs"), document.get("seed", 0)
        if not _whole(seed, 0, _LARGEST_SEED):
            self.report(["seed"], f"{seed!r} must be a whole number, at least 0")
        combinations = prod(len(values) for stage in stages for values in stage.axes.values())
        if not _whole(runs, 1, MOST_VALUES):
            self.report(["runs"], f"say how many combinations to draw, 1 to {MOST_VALUES:,}")
        elif stages and isinstance(runs, int) and runs > combinations:
            line = f"{runs:,} of {combinations:,} combinations; write search: grid for all of them"
            self.report(["runs"], line)
        return runs, seed

    def _check_tpe(self, document: Mapping[Any, Any], stages: Sequence[Stage]) -> None:
        for number, (before, stage) in enumerate(pairwise(stages), 1):
            if stage.sources != (before.name,):
                line = (
                    f"search: tpe tries one chain of stages; let this one start from {before.name}"
                )
                self.report(["stages", number], line)
        if document.get("early_stopping"):
            line = "goes with search: grid or random, whose runs are all known; take it away"
            self.report(["early_stopping"], line)

    def _halving(self, document: Mapping[Any, Any]) -> Halving | None:
        given = document.get("early_stopping", False)
        if given is True or given is False:
            return Halving() if given else None
        where: list[object] = ["early_stopping"]
        if not isinstance(given, Mapping):
            self.report(where, "write true, or {first_rung: 2, eta: 3}")
            return None
        self._known(given, list(_HALVING), where, "a key of early stopping")
        found = {}
        for key in _HALVING & given.keys():
            if _whole(given[key], 2, MOST_VALUES):
                found[key] = given[key]
            else:
                self.report([*where, key], f"{given[key]!r} must be a whole number, at least 2")
        return Halving(**found)

    def _check_count(self, stages: Sequence[Stage], seeds: tuple[int, ...]) -> None:
        """How many runs a grid is, by arithmetic alone."""
        counts: dict[str, int] = {}
        for stage in stages:
            begun = sum(counts.get(source, 1) for source in stage.sources)
            parents = begun if stage.sources else max(len(seeds), 1)
            counts[stage.name] = parents * prod(len(values) for values in stage.axes.values())
        total = sum(counts.values())
        if total > MOST_VALUES:
            self.report(
                ["stages"],
                f"are {total:,} runs, and {MOST_VALUES:,} are the most; shorten an axis, or draw "
                "some by search: random and runs:",
            )

    # -- the stages ---------------------------------------------------------------------------

    def _stages(self, given: Any) -> tuple[Stage, ...] | None:
        if not isinstance(given, list) or not given:
            self.report(["stages"], "list at least one: - kind: train")
            return None
        found: list[Stage] = []
        entries = [entry for entry in given if isinstance(entry, Mapping)]
        self._named = {str(entry.get("name", entry.get("kind"))) for entry in entries}
        for number, entry in enumerate(given):
            where = ["stages", number]
            if not isinstance(entry, Mapping):
                self.report(where, "is no stage; give it kind:, settings: and axes:")
                return None
            self._known(entry, _STAGE_KEYS, where, "a key of a stage")
            kind = entry.get("kind")
            if kind not in _KINDS:
                self.report([*where, "kind"], f"must be one of {', '.join(_KINDS)}")
                return None
            stage = self._stage(entry, kind, found, where)
            if any(stage.name == other.name for other in found):
                line = f"two stages are called {stage.name}; give one another name:"
                self.report([*where, "name"], line)
            found.append(stage)
        return tuple(found)

    def _stage(
        self, entry: Mapping[Any, Any], kind: StageKind, before: list[Stage], where: list[object]
    ) -> Stage:
        name = entry.get("name", kind)
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 40:
            self.report([*where, "name"], "must be text of 1 to 40 letters")
            name = kind
        sources = self._sources(entry, kind, before, where)
        settings = self._settings(entry.get("settings"), kind, [*where, "settings"])
        axes = self._axes(entry.get("axes"), kind, [*where, "axes"])
        for key in settings.keys() & axes.keys():
            self.report([*where, "axes", key], "is among the settings, too; take one away")
        if kind == "prune" and None in axes.get("compress", [settings.get("compress")]):
            line = "has no schedule; add compress: to its settings or axes"
            self.report(where, line)
        return Stage(name, kind, settings, axes, sources)

    def _sources(
        self, entry: Mapping[Any, Any], kind: StageKind, before: list[Stage], where: list[object]
    ) -> tuple[str, ...]:
        if "from" not in entry:
            if before and kind != "train":
                given: Any = before[-1].name
            else:
                if kind == "quantize":
                    line = "quantizes nothing; name a run in from:, or put a stage before it"
                    self.report(where, line)
                return ()
        else:
            given = entry["from"]
        where = [*where, "from"]
        listed = given if isinstance(given, list) else [given]
        names = [str(name) for name in listed if isinstance(name, str | int) and name != ""]
        if kind == "train" or not names or len(names) < len(listed):
            line = (
                "a training starts from nothing; take from: away"
                if kind == "train"
                else "name earlier stages or runs that are there"
            )
            self.report(where, line)
            return ()
        kinds = {stage.name: stage.kind for stage in before}
        for place, name in enumerate(names):
            if kinds.get(name) == "quantize":
                self.report(where, f"stage {one_line(name)} is quantized already; name another")
            if name in self._named and name not in kinds:
                line = f"stage {one_line(name)} comes later; name an earlier one"
                self.report(where, line)
            if name in names[:place]:
                self.report(where, f"{one_line(name)} is there twice; take one away")
        return tuple(names)

    def _settings(self, given: Any, kind: StageKind, where: list[object]) -> dict[str, Any]:
        if given is None:
            return {}
        if not isinstance(given, Mapping):
            self.report(where, "is not a mapping of settings; write NAME: value")
            return {}
        known = _setting_names(kind)
        self._known(given, known, where, f"a setting of {kind}")
        found = {}
        for name, value in given.items():
            if name in known and self._fits(kind, name, value, [*where, name]):
                found[name] = value
        return found

    def _axes(self, given: Any, kind: StageKind, where: list[object]) -> dict[str, list[Any]]:
        if given is None:
            return {}
        if not isinstance(given, Mapping):
            self.report(where, "is not a mapping of axes; write NAME: [values]")
            return {}
        known, fields = _setting_names(kind), CONFIGS[kind].model_fields
        self._known(given, known, where, f"a setting of {kind}")
        found = {}
        for name, axis in given.items():
            if name not in known:
                continue
            number = number_type(fields[name].annotation) if name in fields else None
            if isinstance(axis, list) and number is not None:
                axis = [as_number(value) for value in axis]
            try:
                values = axis_values(axis, whole=number is int)
            except AxisError as error:
                self.report([*where, name, *error.entry], error)
                continue
            listed = isinstance(axis, list)
            for place, value in enumerate(values):
                at = [*where, name, place] if listed else [*where, name]
                if not self._fits(kind, name, value, at):
                    break
            found[name] = values
        return found

    def _fits(self, kind: StageKind, name: str, value: Any, where: list[object]) -> bool:
        """Is it a value of this setting? Without the others, which it must fit later."""
        if name == RECIPE:
            fits = isinstance(value, str) and bool(value)
            if not fits:
                self.report(where, f"{value!r} is no recipe; write its name, or a file's")
            return fits
        mistake = first_mistake(CONFIGS[kind], {name: value})
        if mistake is not None:
            self.report(where, mistake.partition(": ")[2])
        return mistake is None


def _setting_names(kind: StageKind) -> list[str]:
    """What a stage may set: the settings of its kind, and of what trains a recipe under them."""
    names = list(CONFIGS[kind].model_fields)
    return [*names, RECIPE] if issubclass(CONFIGS[kind], TrainConfig) else names


def _whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
