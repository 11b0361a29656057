"""``lmbench train`` and ``lmbench prune``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lmbench.cli.flags import check_needs, configured, free_place, refuse_flags, write_new
from lmbench.cli.output import Json, SessionName, note, print_line
from lmbench.cli.progress import corpus_progress
from lmbench.cli.start_run import (
    Detach,
    PlaceName,
    RunName,
    Seeds,
    derive,
    derive_all,
    named_with_seed,
    new_run,
    resume_run,
    start,
    start_all,
)
from lmbench.config import Kind, PruneConfig, TrainConfig, validate
from lmbench.config.training import laid_over
from lmbench.errors import LmbenchError
from lmbench.jobs.distillation_teacher import lasting_name
from lmbench.jobs.places import check_place
from lmbench.jobs.prepare import check_training, pruning_defaults
from lmbench.jobs.run_schedule import check_building, check_schedule, plan_on_shape
from lmbench.report.model_card import shown_checkpoint
from lmbench.session import Home, Run, Session
from lmbench.user_folder import expanded

__all__ = ["prune", "train"]

Resume = Annotated[
    str | None, Parameter(help="go on exactly from this run's last checkpoint, with its settings")
]
Recipe = Annotated[
    str | None,
    Parameter(
        help="settings under those of the other flags: plain, awd (NT-ASGD), cosine, onecycle, or "
        "a YAML file of your own"
    ),
]


@configured(TrainConfig)
def train(
    config: TrainConfig,
    *,
    save: Annotated[
        Path | None, Parameter(help="copy the scored checkpoint's weights here (safetensors)")
    ] = None,
    resume: Resume = None,
    summary: Annotated[
        str | None,
        Parameter(help="print a table of the untrained model and stop: sparsity, model, …"),
    ] = None,
    onnx_export: Annotated[
        Path | None, Parameter(help="write the trained model as ONNX, checked against torch")
    ] = None,
    recipe: Recipe = None,
    name: RunName = None,
    seeds: Seeds = None,
    place: PlaceName = "local",
    session: SessionName = "default",
    detach: Detach = False,
    json: Json = False,
) -> int:
    """Train a language model, as Distiller's version of PyTorch's word-language-model example does.

    Ctrl-C finishes the step, saves and still scores the test set; a second one stops at once,
    and nothing that was saved is lost.
    """
    home = Home.find()
    if summary is not None:
        refuse_flags(
            "does nothing beside --summary, which trains nothing",
            save=save, resume=resume, onnx_export=onnx_export, name=name, detach=detach,
            seeds=seeds, place=place != "local",
        )  # fmt: skip
        from lmbench.cli.summary import summarise_untrained

        return summarise_untrained(config, summary, json=json)
    check_place(place, home)
    if seeds is not None:
        refuse_flags("is of one run, and --seeds makes several", save=save, resume=resume,
                     onnx_export=onnx_export)  # fmt: skip
        _check(config, home, session, detach=detach, json=json)
        owner = home.open_session(session)
        make_all = partial(_of_seeds, owner, "train", config, seeds, name, place)
        return start_all(make_all, detach=detach, json=json)
    _check_files({"--save": save, "--onnx-export": onnx_export}, detach=detach)
    if resume is not None:
        refuse_flags("a run is resumed with the settings that it has", recipe=recipe)
        given = dict.fromkeys(sorted(config.model_fields_set), True)
        refuse_flags("a run is resumed with the settings that it has", **given, name=name,
                     place=place != "local")  # fmt: skip
        run, code = resume_run(home.find_run(resume, session), detach=detach, json=json)
    else:
        _check(config, home, session, detach=detach, json=json)
        owner = home.open_session(session)
        make = partial(new_run, owner, "train", config, name=name, place=place)
        run, code = start(make, detach=detach, json=json)
    _write_files(run, save, onnx_export, quiet=json)
    return code


@configured(PruneConfig, over_others=True)
def prune(
    config: PruneConfig,
    run: Annotated[
        str | None, Parameter(help="the trained run to start from; left out: from scratch")
    ] = None,
    /,
    *,
    asked: Collection[str],
    compress: Annotated[
        str | None,
        Parameter(
            name=("--schedule", "--compress"),
            help="a YAML file or a preset (see lmbench schedule list)",
        ),
    ] = None,
    recipe: Recipe = None,
    name: RunName = None,
    seeds: Seeds = None,
    place: PlaceName = "local",
    session: SessionName = "default",
    detach: Detach = False,
    json: Json = False,
) -> int:
    """Train under a pruning schedule, from a trained run or from scratch.

    From a run, its settings hold where no flag is given, and not the defaults: model, corpus,
    learning rate, epochs (but never fewer than the schedule has), seed, device. A recipe goes over
    them, and the flags over both.
    """
    home = Home.find()
    parent = home.find_run(run, session, with_model=True) if run is not None else None
    # A run that is named by its path may be of another working folder.
    home = parent.home if parent else home
    check_place(place, home)
    if seeds is not None and parent is not None:
        refuse_flags("--seeds takes the seed of each run that it starts from",
                     seed="seed" in config.model_fields_set)  # fmt: skip
    config = _pruning_config(config, parent, compress, home)
    check_needs(config, asked)
    _check(config, home, session, parent, detach=detach, json=json, asked=asked)
    if parent is not None:
        given = {"name": name, "detach": detach, "json": json, "place": place}
        if seeds is not None:
            return derive_all(parent, "prune", config, seeds, **given)
        return derive(parent, "prune", config, **given)[1]
    owner = home.open_session(session)
    if seeds is not None:
        make_all = partial(_of_seeds, owner, "prune", config, seeds, name, place)
        return start_all(make_all, detach=detach, json=json)
    make = partial(new_run, owner, "prune", config, name=name, place=place)
    return start(make, detach=detach, json=json)[1]


def _of_seeds(
    session: Session, kind: Kind, config: TrainConfig, seeds: int, name: str | None, place: str
) -> Iterator[Run]:
    """Runs that differ in seed alone, from the seed of the settings on.

    Raises:
        LmbenchError: a seed is too large; nothing is made then.
    """
    values = {**config.model_dump(), "teacher": lasting_name(config.teacher, session)}
    first = config.seed
    each = [validate(type(config), {**values, "seed": first + n}) for n in range(seeds)]
    for one in each:
        called = named_with_seed(name, kind, one, one.seed)
        yield new_run(session, kind, one, name=called, place=place)


def _pruning_config(
    config: PruneConfig, parent: Run | None, compress: str | None, home: Home
) -> PruneConfig:
    """The parent's settings under the given ones, flags or a recipe's, with the schedule in its
    place."""
    compress = compress or config.compress
    if compress is None:
        raise LmbenchError("prune needs --schedule: a YAML file or a preset such as large-80")
    given = {field: getattr(config, field) for field in config.model_fields_set}
    defaults = pruning_defaults(parent, compress, home)
    return validate(PruneConfig, {**laid_over(defaults, given), "compress": compress})


def _check(
    config: TrainConfig,
    home: Home,
    session: str,
    parent: Run | None = None,
    *,
    detach: bool,
    json: bool,
    asked: Collection[str] | None = None,
) -> None:
    """Check before anything is made; fetching a corpus shows a bar. Which corpus it is, the run's
    own log says where that is shown."""
    has_parent, owner = parent is not None, parent.session.name if parent else session
    with corpus_progress() as progress:
        corpus = check_training(
            config, home, progress, has_parent=has_parent, session=owner, parent=parent
        )
    schedule = check_schedule(config, home)
    if schedule is not None:
        check_building(config, schedule)
        if any(policy.kind == "lr_scheduler" for policy in schedule.policies):
            asked = config.model_fields_set if asked is None else asked
            annealing = sorted({"patience", "anneal_factor"} & set(asked))
            words = "does nothing with a schedule that sets the learning rate"
            refuse_flags(words, **dict.fromkeys(annealing, True))
    if detach and not json:
        print_line(corpus.describe_choice())
    elif corpus.advice and not json:
        note(corpus.advice)
    if schedule is not None:
        plan = plan_on_shape(schedule, config, corpus.ntokens, config.epochs)
        for warning in filter(None, (plan.cut_short, *schedule.warnings)):
            note(f"warning: {warning}")


def _check_files(files: Mapping[str, Path | None], *, detach: bool) -> None:
    """See now that what the command writes at the end can be written then.

    Raises:
        LmbenchError: nobody will be there to write it, it would overwrite something, or its folder
            is missing.
    """
    places = [path for path in files.values() if path is not None]
    if len({expanded(path).resolve() for path in places}) < len(places):
        raise LmbenchError(f"{' and '.join(files)} name one file: name two")
    for flag, path in files.items():
        if path is None:
            continue
        if detach:
            raise LmbenchError(
                f"{flag} {path}: nothing waits for a run that is detached; leave it out and use "
                "`lmbench export` when the run has finished"
            )
        free_place(flag, path)


def _write_files(run: Run, save: Path | None, onnx_export: Path | None, *, quiet: bool) -> None:
    if save is None and onnx_export is None:
        return
    which = shown_checkpoint(run)
    folder = run.checkpoint(which)
    if folder is None:
        note(f"run {run.ref} ended without a checkpoint: there are no weights to write")
        return
    if save is not None:
        weights = folder / "model.safetensors"
        write_new("--save", expanded(save), weights.read_bytes(), kept=weights)
    if onnx_export is not None:
        from lmbench.cli.export_model import export_model, print_exported
        from lmbench.deploy.load_model import load_run

        place = free_place("--onnx-export", onnx_export)
        document = export_model(load_run(run, which), run, place, "onnx")
        if not quiet:
            print_exported(document)
