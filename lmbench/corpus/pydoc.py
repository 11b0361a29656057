"""The embedded corpus: the English in the Python installation itself. No torch here.

Documents are the topics of ``pydoc_data`` and the modules of the standard library, each the
docstrings of one source file. The sources are parsed, never imported. No sentence stands twice in
the corpus, so that none of test was seen in train. Whole documents go to train, valid or test, and
then words that train holds fewer than three times become ``<unk>`` everywhere, which makes a few
sentences alike.

The text is the same wherever the standard library's files are the same; it differs between
versions of Python, so a run records the fingerprint of what it was trained on.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lmbench.corpus.files import Progress, is_writable, publish, scratch_folder, user_cache
from lmbench.corpus.ids import SPLITS, UNK, content_hash
from lmbench.corpus.prose import sentences
from lmbench.corpus.sources import LAYOUTS, PYDOC, data_folder
from lmbench.errors import LmbenchError

__all__ = ["origin", "pydoc_folder"]

FORMAT = 1
"""Raised when another text is made of the same sources."""

RAREST = 3
"""Occurrences in train that a word needs to be in the vocabulary."""

_SHARE = 0.10
_LARGEST = 0.02
_TOPICS = "pydoc_data/topics.py"
_ABOUT = "about.json"
# Tests and the packages of third parties are no documentation; the others differ from one
# installation of a version to the next.
_NOT_WALKED = frozenset(
    ("site-packages", "dist-packages", "test", "tests", "idle_test", "lib-dynload", "__pycache__")
)
_NOT_READ = ("_sysconfigdata", "sitecustomize", "usercustomize", "_distutils_system_mod")

Sentence = list[str]


@dataclass(frozen=True)
class Document:
    """A topic or a module, as sentences."""

    name: str
    sentences: tuple[Sentence, ...]

    @property
    def size(self) -> int:
        """Tokens, the ends of lines among them."""
        return sum(len(sentence) + 1 for sentence in self.sentences)


def origin() -> str:
    """Where the text comes from, in words."""
    return f"the documentation inside Python {platform.python_version()}"


def pydoc_folder(home: Path, progress: Progress | None = None) -> Path:
    """The folder with the corpus as train.txt, valid.txt and test.txt, made if it is not there.

    It lies in the working folder's data, or in the user's cache folder where that cannot be
    written. Making it takes a few seconds; afterwards it is only checked.

    Raises LmbenchError when the installation has no sources of the standard library.
    """
    library = Path(sysconfig.get_path("stdlib"))
    sources = dict(_walk(library, ""))
    if not sources:
        raise LmbenchError(
            f"pydoc needs the sources of Python's standard library, and {library} has none: "
            "give another corpus with --data"
        )
    name = f"{platform.python_version()}-{_key(sources)}"
    folders = [data_folder(home) / PYDOC / name, user_cache() / PYDOC / name]
    for folder in folders:
        if _is_whole(folder):
            return folder
    sizes = {name: found.st_size for name, found in sources.items()}
    texts = _texts(_documents(library, sizes, progress))
    for folder in folders:
        if is_writable(folder.parent):
            try:
                _write(folder, texts)
            except OSError:
                # A disk that is full or mounted read-only shows only here; the next may do.
                continue
            return folder
    raise LmbenchError(
        f"pydoc can be put neither into {folders[0].parent} nor into {folders[1].parent}: "
        "set LMBENCH_HOME to a folder that can be written"
    )


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    """The library's source files by their path with forward slashes, in order of name."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir():
            if entry.name not in _NOT_WALKED and not entry.name.startswith("config-"):
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/")
        elif entry.name.endswith(".py") and not entry.name.startswith(_NOT_READ):
            yield f"{prefix}{entry.name}", entry.stat()


def _key(sources: Mapping[str, os.stat_result]) -> str:
    """Changes whenever the text may change: the format, the version, a file's size or time."""
    state = [
        [FORMAT, RAREST, platform.python_version()],
        *([name, found.st_size, found.st_mtime_ns] for name, found in sources.items()),
    ]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:12]


def _documents(
    library: Path, sizes: Mapping[str, int], progress: Progress | None
) -> Iterator[tuple[str, list[Sentence]]]:
    done = 0
    total = sum(sizes.values())
    for name, size in sizes.items():
        done += size
        if progress:
            progress("reading the standard library", done, total)
        try:
            with warnings.catch_warnings():
                # Invalid escapes in old modules are not the reader's concern.
                warnings.simplefilter("ignore")
                tree = ast.parse((library / name).read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue  # unreadable, or templates and samples that are not Python
        if name == _TOPICS:
            for topic, text in _topics(tree):
                yield f"topic {topic}", list(sentences(text))
        else:
            found = [one for text in _docstrings(tree) for one in sentences(text)]
            yield f"module {name}", found


def _topics(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The entries of the one dictionary in ``pydoc_data.topics``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
                    yield str(key.value), str(value.value)


def _docstrings(tree: ast.Module) -> Iterator[str]:
    """The docstrings of a module, its classes and functions, in the order of the source."""
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text
        stack.extend(
            child
            for child in reversed(list(ast.iter_child_nodes(node)))
            if isinstance(child, ast.stmt)
        )


def _texts(found: Iterator[tuple[str, list[Sentence]]]) -> dict[str, str]:
    """The text of each split, from the documents in any order."""
    documents = _without_repeats(dict(found))
    splits = _split(documents)
    counts = Counter(
        word for document in splits["train"] for line in document.sentences for word in line
    )
    return {
        split: "".join(
            " ".join(word if counts[word] >= RAREST else UNK for word in line) + "\n"
            for document in splits[split]
            for line in document.sentences
        )
        for split in SPLITS
    }


def _without_repeats(found: Mapping[str, list[Sentence]]) -> list[Document]:
    """The documents in order of name, each sentence only in the longest one that has it.

    Topics contain one another, and modules share phrases: without this, much of test would
    stand in train as well.
    """
    seen: set[tuple[str, ...]] = set()
    kept: dict[str, tuple[Sentence, ...]] = {}
    for name in sorted(found, key=lambda one: (-len(found[one]), one)):
        lines: list[Sentence] = []
        for line in found[name]:
            sentence = tuple(line)
            if sentence not in seen:
                seen.add(sentence)
                lines.append(line)
        kept[name] = tuple(lines)
    return [Document(name, kept[name]) for name in sorted(kept) if kept[name]]


def _split(documents: list[Document]) -> dict[str, list[Document]]:
    """Whole documents to valid and test until each has a tenth of the tokens; the rest to train.

    The order in which they are considered comes from a hash of their names, so it is the same
    everywhere and no relation of their content. A document that alone would be a large part of
    valid or test stays in train.
    """
    total = sum(document.size for document in documents)
    sizes = {"valid": 0, "test": 0}
    where: dict[str, str] = {}
    for document in sorted(documents, key=lambda one: hashlib.sha256(one.name.encode()).digest()):
        smaller = "valid" if sizes["valid"] <= sizes["test"] else "test"
        if document.size <= _LARGEST * total and sizes[smaller] + document.size <= _SHARE * total:
            where[document.name] = smaller
            sizes[smaller] += document.size
    return {
        split: [one for one in documents if where.get(one.name, "train") == split]
        for split in SPLITS
    }


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    with scratch_folder(folder.parent) as scratch:
        built = scratch / folder.name
        built.mkdir()
        hashes: dict[str, str] = {}
        for split, text in texts.items():
            path = built / LAYOUTS[0].format(split)
            path.write_bytes(text.encode())
            hashes[path.name] = content_hash(path)
        about = {"origin": origin(), "sha256": hashes}
        (built / _ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        publish(built, folder, _is_whole)


def _is_whole(folder: Path) -> bool:
    """Whether the folder holds what was once written there, byte for byte."""
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        hashes = {path: content_hash(folder / path) for path in about["sha256"]}
        return hashes == about["sha256"] and len(hashes) == len(SPLITS)
    except (OSError, ValueError, KeyError, TypeError):
        return False
