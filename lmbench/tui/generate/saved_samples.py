"""What a session's ``samples.jsonl`` holds: texts that were written before."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from lmbench.session import Session

__all__ = ["Sample", "last_sample"]

# Texts older than what stands in so many bytes at the file's end are not looked for.
_TAIL_BYTES = 1 << 20


@dataclass(frozen=True)
class Sample:
    """A text that a run wrote; `tokens_per_s` is None where it is not known."""

    prompt: str
    words: tuple[str, ...]
    tokens_per_s: float | None


def last_sample(session: Session, run: str) -> Sample | None:
    """The newest text of the run of this reference (``SESSION/003-prune``), or of the same folder
    of a session that had another name; None where there is none. Damaged lines are passed over.
    """
    folder = run.rpartition("/")[2]
    try:
        with session.samples_path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        sample = _parse(line, folder)
        if sample is not None:
            return sample
    return None


def _parse(line: bytes, folder: str) -> Sample | None:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    run, prompt, text = (document.get(name) for name in ("run", "prompt", "text"))
    rate = document.get("tokens_per_s")
    if not (isinstance(run, str) and isinstance(prompt, str) and isinstance(text, str)):
        return None
    if run.rpartition("/")[2] != folder or not text.split():
        return None
    words = tuple(text.split())
    if not isinstance(rate, int | float) or not 0 < rate < math.inf:
        return Sample(prompt, words, None)
    return Sample(prompt, words, float(rate))
