"""Where text comes from: the corpora known by name, and folders with three files. No torch here."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lmbench.corpus.files import put_back
from lmbench.corpus.ids import SPLITS
from lmbench.errors import LmbenchError
from lmbench.user_folder import expanded

__all__ = [
    "LAYOUTS",
    "PYDOC",
    "REGISTRY",
    "Archive",
    "PlainFiles",
    "Remote",
    "RemoteFile",
    "Source",
    "data_folder",
    "find_folder",
    "has_corpus",
    "has_part_of_corpus",
    "known_names",
    "local_names",
    "split_files",
]

PYDOC = "pydoc"

LAYOUTS: tuple[str, ...] = ("{}.txt", "wiki.{}.tokens", "ptb.{}.txt")
"""How the three files of a folder may be named, in order of preference."""


@dataclass(frozen=True)
class RemoteFile:
    """One file to fetch; ``checksum`` is written ``algorithm:hexadecimal``."""

    url: str
    checksum: str
    size: int | None = None
    """Bytes, where known: a server that compresses on the way gives another number."""


@dataclass(frozen=True)
class PlainFiles:
    """A source that serves each split as a file of its own."""

    host: str
    files: Mapping[str, RemoteFile]


@dataclass(frozen=True)
class Archive:
    """A source that serves one zip; its members are found by name, whatever folder they are in."""

    host: str
    file: RemoteFile
    members: Mapping[str, str]


Source = PlainFiles | Archive


@dataclass(frozen=True)
class Remote:
    """A corpus that can be fetched, from the first of its sources that answers."""

    name: str
    about: str
    sources: tuple[Source, ...]


def _example_file(name: str, sha256: str, size: int) -> RemoteFile:
    folder = "https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data"
    return RemoteFile(f"{folder}/wikitext-2/{name}", f"sha256:{sha256}", size)


_MEMBERS = {split: f"wiki.{split}.tokens" for split in SPLITS}

REGISTRY: Mapping[str, Remote] = {
    "wikitext-2": Remote(
        name="wikitext-2",
        about="2.1 million training tokens of Wikipedia (Merity et al. 2016, arXiv 1609.07843; "
        "CC BY-SA 3.0)",
        sources=(
            PlainFiles(
                host="raw.githubusercontent.com",
                files={
                    "train": _example_file(
                        "train.txt",
                        "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
                        10_797_148,
                    ),
                    "valid": _example_file(
                        "valid.txt",
                        "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
                        1_121_681,
                    ),
                    "test": _example_file(
                        "test.txt",
                        "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
                        1_256_449,
                    ),
                },
            ),
            Archive(
                host="wikitext.smerity.com",
                file=RemoteFile(
                    "https://wikitext.smerity.com/wikitext-2-v1.zip",
                    "md5:542ccefacc6c27f945fb54453812b3cd",
                    4_475_746,
                ),
                members=_MEMBERS,
            ),
        ),
    ),
    "wikitext-103": Remote(
        name="wikitext-103",
        about="103 million training tokens of Wikipedia, 267,735 types (Merity et al. 2016, "
        "arXiv 1609.07843; CC BY-SA 3.0)",
        sources=(
            Archive(
                host="wikitext.smerity.com",
                file=RemoteFile(
                    "https://wikitext.smerity.com/wikitext-103-v1.zip",
                    "md5:9ddaacaf6af0710eda8c456decff7832",
                ),
                members=_MEMBERS,
            ),
        ),
    ),
}


def data_folder(home: Path) -> Path:
    """The folder of corpora in a working folder."""
    return home / "data"


def known_names() -> list[str]:
    """The corpora that are known by name."""
    return [*REGISTRY, PYDOC]


def _present(folder: Path) -> tuple[str, list[str]]:
    """The layout that most of the folder's files follow, and the splits it has there."""
    found = {
        # In a folder that may not be looked at, `Path.is_file` would raise.
        layout: [split for split in SPLITS if os.path.isfile(folder / layout.format(split))]  # noqa: PTH113
        for layout in LAYOUTS
    }
    layout = max(LAYOUTS, key=lambda one: len(found[one]))
    return layout, found[layout]


def has_corpus(folder: Path) -> bool:
    """Whether the folder holds all three splits in one layout."""
    return len(_present(folder)[1]) == len(SPLITS)


def has_part_of_corpus(folder: Path) -> bool:
    """Whether the folder holds at least one split."""
    return bool(_present(folder)[1])


def split_files(folder: Path) -> dict[str, Path]:
    """The files of the three splits. Raises LmbenchError, naming those that are missing."""
    layout, splits = _present(folder)
    names = [layout.format(split) for split in SPLITS]
    if not splits:
        raise LmbenchError(
            f"{folder} holds no corpus: it needs {', '.join(names)} "
            f"(or {' / '.join(one.format('train') for one in LAYOUTS[1:])} and so on)"
        )
    if len(splits) < len(SPLITS):
        missing = [layout.format(split) for split in SPLITS if split not in splits]
        raise LmbenchError(
            f"corpus {folder} has no {' and no '.join(missing)}: put it beside "
            f"{' and '.join(layout.format(split) for split in splits)}"
        )
    return {split: folder / name for split, name in zip(SPLITS, names, strict=True)}


def find_folder(spec: str, home: Path) -> Path:
    """The folder that a path, or the name of a folder in the working folder's data, stands for.

    Raises LmbenchError when there is none, with what was probably meant.
    """
    asked = expanded(spec)
    if len(asked.parts) == 1 and not asked.is_absolute():
        put_back(data_folder(home) / asked)
    for folder in (asked, home / asked, data_folder(home) / asked):
        if folder.is_dir():
            return folder
        if folder.is_file():
            raise LmbenchError(
                f"corpus {spec} is a file: give the folder that holds "
                f"{', '.join(LAYOUTS[0].format(split) for split in SPLITS)}"
            )
    if asked.name in REGISTRY:
        raise LmbenchError(
            f"no corpus at {spec}: `--data {asked.name}` fetches it, "
            f"or put its three files into {asked}"
        )
    close = difflib.get_close_matches(spec, [*known_names(), *local_names(home)], n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    raise LmbenchError(
        f"no corpus {spec}: {meant}give a folder with "
        f"{', '.join(LAYOUTS[0].format(split) for split in SPLITS)}, "
        f"or one of {', '.join(known_names())}"
    )


def local_names(home: Path) -> list[str]:
    """The folders in the working folder's data that hold a corpus not known by name."""
    folder = data_folder(home)
    if not folder.is_dir():
        return []
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and entry.name not in known_names() and has_corpus(entry)
    )
