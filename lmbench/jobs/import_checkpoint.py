"""A run of a model that was trained elsewhere: its weights, its corpus, and no training of ours."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from lmbench.config import TrainConfig, validate
from lmbench.corpus import Corpus, open_corpus
from lmbench.corpus.files import Progress
from lmbench.deploy.packed_file.writing import packed_bytes
from lmbench.deploy.pytorch_checkpoint.model_weights import import_model
from lmbench.errors import LmbenchError
from lmbench.jobs.kinds.common import corpus_record, weight_results
from lmbench.model.rnn import RNNModel, shape_of
from lmbench.session import Home, Run
from lmbench.session.event_log import EventWriter
from lmbench.session.events import Finished
from lmbench.session.leftovers import unnamed_folder
from lmbench.session.manage import run_name_problem
from lmbench.training.checkpoint import write_checkpoint
from lmbench.training.sparsity_event import sparsity_event

__all__ = ["import_checkpoint"]


def import_checkpoint(
    home: Home,
    session_name: str,
    path: Path,
    data: str,
    *,
    vocab: Literal["all", "train"] = "all",
    kind: str | None = None,
    name: str | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> tuple[Run, tuple[str, ...]]:
    """Make a finished train run of a checkpoint of PyTorch's example or of Distiller.

    Args:
        data: the corpus that the model was trained on, as `open_corpus` takes it.
        kind: see `import_model`.

    Returns:
        The run, and lines that say what was taken over and what was left behind.

    Raises:
        LmbenchError: the file cannot be read, or the corpus has another number of types.
    """
    imported = import_model(path, kind)
    model = imported.model
    corpus = open_corpus(data, home.path, vocab=vocab, progress=progress)
    if corpus.ntokens != model.ntoken:
        raise LmbenchError(
            f"{path}: the model knows {model.ntoken:,} types, corpus {corpus.name} has "
            f"{corpus.ntokens:,}: give the corpus that it was trained on with --data"
            + (", or try --vocab train" if vocab == "all" else "")
        )
    shape = shape_of(model)
    settings = {key: value for key, value in shape.items() if key != "ntoken"}
    config = validate(TrainConfig, {**settings, "data": data, "vocab": vocab})
    session = home.open_session(session_name)
    session.write_vocabulary(corpus.fingerprint, corpus.vocabulary)
    session.runs_path.mkdir(parents=True, exist_ok=True)
    with unnamed_folder(session.runs_path) as scratch:
        written = scratch / "best"
        write_checkpoint(written, model, {"imported": path.name})
        run = session.new_run(
            config,
            "train",
            name=name or _name(path),
            command=command,
            fill=_finish(model, corpus, path, imported.lines, written),
        )
    return run, imported.lines


def _name(path: Path) -> str | None:
    """What the run of a file is called: as it, but for its ending, which would mean the file."""
    stem = Path(path.name.removesuffix(".tar")).stem
    return None if run_name_problem(stem) else stem


def _finish(
    model: RNNModel,
    corpus: Corpus,
    path: Path,
    lines: tuple[str, ...],
    checkpoint: Path,
) -> Callable[[Run], None]:
    """What makes a new run's folder one of a finished run."""

    def fill(run: Run) -> None:
        checkpoint.rename(run.path / "best")
        event = sparsity_event(model, 0, 0)
        results = weight_results(model, run)
        if results["sparsity"]:
            results["packed_bytes"] = packed_bytes(model, corpus.vocabulary)
        writer = EventWriter(run.events_path)
        writer.write(event)
        writer.write(Finished(status="finished", seconds=0.0, results=results))
        writer.close()
        run.log_path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        now = time.time()
        text = corpus_record(corpus)
        ended = {"status": "finished", "started": now, "ended": now, "exit_code": 0}
        about = {"corpus": text, "shape": shape_of(model), "imported": str(path.resolve())}
        run.write(run.read().model_copy(update={**ended, **about, "results": results}))

    return fill
