"""How large a corpus is. Numbering the words of one that is used for the first time takes seconds
of computing, which a thread would take from the screen: it is done by a process of its own,
``python -m lmbench.tui.new_run.corpus_size HOME VOCAB DATA``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from lmbench.corpus.corpus import default_corpus, open_corpus
from lmbench.corpus.ids import VocabularyRule
from lmbench.corpus.sources import REGISTRY, data_folder, has_part_of_corpus
from lmbench.errors import LmbenchError
from lmbench.session.process import python
from lmbench.session.store import Home

__all__ = ["CorpusSize", "size_of"]

# Types, tokens of train and of valid, of corpora that are known by name but are not here yet.
_PUBLISHED = {
    "wikitext-2": (33_278, 2_088_628, 217_646),
    "wikitext-103": (267_735, 103_227_021, 217_646),
}


@dataclass(frozen=True)
class CorpusSize:
    """How large a corpus is; `missing` says that it has to be fetched first."""

    name: str
    types: int
    train: int
    valid: int
    missing: bool = False


async def size_of(data: str | None, vocab: VocabularyRule, home: Home) -> CorpusSize:
    """The size of the corpus that ``--data`` names. Fetches nothing.

    Raises:
        LmbenchError: there is no such corpus, or it is damaged.
    """
    name = data or default_corpus(home.path)
    if name in REGISTRY and not has_part_of_corpus(data_folder(home.path) / name):
        return CorpusSize(name, *_PUBLISHED[name], missing=True)
    process = await asyncio.create_subprocess_exec(
        *python("lmbench.tui.new_run.corpus_size", str(home.path), vocab, name),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        raise
    try:
        document = json.loads(output)
    except ValueError:
        raise LmbenchError(f"corpus {name}: it cannot be looked at") from None
    if "error" in document:
        raise LmbenchError(document["error"])
    return CorpusSize(**document)


def main(arguments: list[str]) -> None:
    """Print the size as JSON; what is wrong with the corpus, as ``{"error": …}``."""
    home, vocab, data = arguments
    rule: VocabularyRule = "train" if vocab == "train" else "all"
    try:
        corpus = open_corpus(data, Path(home), vocab=rule, may_fetch=False)
    except LmbenchError as error:
        print(json.dumps({"error": error.message}))
        return
    counts = corpus.counts
    size = CorpusSize(corpus.name, corpus.ntokens, counts["train"], counts["valid"])
    print(json.dumps(asdict(size)))


if __name__ == "__main__":
    main(sys.argv[1:])
