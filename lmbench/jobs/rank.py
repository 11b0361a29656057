"""One of the processes that train a model together: ``python -m lmbench.jobs.rank``.

Started by `lmbench.jobs.launch_ranks` in the worker of the run, and ended with it. Rank 0 writes
the run's events, results and checkpoints; the others write nothing but an error on stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmbench.errors import LmbenchError
from lmbench.jobs.end_with_parent import end_with_parent
from lmbench.jobs.job import Job
from lmbench.session.events import Event
from lmbench.session.store import Run, RunRecord

__all__ = ["SilentJob", "main"]


class SilentJob(Job):
    """The job of a rank that leaves all writing to rank 0."""

    def emit(self, event: Event) -> None:
        """Rank 0 emits it."""

    def warn(self, message: str) -> None:
        """Rank 0 warns."""

    def update(self, **changes: Any) -> RunRecord:
        return self.record


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lmbench.jobs.rank", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="folder of a run at work")
    parser.add_argument("attempt", type=Path, metavar="ATTEMPT_DIR", help="the worker's attempt")
    parser.add_argument("--resuming", action="store_true", help="go on from its checkpoint")
    options = parser.parse_args(arguments)
    end_with_parent(os.getppid())
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    try:
        # Rank 0 writes as the worker's attempt does, and is fenced off with it.
        _work(Run(options.run, options.attempt), resuming=options.resuming)
    except Exception as error:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)
        if not isinstance(error, LmbenchError):
            traceback.print_exc()
        # Not by the interpreter's own end, which might wait for a rank that is gone.
        sys.stderr.flush()
        os._exit(1)
    return 0


def _work(run: Run, *, resuming: bool) -> None:
    from lmbench.jobs.kinds import train
    from lmbench.training.ranks import Ranks

    ranks = Ranks(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    make = Job if ranks.first else SilentJob
    job = make(run, run.read(), run.config(), resuming=resuming)
    with contextlib.ExitStack() as stack:
        stack.callback(job.close)
        if not ranks.first:
            nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        train.work(job, ranks)


if __name__ == "__main__":
    sys.exit(main())
