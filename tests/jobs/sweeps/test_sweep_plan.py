"""Which runs a sweep is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from places import REPOSITORY
from sweep_world import SMALL, SWEEP, write_sweep

from lmbench.config import PruneConfig, QuantizeConfig, TrainConfig
from lmbench.corpus import open_corpus
from lmbench.errors import LmbenchError
from lmbench.jobs.input_files import own_files
from lmbench.jobs.run_schedule import check_schedule, plan_on_shape
from lmbench.jobs.sweeps import control
from lmbench.jobs.sweeps.kept_file import keep, kept_path, sweep_of
from lmbench.jobs.sweeps.plan import Plan, PlannedRun, plan_of, planned_runs
from lmbench.jobs.sweeps.sweep_file import parse_sweep
from lmbench.session import Home
from lmbench.session.manage import rename_session
from lmbench.session.records import Corpus

BRANCHES = f"""version: 1
seeds: [3, 4]
stages:
  - kind: train
    settings: {{{SMALL.replace(", lr: 1.0", "")}}}
    axes: {{lr: [1.0, 2.0]}}
  - kind: prune
    axes: {{compress: [levels/agp-50.yaml, levels/agp-80.yaml], lr: [0.1, 0.2, 0.3]}}
  - kind: quantize
    from: [train, prune]
    axes: {{bits_parameters: [4, 8]}}
"""


def planned(home: Home, text: str) -> tuple[Plan, list[PlannedRun]]:
    file = write_sweep(home.path.parent / "study", text)
    plan = plan_of(parse_sweep(file.read_bytes(), file))
    return plan, planned_runs(plan, file.parent, home, "study")


def test_each_stage_starts_from_each_run_of_those_it_names(sweep_home: Home) -> None:
    plan, runs = planned(sweep_home, BRANCHES)
    kinds = [run.step.kind for run in runs]
    assert [kinds.count(kind) for kind in ("train", "prune", "quantize")] == [4, 24, 56]
    for run in runs:
        before = run.point.parent
        if before is None:
            assert run.step.kind == "train"
            continue
        parent = runs[before]
        assert parent.point.seed == run.point.seed
        assert set(parent.point.taken) <= set(run.point.taken)
    assert len({(run.step.kind, run.step.config, run.point.parent) for run in runs}) == len(runs)
    assert len({point.key for point in plan.points}) == len(runs)


def test_a_pruning_takes_over_its_parents_settings_and_seed(sweep_home: Home) -> None:
    _, runs = planned(sweep_home, BRANCHES)
    pruned = next(run for run in runs if run.step.kind == "prune" and run.point.seed == 4)
    config = pruned.step.config
    assert isinstance(config, PruneConfig)
    assert (config.nhid, config.lr, config.seed, config.data) == (8, 0.1, 4, "tiny")
    quantized = runs[-1].step.config
    assert isinstance(quantized, QuantizeConfig)
    assert (quantized.threads, quantized.seed) == (1, QuantizeConfig().seed)


def test_a_pruning_trains_as_long_as_its_schedule_needs(sweep_home: Home) -> None:
    text = SWEEP.replace("epochs: 2", "epochs: 1")
    _, runs = planned(sweep_home, text)
    assert [run.step.config.model_dump()["epochs"] for run in runs] == [1, 1, 2, 2, 2, 2]


def test_a_schedule_is_the_sweeps_own_wherever_it_is_started_from(
    sweep_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_sweep(sweep_home.path / "study")
    other = write_sweep(tmp_path / "study").parent / "levels" / "agp-50.yaml"
    other.write_text("another\n")
    monkeypatch.chdir(tmp_path)
    plan = plan_of(parse_sweep(file.read_bytes(), file))
    runs = planned_runs(plan, file.parent, sweep_home, "study")
    found = own_files(runs[2].step.config, sweep_home)
    assert found["schedule.yaml"] == (file.parent / "levels" / "agp-50.yaml").read_bytes()


def test_a_random_search_draws_the_same_combinations_for_the_same_seed(sweep_home: Home) -> None:
    text = BRANCHES.replace("seeds: [3, 4]", "search: random\nruns: 7\nseed: 5")
    plan, runs = planned(sweep_home, text)
    paths = {
        run.point.taken for run in runs if run.step.kind == "quantize" and len(run.point.taken) == 4
    }
    assert len(paths) == 7
    again, _ = planned(sweep_home, text)
    assert again.points == plan.points
    other, _ = planned(sweep_home, text.replace("seed: 5", "seed: 6"))
    assert other.points != plan.points
    used = {run.point.parent for run in runs}
    for number, run in enumerate(runs):
        assert run.step.kind == "quantize" or number in used, "a run that no combination needs"


def test_a_random_search_over_more_than_can_be_made_draws_its_few() -> None:
    thousand = "{from: 1, to: 1000, step: 1}"
    text = (
        "version: 1\nsearch: random\nruns: 5\nstages: [{kind: train, axes: "
        f"{{nhid: {thousand}, emsize: {thousand}, batch_size: {thousand}}}}}]"
    )
    points = plan_of(parse_sweep(text.encode(), Path("s.yaml"))).points
    assert len({point.taken for point in points}) == 5


@pytest.mark.parametrize(
    "old, new, line, words",
    [
        ("levels/agp-80.yaml", "levels/agp-81.yaml", 7, "neither a file beside the sweep"),
        ("data: tiny", 'data: "a\\0b"', 5, "a path has no null character"),
        ("data: tiny", "data: ~nouser/x", 5, "~nouser/x: there is no such user"),
        ("nhid: 8", "nhid: 9", 5, "--tied needs --emsize equal to --nhid"),
        ("- kind: prune\n", "- kind: prune\n    from: other/3\n", 7, "no session 'other'"),
        (
            "- kind: prune\n",
            "- kind: prune\n    from: turnip\n",
            7,
            "turnip is no stage before this",
        ),
        ("levels/agp-80.yaml]", "./levels/agp-50.yaml]", 7, "the same run twice"),
    ],
)
def test_what_does_not_fit_together_is_told_with_its_line(
    sweep_home: Home, old: str, new: str, line: int, words: str
) -> None:
    with pytest.raises(LmbenchError) as refused:
        planned(sweep_home, SWEEP.replace(old, new))
    (only,) = refused.value.message.split("\n")
    assert words in only
    assert f" line {line}:" in only


RECIPES = f"""version: 1
stages:
  - kind: train
    settings: {{{SMALL.replace(", lr: 1.0", "")}}}
    axes: {{recipe: [slow.yaml, onecycle, plain]}}
  - kind: prune
    settings: {{recipe: slow.yaml, compress: levels/agp-50.yaml, clip: 0.5}}
"""


def test_settings_that_only_some_runs_have_are_judged_against_their_schedules(
    sweep_home: Home,
) -> None:
    axes = "compress: [levels/agp-50.yaml]\n      decay: [1.0, 0.9]\n"
    file = write_sweep(sweep_home.path.parent / "study", SWEEP.split("compress")[0] + axes)
    (file.parent / "levels" / "agp-50.yaml").write_text(
        "version: 1\nlr_schedulers: {half: {class: ExponentialLR, gamma: 0.5}}\n"
        "policies: [{lr_scheduler: {instance_name: half}, starting_epoch: 0, ending_epoch: 2, "
        "frequency: 1}]\n"
    )
    with pytest.raises(LmbenchError, match=r"line 7: stages: 2: .*--decay"):
        control.prepare(file, sweep_home)


def test_nodes_are_for_single_runs_wherever_they_stand(
    sweep_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmbench.jobs.prepare.gpu_count", lambda: 1)
    text = SWEEP.replace("lr: 1.0}", "lr: 1.0}\n    axes: {nodes: [1, 2]}")
    file = write_sweep(sweep_home.path.parent / "study", text)
    with pytest.raises(LmbenchError, match="nodes of more than 1 is for single runs"):
        control.prepare(file, sweep_home)


def test_a_recipes_settings_stand_under_a_stages_and_over_its_parents(sweep_home: Home) -> None:
    folder = sweep_home.path.parent / "study"
    folder.mkdir()
    recipe = "version: 1\nsettings: {lr: 0.3, clip: 2.0, epochs: 9, decay: 0.7}\n"
    (folder / "slow.yaml").write_text(recipe)
    plan, runs = planned(sweep_home, RECIPES)
    slow, onecycle, plain, *pruned = [run.step.config.model_dump() for run in runs]
    # The stage itself says how many epochs.
    assert (slow["lr"], slow["clip"], slow["decay"], slow["epochs"]) == (0.3, 2.0, 0.7, 2)
    assert {name: onecycle[name] for name in ("lr_schedule", "decay")} == {
        "lr_schedule": "onecycle",
        "decay": None,
    }
    assert plain == TrainConfig(data="tiny", **_small()).model_dump()
    for config in pruned:
        assert (config["lr"], config["clip"], config["epochs"]) == (0.3, 0.5, 9)
        assert (config["decay"], config["lr_schedule"]) == (0.7, None)
    names = [plan.run_name(point) for point in plan.points[:4]]
    assert names == ["train slow", "train onecycle", "train plain", "prune slow"]


def _small() -> dict[str, Any]:
    return {"emsize": 8, "nhid": 8, "nlayers": 1, "tied": True, "epochs": 2, "threads": 1}


@pytest.mark.parametrize(
    "old, new, line, words",
    [
        ("plain]", "awdd]", 3, "recipe: 'awdd' is neither a file beside the sweep nor a recipe"),
        ("plain]", "3]", 5, "3 is no recipe; write its name, or a file's"),
        ("kind: prune", "kind: quantize", 7, "'recipe' is not a setting of quantize"),
        ("plain]", "bad.yaml]", 3, "recipe bad.yaml: line 2: unknown setting 'lrr'"),
    ],
)
def test_a_recipe_that_is_none_is_told_with_its_line(
    sweep_home: Home, old: str, new: str, line: int, words: str
) -> None:
    folder = sweep_home.path.parent / "study"
    folder.mkdir()
    (folder / "slow.yaml").write_text("version: 1\nsettings: {lr: 0.3}\n")
    (folder / "bad.yaml").write_text("version: 1\nsettings: {lrr: 0.3}\n")
    with pytest.raises(LmbenchError) as refused:
        planned(sweep_home, RECIPES.replace(old, new))
    first = refused.value.message.split("\n")[0]
    assert words in first
    assert f" line {line}:" in first


def test_a_session_keeps_the_recipes_of_its_sweep(sweep_home: Home) -> None:
    file = write_sweep(sweep_home.path.parent / "study", RECIPES)
    recipe = file.with_name("slow.yaml")
    recipe.write_text("version: 1\nsettings: {lr: 0.3}\n")
    session = sweep_home.open_session("study")
    keep(session, parse_sweep(file.read_bytes(), file), file.parent)
    recipe.unlink()
    sweep = sweep_of(session)
    assert list(sweep.stages[0].axes["recipe"]) == ["recipes/slow.yaml", "onecycle", "plain"]
    runs = planned_runs(plan_of(sweep), session.path, sweep_home, session.name)
    assert [run.step.config.model_dump()["lr"] for run in runs] == [0.3, 20.0, 20.0, *[0.3] * 3]


def test_a_sweep_starts_from_runs_that_are_there(sweep_home: Home) -> None:
    session = sweep_home.open_session("dense")
    for seed in (1, 2):
        config = TrainConfig(data="tiny", nhid=8, emsize=8, nlayers=1, seed=seed)
        run = session.new_run(config, "train")
        run.update(status="finished")
        (run.path / "best").mkdir()
    text = """version: 1
stages:
  - kind: prune
    from: [dense/1, dense/2]
    axes: {compress: [levels/agp-50.yaml, levels/agp-80.yaml]}
"""
    plan, runs = planned(sweep_home, text)
    sources = [run.source.id for run in runs if run.source]
    assert sources == [1, 1, 2, 2]
    assert [run.step.config.model_dump()["seed"] for run in runs] == sources
    assert plan.run_name(plan.points[0]) == "prune agp-50 from 1"
    session.run(2).update(status="lost")
    with pytest.raises(LmbenchError, match="dense/002-train is lost; a sweep starts from finished"):
        planned(sweep_home, text)


def test_a_pruning_on_other_words_than_its_parents_is_told_before_a_run_is_made(
    sweep_home: Home,
) -> None:
    folder = sweep_home.path / "data" / "other"
    shutil.copytree(sweep_home.path / "data" / "tiny", folder)
    (folder / "train.txt").write_text("a word of its own\n" * 200)
    session = sweep_home.open_session("dense")
    run = session.new_run(TrainConfig(data="tiny", batch_size=2, bptt=5), "train")
    (run.path / "best").mkdir()
    corpus = open_corpus("tiny", sweep_home.path)
    session.write_vocabulary(corpus.fingerprint, list(corpus.vocabulary))
    kept = Corpus(name="tiny", fingerprint=corpus.fingerprint, ntokens=corpus.ntokens)
    run.update(status="finished", corpus=kept)
    text = """version: 1
stages:
  - kind: prune
    from: dense/1
    settings: {data: %s, compress: levels/agp-50.yaml}
"""
    control.prepare(write_sweep(sweep_home.path.parent / "a", text % "tiny"), sweep_home, "new")
    file = write_sweep(sweep_home.path.parent / "b", text % "other")
    with pytest.raises(LmbenchError, match=r"stages: 1: --data: run dense/001-train knows the"):
        control.prepare(file, sweep_home, "new")


def test_the_newest_run_stays_the_teacher_of_all_runs_of_a_sweep(sweep_home: Home) -> None:
    session = sweep_home.open_session("dense")
    teacher = session.new_run(TrainConfig(data="tiny"), "train")
    teacher.update(status="finished")
    text = f"""version: 1
seeds: 2
stages:
  - kind: train
    settings: {{{SMALL}, teacher: '@'}}
"""
    file = write_sweep(sweep_home.path.parent / "study", text)
    made, runs = control.start(control.prepare(file, sweep_home, "dense"), sweep_home)
    assert [run.read().config["teacher"] for run in runs] == [teacher.ref] * 2
    assert sweep_of(made).stages[0].settings["teacher"] == teacher.ref


def test_a_run_of_another_working_folder_is_no_source(sweep_home: Home, tmp_path: Path) -> None:
    """Of the sweep's own one of that number may be another model."""
    for home in (sweep_home, Home(tmp_path / "another")):
        run = home.open_session("dense").new_run(TrainConfig(data="tiny"), "train")
        run.update(status="finished")
        (run.path / "best").mkdir()
    text = f"version: 1\nstages: [{{kind: quantize, from: {run.path}}}]\n"
    with pytest.raises(LmbenchError, match="a run of another working folder"):
        planned(sweep_home, text)


@pytest.mark.parametrize("named", ["dense/first", "dense/@", "[dense/1, dense/first s2]"])
def test_the_kept_copy_names_runs_so_that_they_stay_the_same(sweep_home: Home, named: str) -> None:
    session = sweep_home.open_session("dense")
    for seed in (1, 2) if "[" in named else (1,):
        config = TrainConfig(data="tiny", seed=seed)
        run = session.new_run(config, "train", name="first" if seed == 1 else "first s2")
        run.update(status="finished")
        (run.path / "best").mkdir()
    file = write_sweep(
        sweep_home.path.parent / "study",
        f"version: 1\nname: study\nstages: [{{kind: quantize, from: {named}}}]\n",
    )
    made, runs = control.start(control.prepare(file, sweep_home), sweep_home)
    wanted = ("dense/001-train", "dense/002-train")[: len(runs)]
    assert sweep_of(made).stages[0].sources == wanted
    if len(runs) > 1:
        # By the names that they have, and not by their numbers.
        called = [run.read().name for run in runs]
        assert called == ["quantize from first", "quantize from first s2"]
    # The same file goes on with it, and with what an earlier version has kept.
    assert control.start(control.prepare(file, sweep_home), sweep_home)[1] == runs
    kept = kept_path(made).read_bytes()
    kept_path(made).write_bytes(file.read_bytes())
    assert control.start(control.prepare(file, sweep_home), sweep_home)[1] == runs
    kept_path(made).write_bytes(kept)
    assert control.start(control.prepare(file, sweep_home), sweep_home)[1] == runs
    for run in runs:
        run.update(status="finished")
    rename_session(sweep_home, "dense", "work")
    assert sweep_of(made).stages[0].sources == tuple(w.replace("dense", "work") for w in wanted)


def test_the_sweep_of_the_benchmarks_is_in_order(tmp_path: Path) -> None:
    file = REPOSITORY / "benchmarks" / "sweeps" / "sparsity-and-bits.yaml"
    home = Home(tmp_path)
    runs = planned_runs(plan_of(parse_sweep(file.read_bytes(), file)), file.parent, home, "s")
    kinds = [run.step.kind for run in runs]
    assert [kinds.count(kind) for kind in ("train", "prune", "quantize")] == [3, 9, 12]
    for run in runs:
        if isinstance(run.step.config, PruneConfig):
            schedule = check_schedule(run.step.config, home)
            assert schedule is not None
            plan = plan_on_shape(schedule, run.step.config, 5282, run.step.config.epochs)
            assert not plan.cut_short
            wanted = run.step.name.split("agp-")[1].split(" ")[0]
            assert plan.final_sparsity == pytest.approx(int(wanted) / 100, abs=0.001)
