"""Which runs a sweep is, in the order in which they are made, and the settings of each."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from lmbench.config import (
    CONFIGS,
    Config,
    QuantizeConfig,
    TrainConfig,
    changed_settings,
    validate,
)
from lmbench.config.setting import value_text
from lmbench.config.training import check_start, laid_over, passed_on
from lmbench.distiller.schedules.preset_files import preset_names
from lmbench.errors import LmbenchError
from lmbench.jobs.chains import Step
from lmbench.jobs.input_files import name_of_file
from lmbench.jobs.prepare import inherited_settings, long_enough
from lmbench.jobs.sweeps.axes import MOST_VALUES
from lmbench.jobs.sweeps.sweep_file import RECIPE, Stage, Sweep
from lmbench.printable import one_line
from lmbench.session.store import Home, Run
from lmbench.training.recipe_files import recipe_names, recipe_settings
from lmbench.user_folder import expanded

__all__ = [
    "FILES",
    "Combination",
    "Plan",
    "PlannedRun",
    "Point",
    "located",
    "numbered",
    "plan_of",
    "planned_runs",
    "stand_in",
]

Combination = tuple[int, ...]
"""Of each axis of a sweep the number of a value."""

Axes = tuple[tuple[int, str, tuple[Any, ...]], ...]
FILES = ("compress", "config", "stats", RECIPE)
"""The settings that name files of the user."""
_MACHINE = ("device", "threads")
_LONGEST_NAME = 80


@dataclass(frozen=True)
class Point:
    """One run of a sweep. `taken` are the values that lead to it, its parents' too: the number of
    an axis and that of the value on it; `parent` is another point's number, `run` names a run that
    was there before the sweep."""

    stage: int
    key: str
    parent: int | None
    run: str | None
    taken: tuple[tuple[int, int], ...]
    seed: int | None


@dataclass(frozen=True)
class Plan:
    """A sweep's runs, each after its parent. `axes` are the stage, setting and values of each,
    `proposals` the combinations that TPE has proposed so far."""

    sweep: Sweep
    axes: Axes
    points: tuple[Point, ...]
    proposals: tuple[Combination, ...] = ()

    def stage(self, point: Point) -> Stage:
        return self.sweep.stages[point.stage]

    def values(self, point: Point) -> dict[tuple[str, str], Any]:
        """By stage and setting the values that lead to a point, those of its parents first."""
        found = {}
        for axis, place in point.taken:
            stage, setting, values = self.axes[axis]
            found[self.sweep.stages[stage].name, setting] = values[place]
        return found

    def own_values(self, point: Point) -> dict[str, Any]:
        """The values of the point's own stage."""
        name = self.stage(point).name
        return {key: value for (stage, key), value in self.values(point).items() if stage == name}

    def source_run(self, point: Point) -> str | None:
        """The run of before the sweep that a point's path begins with, where its stage has several
        of them; None else."""
        while point.parent is not None:
            point = self.points[point.parent]
        runs = [source for source in self.stage(point).sources if self.sweep.stage(source) is None]
        return point.run if len(runs) > 1 else None

    @cached_property
    def keys(self) -> dict[str, int]:
        """Each point's number by its key."""
        return {point.key: number for number, point in enumerate(self.points)}

    def run_name(self, point: Point, called: Callable[[str], str] | None = None) -> str:
        """What the point's run is called: its stage, the values of its path, its seed; `called`
        gives the names of runs that it may come from."""
        words = [self.stage(point).name]
        words += [_short(value) for value in self.values(point).values()]
        source = self.source_run(point)
        if source is not None:
            words.append(f"from {called(source) if called else _short(source)}")
        if point.seed is not None and len(self.sweep.seeds) > 1:
            words.append(f"s{point.seed}")
        return one_line(" ".join(words))[:_LONGEST_NAME]


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_short, value))
    return value_text(value).rpartition("/")[2].removesuffix(".yaml")


def plan_of(sweep: Sweep, proposals: Sequence[Combination] = ()) -> Plan:
    """The points of a sweep: of a grid all combinations, of a random search those that are drawn,
    of a search by TPE those of its `proposals`.

    Raises:
        LmbenchError: a random search with its stages and seeds is too many runs.
    """
    axes = _axes(sweep)
    if sweep.search == "tpe":
        return Plan(sweep, axes, tuple(_proposed_points(sweep, axes, proposals)), tuple(proposals))
    drawn = _drawn(sweep, axes) if sweep.runs is not None else None
    points: list[Point] = []
    of_stage: list[list[int]] = []
    for number, stage in enumerate(sweep.stages):
        own = [place for place, (owner, _, _) in enumerate(axes) if owner == number]
        combinations = _Combinations(own, [len(axes[place][2]) for place in own], drawn)
        first = len(points)
        for parent, run, seed in _begun(sweep, stage, points, of_stage):
            before = points[parent].taken if parent is not None else ()
            for taken in combinations.after(before):
                key = f"{stage.name} {len(points) - first + 1}"
                points.append(Point(number, key, parent, run, (*before, *taken), seed))
                if len(points) > MOST_VALUES:
                    line = f"is more than {MOST_VALUES:,} runs with its seeds; draw fewer"
                    raise LmbenchError(sweep.problem(["runs"], line))
        of_stage.append(list(range(first, len(points))))
    return Plan(sweep, axes, tuple(points))


def stand_in(sweep: Sweep) -> Plan:
    """The plan of a sweep before its start: of a search by TPE with combinations drawn at
    random, to count and judge them by."""
    return plan_of(sweep, _drawn(sweep, _axes(sweep)) if sweep.search == "tpe" else ())


def _axes(sweep: Sweep) -> Axes:
    return tuple(
        (number, setting, tuple(values))
        for number, stage in enumerate(sweep.stages)
        for setting, values in stage.axes.items()
    )


def _proposed_points(sweep: Sweep, axes: Axes, proposals: Sequence[Combination]) -> list[Point]:
    """The points of one combination after the other, so that a further one only adds to them."""
    points: list[Point] = []
    known: dict[tuple[Any, ...], int] = {}
    counts: Counter[int] = Counter()
    for combination in proposals:
        of_stage: list[list[int]] = []
        for number, stage in enumerate(sweep.stages):
            own = [(i, combination[i]) for i, (owner, _, _) in enumerate(axes) if owner == number]
            here = []
            for parent, run, seed in _begun(sweep, stage, points, of_stage):
                before = points[parent].taken if parent is not None else ()
                same = (number, parent, run, seed, *before, *own)
                if same not in known:
                    counts[number] += 1
                    key = f"{stage.name} {counts[number]}"
                    known[same] = len(points)
                    points.append(Point(number, key, parent, run, (*before, *own), seed))
                here.append(known[same])
            of_stage.append(here)
    return points


def _begun(
    sweep: Sweep, stage: Stage, points: list[Point], of_stage: list[list[int]]
) -> Iterator[tuple[int | None, str | None, int | None]]:
    """What each combination of a stage starts from: a point, a run or nothing, and with which
    seed."""
    if not stage.sources:
        for seed in sweep.seeds or (None,):
            yield None, None, seed
    for source in stage.sources:
        number = sweep.stage(source)
        if number is None:
            yield None, source, None
        else:
            for parent in of_stage[number]:
                yield parent, None, points[parent].seed


class _Combinations:
    """The combinations of a stage's own axes that go with what was taken before."""

    def __init__(self, own: list[int], lengths: list[int], drawn: list[Combination] | None) -> None:
        self._own, self._lengths, self._drawn = own, lengths, drawn
        # By the axes of a path: what was drawn on them, and with what of the own ones.
        self._known: dict[tuple[int, ...], dict[tuple[int, ...], dict[tuple[int, ...], None]]] = {}

    def after(self, taken: tuple[tuple[int, int], ...]) -> Iterable[list[tuple[int, int]]]:
        places: Iterable[tuple[int, ...]]
        if self._drawn is None:
            places = product(*map(range, self._lengths))
        else:
            path = tuple(axis for axis, _ in taken)
            if path not in self._known:
                self._known[path] = self._by_path(path, self._drawn)
            places = self._known[path][tuple(place for _, place in taken)]
        return (list(zip(self._own, combination, strict=True)) for combination in places)

    def _by_path(
        self, path: tuple[int, ...], drawn: list[Combination]
    ) -> dict[tuple[int, ...], dict[tuple[int, ...], None]]:
        found: dict[tuple[int, ...], dict[tuple[int, ...], None]] = {}
        for one in drawn:
            before = tuple(one[axis] for axis in path)
            found.setdefault(before, {})[tuple(one[axis] for axis in self._own)] = None
        return found


def _drawn(sweep: Sweep, axes: Axes) -> list[Combination]:
    """Different combinations of all axes, the same for the same seed; however many there are, only
    these are made."""
    assert sweep.runs is not None
    lengths = [len(values) for _, _, values in axes]
    total, generator = prod(lengths), random.Random(sweep.seed)
    numbers: dict[int, None] = {}
    while len(numbers) < sweep.runs:
        numbers[generator.randrange(total)] = None
    return [numbered(number, lengths) for number in numbers]


def numbered(number: int, lengths: Sequence[int]) -> Combination:
    """The combination of that number, of axes with so many values each."""
    places = []
    for length in reversed(lengths):
        number, place = divmod(number, length)
        places.append(place)
    return tuple(reversed(places))


# -- the settings -------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlannedRun:
    """A run to make: `step` is its kind, name, settings and the point that it starts from, `source`
    the run that was there before, if it starts from one."""

    point: Point
    step: Step
    source: Run | None = None

    @property
    def has_parent(self) -> bool:
        """Does it start from another run?"""
        return self.source is not None or self.step.parent is not None


def planned_runs(plan: Plan, folder: Path, home: Home, session: str) -> list[PlannedRun]:
    """The settings of every point, each checked as its command would check them.

    Args:
        folder: where the sweep's file lies, from which its paths start.
        session: where a bare number in ``from:`` is looked for.

    Raises:
        LmbenchError: a line for each mistake of a stage, with the line in the file.
    """
    made: list[PlannedRun] = []
    found: list[str] = []
    wrong: set[int] = set()
    seen: set[tuple[Any, ...]] = set()
    settings = _Settings(plan, folder, home, session)
    for point in plan.points:
        where = ["stages", point.stage]
        if point.stage in wrong or (
            point.parent is not None and plan.points[point.parent].stage in wrong
        ):
            # One mistake of a stage is most often that of all its runs.
            made.append(PlannedRun(point, Step("train", "", TrainConfig())))
            wrong.add(point.stage)
            continue
        try:
            one = settings.of(point, made)
        except LmbenchError as error:
            wrong.add(point.stage)
            found += [plan.sweep.problem(where, line) for line in error.message.split("\n")]
            one = PlannedRun(point, Step("train", "", TrainConfig()))
        made.append(one)
        same = (one.step.kind, one.step.config, point.parent, one.source)
        if point.stage not in wrong and same in seen:
            wrong.add(point.stage)
            line = f"'{plan.run_name(point)}' is the same run twice; take one of the values away"
            found.append(plan.sweep.problem(where, line))
        seen.add(same)
    if found:
        raise LmbenchError(*found)
    return made


class _Settings:
    """Finds each point's settings; what several points ask for is looked up once."""

    def __init__(self, plan: Plan, folder: Path, home: Home, session: str) -> None:
        self._plan, self._folder, self._home, self._session = plan, folder, home, session
        self._runs: dict[str, Run] = {}
        self._recipes: dict[str, dict[str, Any]] = {}

    def of(self, point: Point, made: list[PlannedRun]) -> PlannedRun:
        stage = self._plan.stage(point)
        given = {**stage.settings, **self._plan.own_values(point)}
        given |= {
            name: located(name, value, self._folder, self._home)
            for name, value in given.items()
            if name in (*FILES, "data") and value is not None
        }
        if RECIPE in given:
            given = laid_over(self._recipe(given.pop(RECIPE)), given)
        source = self._run(point.run) if point.run is not None else None
        before: Config | None = source.config() if source is not None else None
        if point.parent is not None:
            before = made[point.parent].step.config
        values = laid_over(self._inherited(stage, source, before), given)
        if point.seed is not None and stage.kind != "quantize":
            values["seed"] = point.seed
        if stage.kind == "prune" and "epochs" not in given:
            values = long_enough(values, values["compress"], self._home)
        config = validate(CONFIGS[stage.kind], values)
        if isinstance(config, TrainConfig) and isinstance(before, TrainConfig):
            check_start(config, before)
        step = Step(stage.kind, self._plan.run_name(point, self._called), config, point.parent)
        return PlannedRun(point, step, source)

    def _called(self, source: str) -> str:
        """A run of before the sweep by its own name, where that tells it from the others."""
        names = {name: self._run(name).read().name for stage in self._plan.sweep.stages
                 for name in stage.sources if self._plan.sweep.stage(name) is None}  # fmt: skip
        own = names[source]
        return own if [*names.values()].count(own) == 1 else self._run(source).ref

    def _inherited(self, stage: Stage, source: Run | None, before: Config | None) -> dict[str, Any]:
        if before is None:
            return {}
        if isinstance(before, QuantizeConfig):
            name = source.ref if source else stage.sources[0]
            raise LmbenchError(f"{name} is quantized already; name the run that it was made from")
        if stage.kind == "quantize":
            machine = changed_settings(before)
            return {name: machine[name] for name in _MACHINE if name in machine}
        if source is not None:
            return inherited_settings(source)
        assert isinstance(before, TrainConfig)
        return passed_on(before)

    def _recipe(self, name: str) -> dict[str, Any]:
        if name not in self._recipes:
            path = self._home.path / name
            self._recipes[name] = recipe_settings(str(path if path.is_file() else name))
        return self._recipes[name]

    def _run(self, name: str) -> Run:
        if name not in self._runs:
            try:
                run = self._home.find_run(name, self._session, with_model=True)
            except LmbenchError as error:
                raise LmbenchError(
                    f"from: {one_line(name)} is no stage before this one, and no run: "
                    f"{error.message}"
                ) from None
            if run.home.path != self._home.path:
                raise LmbenchError(
                    f"from: {run.path} is a run of another working folder: start the sweep there "
                    f"(LMBENCH_HOME={run.home.path})"
                )
            status = run.status()
            if status != "finished":
                raise LmbenchError(
                    f"from: run {run.ref} is {status}; a sweep starts from finished ones"
                )
            self._runs[name] = run
        return self._runs[name]


def located(name: str, value: Any, folder: Path, home: Home) -> Any:
    """A setting that names a file or a corpus's folder, as the run is to have it: what lies beside
    the sweep's file, else in the working folder, by its path; names of presets and corpora as they
    are.

    Raises:
        LmbenchError: it names a file, and there is none.
    """
    if not isinstance(value, str):
        return value
    if name == "data":
        path = (folder / expanded(value)).resolve()
        return str(path) if path.is_dir() else value
    for base in (folder, home.path):
        path = (base / expanded(value)).resolve()
        if path.is_file():
            return name_of_file(path, home)
    ours = {"compress": ("a preset", preset_names), RECIPE: ("a recipe", recipe_names)}
    kind, names = ours.get(name, ("", list))
    if value in names():
        return value
    what = f"neither a file beside the sweep nor {kind}" if kind else "no such file"
    raise LmbenchError(f"{name}: '{value}' is {what}")
