"""Where text comes from: the corpora known by name, and folders with three files. No torch here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lmbench.corpus.ids import SPLITS
from lmbench.errors import LmbenchError

__all__ = [
    "LAYOUTS",
    "PYDOC",
    "REGISTRY",
    "Archive",
    "PlainFiles",
    "Remote",
    "Source",
    "data_folder",
    "find_folder",
    "has_corpus",
    "known_names",
    "split_files",
]

PYDOC = "pydoc"

LAYOUTS: tuple[str, ...] = ("{}.txt", "wiki.{}.tokens", "ptb.{}.txt")
"""How the three files of a folder may be named, in order of preference."""


@dataclass(frozen=True)
class PlainFiles:
    """A source that serves each split as a file of its own: {split: (address, SHA-256)}."""

    host: str
    files: Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Archive:
    """A source that serves one zip; ``checksum`` is written ``algorithm:hexadecimal``.

    The members are found by file name, whatever folder they are in.
    """

    host: str
    url: str
    checksum: str
    members: Mapping[str, str]


Source = PlainFiles | Archive


@dataclass(frozen=True)
class Remote:
    """A corpus that can be fetched, from the first of its sources that answers."""

    name: str
    about: str
    sources: tuple[Source, ...]


_EXAMPLE = (
    "https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2/"
)
_MEMBERS = {split: f"wiki.{split}.tokens" for split in SPLITS}

REGISTRY: Mapping[str, Remote] = {
    remote.name: remote
    for remote in (
        Remote(
            "wikitext-2",
            "2.1 million training tokens of Wikipedia (Merity et al. 2016, arXiv 1609.07843; "
            "CC BY-SA 3.0)",
            (
                PlainFiles(
                    "raw.githubusercontent.com",
                    {
                        "train": (
                            f"{_EXAMPLE}train.txt",
                            "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f",
                        ),
                        "valid": (
                            f"{_EXAMPLE}valid.txt",
                            "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
                        ),
                        "test": (
                            f"{_EXAMPLE}test.txt",
                            "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
                        ),
                    },
                ),
                Archive(
                    "wikitext.smerity.com",
                    "https://wikitext.smerity.com/wikitext-2-v1.zip",
                    "md5:542ccefacc6c27f945fb54453812b3cd",
                    _MEMBERS,
                ),
            ),
        ),
        Remote(
            "wikitext-103",
            "103 million training tokens of Wikipedia, 267,735 types (Merity et al. 2016, "
            "arXiv 1609.07843; CC BY-SA 3.0)",
            (
                Archive(
                    "wikitext.smerity.com",
                    "https://wikitext.smerity.com/wikitext-103-v1.zip",
                    "md5:9ddaacaf6af0710eda8c456decff7832",
                    _MEMBERS,
                ),
            ),
        ),
    )
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
        layout: [split for split in SPLITS if (folder / layout.format(split)).is_file()]
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
    asked = Path(spec).expanduser()
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
