"""The run that a training distills from: found, and of the same words. No torch here."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from lmbench.config import Config, TrainConfig
from lmbench.corpus import Corpus
from lmbench.errors import LmbenchError
from lmbench.session.store import Home, Run, RunRecord, Session

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PARENT", "check_words", "drawn_before", "find_teacher", "lasting_name"]

PARENT = "parent"
"""What ``--teacher`` takes for the run that a pruning starts from."""

_TEACHES = ("train", "prune")


def find_teacher(
    config: TrainConfig, home: Home, session: str, corpus: Corpus, parent: Run | None = None
) -> Run | None:
    """The run that ``--teacher`` names; None where it names none, or a parent not made yet.

    It may still be queued or training: then its words are looked at when the student begins.

    Args:
        session: the one that a bare number means.
        corpus: what the student reads.
        parent: the run that the student starts from, where there is one already.

    Raises:
        LmbenchError: there is no such run, it is no training, or its ids mean other words.
    """
    if config.teacher is None:
        return None
    teacher = parent if config.teacher == PARENT else home.find_run(config.teacher, session)
    if teacher is None:
        return None
    record, said = teacher.read(), f"--teacher {config.teacher}"
    if record.kind not in _TEACHES:
        raise LmbenchError(
            f"{said}: run {teacher.ref} is of kind '{record.kind}', and only "
            f"{' and '.join(_TEACHES)} runs teach"
        )
    check_words(said, teacher, corpus)
    return teacher


def lasting_name(teacher: str | None, session: Session) -> str | None:
    """A name of a teacher that goes on to mean it: what is the newest run now, or has a name alone,
    may not be so once another run is made, or begins."""
    if teacher is None or teacher == PARENT:
        return teacher
    found = session.home.find_run(teacher, session.name)
    return found.ref if found.home == session.home else str(found.path)


def check_words(said: str, run: Run, corpus: Corpus) -> None:
    """Raises LmbenchError where the ids of a run's model mean other words than the corpus's."""
    record = run.read()
    known = record.corpus
    if known is None or known.fingerprint == corpus.fingerprint:
        return
    if run.vocabulary(record) != corpus.vocabulary:
        raise LmbenchError(
            f"{said}: run {run.ref} knows the {known.ntokens:,} types of {known.name}, and "
            f"{corpus.name} has {corpus.ntokens:,} of its own: the words of both "
            "must be the same (train both on one corpus with one --vocab)"
        )


def drawn_before(
    parent: Run, config: TrainConfig, record: RunRecord, rows: int
) -> dict[str, Tensor]:
    """The words that a run's parent has drawn from all that the same teacher predicts of the same
    text, as `Distillation.load_tensors` takes them; none where it has not.

    Args:
        config, record: of the run, the hash of its teacher noted.
        rows: of the text that it trains on.
    """
    from lmbench.training.checkpoint import read_checkpoint

    last, ours = parent.checkpoint("last"), _drawn_from(config, record)
    if last is None or ours is None or _drawn_from(parent.config(), parent.read()) != ours:
        return {}
    with suppress(LmbenchError):
        tensors, _ = read_checkpoint(last)
        drawn = tensors.get("objective/rows")
        if drawn is not None and drawn[1] == rows - 1:
            print(f"the teacher's words are those that {parent.ref} has drawn", flush=True)
            return {"words": tensors["objective/words"], "rows": drawn}
    return {}


def _drawn_from(config: Config, record: RunRecord) -> tuple[Any, ...] | None:
    """What a teacher's drawn words depend on; None where they are not one process's alone."""
    if not isinstance(config, TrainConfig) or config.processes > 1 or record.corpus is None:
        return None
    text, teacher = record.corpus.fingerprint, record.results.get("teacher_sha256")
    return (text, teacher, config.teacher_samples, config.batch_size)
