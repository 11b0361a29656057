"""A training run: joins corpus, model, schedule and trainer, and keeps the run's record true."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import psutil
import torch
from torch import Tensor

from lmbench.config import ModelConfig, TrainConfig
from lmbench.corpus import Corpus, check_enough, open_corpus
from lmbench.corpus.batches import batchify
from lmbench.deploy.packed_file.trained_grid import trained_grids
from lmbench.distiller import CompressionScheduler
from lmbench.distiller.schedules.checking import load_schedule
from lmbench.errors import LmbenchError
from lmbench.jobs.distillation_teacher import PARENT, check_words, drawn_before, find_teacher
from lmbench.jobs.input_files import SCHEDULE_FILE
from lmbench.jobs.job import Job
from lmbench.jobs.kinds.common import (
    corpus_record,
    model_hash,
    parent_of,
    score_event,
    weight_results,
)
from lmbench.jobs.launch_ranks import launch_ranks
from lmbench.jobs.run_schedule import build_scheduler, plan_on_shape
from lmbench.jobs.sweeps.early_stopping import watch_rungs
from lmbench.jobs.training_arithmetic import (
    begun_on,
    choose_kernels,
    of_another_machine,
    run_precision,
    without_samples,
)
from lmbench.model import RNNModel, build_model, count_weights
from lmbench.model.device import choose_device
from lmbench.model.rotation import rotated
from lmbench.perplexity import perplexity
from lmbench.report.estimate import estimate, fitting
from lmbench.report.numbers import size
from lmbench.session.event_log import read_events
from lmbench.session.events import (
    Checkpoint,
    Epoch,
    Event,
    RunResumed,
    RunStarted,
    Sparsity,
    Warned,
)
from lmbench.session.store import Run
from lmbench.training.checkpoint import (
    MODEL_FILE,
    checkpoint_step,
    load_weights,
    read_trained,
)
from lmbench.training.evaluate import evaluate, report_progress
from lmbench.training.loss import DecoderLoss
from lmbench.training.objective import CrossEntropy, ExactCrossEntropy, Objective
from lmbench.training.optimizer import build_optimizer
from lmbench.training.precision import Precision
from lmbench.training.process_setup import compute_in, prepare_worker, usable_cores
from lmbench.training.ranks import ALONE, Ranks
from lmbench.training.regularisation import Regularisation
from lmbench.training.sparsity_event import sparsity_event
from lmbench.training.trainer import Splits, Trainer

__all__ = ["work"]


def work(job: Job, ranks: Ranks = ALONE) -> None:
    """Train to the end, or until the user stops it; score the test set in both cases.

    Args:
        ranks: the processes that work on the run together, this one among them. Where there are to
            be several and this one is alone, it starts them and waits for their end.
    """
    config = job.config
    assert isinstance(config, TrainConfig)
    device = choose_device(config, config.gpus, ranks.local)
    if config.processes > ranks.count:
        launch_ranks(job, config)
        return
    # Each of the cores is one's: threads that share one wait for each other.
    threads = config.threads or max(1, usable_cores() // config.gpus)
    prepare_worker(threads=threads, device=str(device))
    if ranks.count > 1:
        ranks.join("nccl" if device.type == "cuda" else "gloo")
    # Of an earlier lmbench, whose settings left the default's name out.
    begun_on = job.record.corpus.name if job.record.corpus else None
    corpus = open_corpus(config.data or begun_on, job.home.path, vocab=config.vocab)
    theirs = ranks.agree(lambda: corpus.fingerprint[:32])
    if theirs != corpus.fingerprint[:32]:
        raise LmbenchError(
            f"corpus {corpus.name} is another text here than on the first machine (fingerprint "
            f"{corpus.fingerprint[:12]}, there {str(theirs)[:12]}): --data names a folder that all "
            "of them see"
        )
    print(corpus.describe_choice(), flush=True)
    check_enough(corpus, config.batch_size, config.bptt, config.eval_batch_size)
    if ranks.first:
        note_corpus(job, corpus, config)
    try:
        _train(job, config, corpus, device, ranks)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise LmbenchError(out_of_memory_line(config, corpus.ntokens, device)) from error


def note_corpus(job: Job, corpus: Corpus, config: TrainConfig) -> None:
    """Put down what the run reads and the shape of what it makes.

    Raises:
        LmbenchError: a resumed run's corpus is not what it was.
    """
    known = job.record.corpus
    if job.resuming and known is not None and known.fingerprint != corpus.fingerprint:
        raise LmbenchError(
            f"corpus {corpus.name} has changed since run {job.run.ref} began (fingerprint "
            f"{corpus.fingerprint[:12]}, was {known.fingerprint[:12]}); an exact resume needs the "
            "same text"
        )
    job.session.write_vocabulary(corpus.fingerprint, corpus.vocabulary)
    text = corpus_record(corpus)
    job.session.update(corpus=text)
    job.update(
        corpus=text,
        shape={name: getattr(config, name) for name in ModelConfig.model_fields}
        | {"ntoken": corpus.ntokens},
    )


def _train(
    job: Job, config: TrainConfig, corpus: Corpus, device: torch.device, ranks: Ranks
) -> None:
    torch.manual_seed(config.seed)
    model = build_model(config, corpus.ntokens)
    of_parent = None
    if job.record.parent and not job.resuming:
        check_words("--data", parent_of(job), corpus)
        of_parent = load_parent(job, model, ranks)
    model.to(device)
    ranks.begin(model, config.seed)
    optimizer = build_optimizer(model, config)
    scheduler = build_scheduler(job.run, config, model, optimizer)
    kernels, of_kernels = choose_kernels(job, config, device)
    precision, of_precision = run_precision(job, config, scheduler, device, ranks)
    compute_in(precision)
    of_samples = without_samples(config, precision)
    begun = begun_on(job, device)
    of_machine = of_another_machine(begun, device)
    ends_here = watch_rungs(job)
    splits = Splits(
        ranks.share(batchify(corpus.split("train"), config.batch_size, device)),
        ranks.share(batchify(corpus.split("valid"), config.eval_batch_size, device)),
        batchify(corpus.split("test"), config.eval_batch_size, device),
    )

    def note(event: Event) -> None:
        _note(job, event)
        # Of the masks within an epoch none: to find the integers of the weights takes a second.
        if isinstance(event, Sparsity) and trainer.position.batch == trainer.batches_per_epoch:
            plain = trainer.plain_model()
            trained = {} if plain is trainer.model else trainer.model.state_dict()
            _note_size(job, plain, trained, corpus)

    rows = len(splits.train)
    objective, of_teacher = build_objective(job, config, corpus, precision, device, rows)
    trainer = Trainer(
        model,
        splits,
        config,
        objective,
        job.run.path,
        emit=note,
        control=job.control,
        log_offset=lambda: job.events_offset,
        optimizer=optimizer,
        scheduler=scheduler,
        sparsity=sparsity_event if ranks.first else None,
        log=lambda line: print(line, flush=True),
        halts=lambda epochs, best: ends_here(epochs, perplexity(best)),
        staging=job.run.staging,
        ranks=ranks,
    )
    weights, _, biases = count_weights(trainer.plain_model())
    job.update(device=str(device))
    _begin(job, trainer, precision, weights)
    # Not before: a resumed run voids what was logged since its checkpoint.
    of_schedule = _of_schedule(job, config, corpus.ntokens)
    drawn = objective.tensors().get("rows")
    if drawn is not None and drawn[1] == rows - 1:
        of_teacher = None  # its words were all drawn
    found = (of_parent, of_precision, of_kernels, of_samples, of_machine, of_teacher, *of_schedule)
    said = _warned_of(job)
    for warning in found:
        if warning and warning not in said:
            job.warn(warning)
    if counting := _warned_of(job):
        job.add_results(warnings=counting)
    job.add_results(
        parameters=weights, biases=biases, precision=precision, kernels=kernels, **begun
    )
    if trainer.run():
        # A stop that came while the last epoch was validated came too late.
        job.stopped = False
    if job.halt is not None:
        # What is left of it goes on later or never: the test set is for whole trainings.
        print(job.halt.reason, flush=True)
        return
    ranks.leave()
    if ranks.first:
        _score(job, trainer, scheduler, corpus)


def _warned_of(job: Job) -> list[str]:
    """What this attempt and earlier ones have warned of, in events that still count."""
    events = read_events(job.run.events_path)
    return list(dict.fromkeys(event.message for event in events if isinstance(event, Warned)))


def _of_schedule(job: Job, config: TrainConfig, types: int) -> list[str]:
    """What is to be warned of: entries that nothing uses, and a training that is too short."""
    if config.compress is None:
        return []
    schedule = load_schedule(job.run.path / SCHEDULE_FILE)
    cut_short = plan_on_shape(schedule, config, types, config.epochs).cut_short
    return [*schedule.warnings, *([cut_short] if cut_short else [])]


def _note(job: Job, event: Event) -> None:
    """Log an event; lists of runs show the best validation so far without reading the log."""
    job.emit(event)
    if isinstance(event, Epoch):
        # Of the model at which the run was stopped before, not of the one beside which they stand.
        job.drop_results("test_")
        job.add_results(
            valid_loss=event.best_valid_loss,
            valid_ppl=perplexity(event.best_valid_loss),
            best_epoch=event.best_epoch,
        )
    elif isinstance(event, Checkpoint):
        job.add_results(bytes=job.run.model_bytes())
    elif isinstance(event, Sparsity):
        job.add_results(nonzero=event.nonzero, sparsity=event.total)


def _note_size(job: Job, plain: RNNModel, trained: Mapping[str, Tensor], corpus: Corpus) -> None:
    """Of a pruned or quantized model how small it would be packed; `trained`, where a quantizer
    is in it, is the one that trains."""
    weights, nonzero, _ = count_weights(plain)
    found = trained_grids(plain, trained)
    if nonzero == weights and not found.values:
        # Noted of a masked model, where the last checkpoint holds a dense copy.
        job.drop_results("packed_bytes")
        return
    job.add_results(packed_bytes=found.packed_bytes(plain, corpus.vocabulary))


def build_objective(
    job: Job,
    config: TrainConfig,
    corpus: Corpus,
    precision: Precision,
    device: torch.device,
    rows: int,
) -> tuple[Objective, str | None]:
    """Cross-entropy, or a blend with a teacher's predictions where one is named, and a warning.

    Args:
        rows: of the text that this process trains on.
    """
    parent = parent_of(job) if config.teacher == PARENT else None
    teacher = find_teacher(config, job.home, job.session.name, corpus, parent)
    regularisation = Regularisation.of(config)
    loss = DecoderLoss(precision, into_grad=True, samples=config.gradient_samples)
    if teacher is None:
        if config.precision == "exact":
            return ExactCrossEntropy(regularisation), None
        return CrossEntropy(loss, regularisation, replay=not config.bptt_spread), None
    from lmbench.deploy.load_model import load_run
    from lmbench.training.distillation import Distillation

    loaded = load_run(teacher, _best_there_is(teacher), device=str(device))
    taught = Distillation(
        loaded.recurrent, config.distill_temp, config.distill_weight, regularisation, loss,
        samples=config.teacher_samples, rows=rows,
    )  # fmt: skip
    of_teacher = _note_teacher(job, teacher, loaded.path)
    if config.teacher_samples and job.record.parent and not job.resuming:
        taught.load_tensors(drawn_before(parent_of(job), config, job.record, rows))
    return taught, of_teacher


def _note_teacher(job: Job, teacher: Run, checkpoint: Path) -> str | None:
    """Note which model the run began to learn from, by its hash; a warning where it is another
    one now."""
    found = model_hash(checkpoint)
    before = job.record.results.get("teacher_sha256") if job.resuming else None
    if before in (None, found):
        job.add_results(teacher_sha256=found)
        return None
    return (
        f"the teacher, run {teacher.ref}, has trained on since this run began: from here on "
        "its better model teaches, and the run is not what it would have been without a stop"
    )


# What rounding to zero leaves in a model that nobody has pruned is less.
_FEW_ZEROS = 0.01


def load_parent(job: Job, model: RNNModel, ranks: Ranks) -> str | None:
    """Begin with the weights of the parent's best checkpoint, rotated where the model has a
    projection and the parent none; gives a warning where that undoes a pruning.

    Raises:
        LmbenchError: the parent has none yet, or one that does not fit the model.
    """
    parent = parent_of(job)
    which = _best_there_is(parent)
    folder = parent.checkpoint(which)
    if folder is None:
        raise LmbenchError(f"run {parent.ref} has no checkpoint to start from yet")
    projected = parent.read().shape.get("projection", False)
    if projected and model.projection is None:
        raise LmbenchError(f"run {parent.ref} has a projection, which cannot be taken back")
    if projected or model.projection is None:
        load_weights(model, folder / "model.safetensors")
        return None
    if not ranks.first:
        # They are given the first one's weights.
        return None
    print("rotating the embedding, and a projection to rotate back", flush=True)
    from lmbench.deploy.load_model import load_run

    before = load_run(parent, which).recurrent
    after = rotated(before)
    model.load_state_dict(after.state_dict())
    kept = dict(after.named_parameters())
    lost = [
        f"{zeros:.0%} of {name}"
        for name, weight in before.named_parameters()
        if (zeros := _zeros(weight)) >= _FEW_ZEROS > _zeros(kept[name])
    ]
    if not lost:
        return None
    return (
        f"of run {parent.ref} {', '.join(lost)} were zero, and rotating has filled that up: prune "
        "the run that it was made from"
    )


def _best_there_is(run: Run) -> str:
    """A run that was stopped in its first epoch has its last checkpoint alone."""
    return "best" if run.checkpoint("best") else "last"


def _zeros(weight: Tensor) -> float:
    return 1 - int(torch.count_nonzero(weight)) / weight.numel() if weight.dim() == 2 else 0.0


def _begin(job: Job, trainer: Trainer, precision: Precision, parameters: int) -> None:
    last = job.run.checkpoint("last")
    if job.resuming and last:
        offset = trainer.restore(last)
        position = trainer.position
        job.emit(RunResumed(offset=offset, step=position.step, epoch=position.epoch + 1))
        return
    config, batches = trainer.config, trainer.batches_per_epoch
    job.emit(
        RunStarted(
            device=str(trainer.device),
            precision=precision,
            threads=torch.get_num_threads(),
            parameters=parameters,
            epochs=config.epochs,
            steps_per_epoch=batches,
            total_steps=batches * config.epochs,
        )
    )


def _score(
    job: Job, trainer: Trainer, scheduler: CompressionScheduler | None, corpus: Corpus
) -> None:
    """Score the checkpoint that the settings name on the test set, and note all results."""
    model, config, position = trainer.model, trainer.config, trainer.position
    best = job.run.checkpoint("best")
    # A death before last/ was written leaves one that a resumed run has yet to come to again.
    has_best = best is not None and checkpoint_step(best) <= position.step
    which = config.test_checkpoint if has_best else "last"
    if which == "best":
        trainer.load_best()
    else:
        trainer.keep_averages()
    report = report_progress(job.emit, "scoring test")
    plain = now = trainer.plain_model()
    trained = {} if plain is model else model.state_dict()
    if which == "best" and trained:
        # A quantizer that began or narrowed since makes another model of these weights.
        assert best is not None
        plain, trained = copy.deepcopy(plain), read_trained(best)
        load_weights(plain, best / MODEL_FILE)
    test = evaluate(plain, trainer.splits.test, config.bptt, report)
    job.emit(score_event("test", test, test.tokens_per_s, which))
    print("=" * 89)
    print(
        f"| End of training | {which} checkpoint | test loss {test.loss:5.2f} "
        f"| test ppl {test.ppl:8.2f}",
        flush=True,
    )
    of_activations = scheduler and scheduler.quantizer and scheduler.quantizer.bits_activations
    if of_activations and all(map(torch.equal, plain.parameters(), now.parameters())):
        rounded = evaluate(model, trainer.splits.test, config.bptt)
        print(
            f"| its activations quantized as in training: test ppl {rounded.ppl:8.2f}", flush=True
        )
        job.add_results(test_ppl_of_quantized_activations=rounded.ppl)
    _note_size(job, plain, trained, corpus)
    plateau = trainer.plateau
    job.add_results(
        **weight_results(plain, job.run),
        valid_loss=plateau.best,
        valid_ppl=perplexity(plateau.best),
        best_epoch=plateau.best_epoch,
        test_loss=test.loss,
        test_ppl=test.ppl,
        **corpus.figures("test", test.loss),
        test_checkpoint=which,
        steps=position.step,
        epochs=position.epoch,
        tokens_per_s=position.tokens / position.seconds if position.seconds else None,
        seconds=position.seconds,
    )


def is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        "DefaultCPUAllocator" in text and "memory" in text
    )


def out_of_memory_line(config: TrainConfig, ntoken: int, device: torch.device) -> str:
    if device.type == "cuda":
        available = torch.cuda.get_device_properties(device).total_memory
        threads = 0
    else:
        available = psutil.virtual_memory().available
        threads = torch.get_num_threads()
    # Each of several processes has its part of the batch.
    parts, alone = config.processes, {"threads": threads, "gpus": 1, "nodes": 1}
    share = config.model_copy(update={**alone, "batch_size": config.batch_size // parts})
    need = estimate(share, ntoken).bytes
    line = (
        f"out of memory on {device}: tried --batch-size {config.batch_size} --bptt {config.bptt} "
        f"over {ntoken:,} types, about {size(need)} of {size(available)}"
    )
    fits = fitting(share, ntoken, available)
    if fits is None or fits == share:
        return f"{line}; close other programs, or use smaller --nhid and --emsize"
    return f"{line}; --batch-size {parts * fits.batch_size} --bptt {fits.bptt} should fit"
