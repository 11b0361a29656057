"""A corpus of the user's own text: ``lmbench data make`` in a process of its own, so that neither
its computing nor its memory is the screen's."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from lmbench.corpus.sources import data_folder, known_names
from lmbench.errors import LmbenchError
from lmbench.session.process import python
from lmbench.session.store import Home

__all__ = ["make_corpus", "name_for", "path_of", "preview"]

_SENTENCES = 5


def path_of(text: str) -> Path:
    """The path that was typed, or dropped on the terminal: quoted, with escapes, or as a URL."""
    text = text.strip()
    if text.startswith("file://"):
        return Path(unquote(urlsplit(text).path))
    # These two take what no path can be for one at which nothing is.
    path = Path(os.path.expanduser(text))  # noqa: PTH111
    if not os.path.exists(path):  # noqa: PTH110
        try:
            words = shlex.split(text)
        except ValueError:
            return path
        if len(words) == 1:
            return Path(os.path.expanduser(words[0]))  # noqa: PTH111
    return path


def name_for(path: Path, home: Home) -> str:
    """A name for the corpus, the file's or folder's, by which ``--data`` finds nothing else yet."""
    stem = re.sub(r"[^\w-]+", "-", path.resolve().name.partition(".")[0]).strip("-") or "text"
    taken = known_names()
    names = (stem, *(f"{stem}-{number}" for number in range(2, 10_000)))
    places = (Path(), home.path, data_folder(home.path))
    return next(
        name for name in names if not (name in taken or any((p / name).exists() for p in places))
    )


async def preview(path: Path, home: Home) -> list[str]:
    """The first sentences of the text, their words apart.

    Raises:
        LmbenchError: the text cannot be read; as the command says it.
    """
    answer = await _data_make(home, "preview", str(path), "--preview", str(_SENTENCES))
    return [" ".join(words) for words in answer["sentences"]]


async def make_corpus(name: str, path: Path, home: Home) -> dict[str, Any]:
    """Make it; gives its card. Cancelled, it leaves nothing.

    Raises:
        LmbenchError: no corpus comes of it; as the command says it.
    """
    return await _data_make(home, name, str(path))


async def _data_make(home: Home, *arguments: str) -> Any:
    process = await asyncio.create_subprocess_exec(
        *python("lmbench", "data", "make", *arguments, "--json"),
        env={**os.environ, "LMBENCH_HOME": str(home.path)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await process.communicate()
    except asyncio.CancelledError:
        process.send_signal(signal.SIGINT)
        raise
    if process.returncode:
        line = errors.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise LmbenchError(line.removeprefix("lmbench: ") or "the command ended without a word")
    return json.loads(output)
