"""From text to ids, and the file that keeps them. No torch here.

The rules are those of the original word-language-model example: a line's words are what
``str.split()`` makes of it, ``<eos>`` follows each line, lines end where Python's text mode ends
them, and a word's id is its rank in order of first appearance over train, valid, test.

The file is a safetensors file, so that anything can read it: the ids of each split in the smallest
unsigned type that fits, and ``vocabulary``, the words in order of id, joined by newlines, as
UTF-8. Its metadata hold the fingerprint of what it was made from and a CRC-32 of all tensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, repeat
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from lmbench.corpus.files import Progress, scratch_folder, sync
from lmbench.errors import LmbenchError

__all__ = [
    "EOS",
    "FORMAT",
    "SPLITS",
    "UNK",
    "Ids",
    "VocabularyRule",
    "content_hash",
    "decoded_pieces",
    "encode",
    "fingerprint_of",
    "read_ids",
    "write_ids",
]

SPLITS = ("train", "valid", "test")
EOS = "<eos>"
UNK = "<unk>"
FORMAT = 1
"""Raised when the file's layout changes, so that older files are built anew."""

VocabularyRule = Literal["all", "train"]

# Small enough for the words of a piece to stay in the processor's cache between the splitting and
# the numbering: 4 MB takes half as long again.
_CHUNK = 1 << 15
# A longer line is read in pieces cut at blanks, and a longer word is none.
_LONG_LINE = 1 << 20
_HEADER = 4096
_DTYPES = {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32}


@dataclass(frozen=True)
class Ids:
    """The ids of each split, one-dimensional, and the words in order of id."""

    splits: Mapping[str, np.ndarray]
    vocabulary: list[str]


def content_hash(path: Path) -> str:
    """SHA-256 of the file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_of(hashes: Mapping[str, str], rule: VocabularyRule) -> str:
    """What makes two corpora the same: the bytes of their splits and the vocabulary's rule.

    Neither the folder nor the names of the files enter. 64 hexadecimal digits.
    """
    settings = {"vocabulary": rule, "splits": [hashes[split] for split in SPLITS]}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def encode(
    files: Mapping[str, Path],
    hashes: Mapping[str, str],
    rule: VocabularyRule,
    progress: Progress | None = None,
) -> Ids:
    """Read the three splits and number their words.

    ``rule`` "all" numbers the words of all splits; "train" numbers those of train and makes
    ``<unk>`` of every other word, appending ``<unk>`` to the vocabulary where train has none and
    it is needed. Files are read in small pieces; memory peaks at eight bytes a token of train.

    Raises LmbenchError for an empty file, for bytes that are not UTF-8 (naming file, line and
    byte), and when a file no longer has the content of ``hashes``.
    """
    numbering: defaultdict[str, int] = defaultdict(count().__next__)
    pieces: dict[str, list[np.ndarray]] = {}
    for split in SPLITS:
        closed = rule == "train" and split != "train"
        pieces[split] = list(_numbered(files[split], hashes[split], numbering, closed, progress))
    if UNK not in numbering and any(
        len(piece) and int(piece.max()) == len(numbering)
        for parts in pieces.values()
        for piece in parts
    ):
        numbering[UNK] = len(numbering)
    dtype = np.min_scalar_type(len(numbering) - 1)
    splits = {split: np.concatenate(pieces.pop(split), dtype=dtype) for split in SPLITS}
    return Ids(splits, list(numbering))


def _numbered(
    path: Path,
    expected_hash: str,
    numbering: defaultdict[str, int],
    closed: bool,
    progress: Progress | None,
) -> Iterator[np.ndarray]:
    """The ids of one file, piece by piece. A closed numbering takes in no new word."""
    size = path.stat().st_size
    digest = hashlib.sha256()
    known = dict(numbering)
    unknown = known.get(UNK, len(known))
    has_words = False
    done = 0
    with path.open("rb") as file:
        for raw, text in decoded_pieces(file, str(path)):
            digest.update(raw)
            done += len(raw)
            if done >= size and not text.endswith("\n"):
                text += "\n"
            words = text.replace("\n", f" {EOS} ").split()
            ids = map(known.get, words, repeat(unknown))
            if not closed:
                ids = map(numbering.__getitem__, words)
            yield np.fromiter(ids, np.uint32, len(words))
            has_words = has_words or not text.isspace()
            if progress:
                progress(f"reading {path.name}", done, size)
    if not has_words:
        raise LmbenchError(f"{path} is empty: it must hold words, separated by white space")
    if digest.hexdigest() != expected_hash:
        raise LmbenchError(f"{path} changed while it was being read; run the command again")


def decoded_pieces(file: BinaryIO, name: str) -> Iterator[tuple[bytes, str]]:
    """A text in small pieces: the bytes of each, and what they say, lines ended by ``\\n``.

    A piece ends with a line, or in a long line with a blank or a tab.

    Raises:
        LmbenchError: bytes that are not UTF-8 (with file, line and byte), or a word of more than
            a megabyte; names the text by `name`.
    """
    line, column, done = 1, 0, 0
    for raw in _pieces(file, name):
        text = _decode(name, raw, line, column, done)
        yield raw, text
        done += len(raw)
        feeds = text.count("\n")
        line += feeds
        column = len(text[text.rfind("\n") + 1 :].encode()) + (0 if feeds else column)


def _pieces(file: BinaryIO, name: str) -> Iterator[bytes]:
    """The file in pieces that end with a line feed, or in a long line with a blank or a tab.

    Cutting there parts no word, no character of several bytes, and no carriage return from its
    line feed. Raises LmbenchError for a word that is too long to be one.
    """
    held: list[bytes] = []
    given = 0
    while block := file.read(_CHUNK):
        lines, feed, tail = block.rpartition(b"\n")
        if feed:
            piece = b"".join((*held, lines, feed))
            held = [tail]
        else:
            held.append(block)
            if sum(map(len, held)) <= _LONG_LINE:
                continue
            line = b"".join(held)
            cut = max(line.rfind(b" "), line.rfind(b"\t")) + 1
            if not cut:
                raise LmbenchError(
                    f"{name}: from byte {given:,} on there is a word of more than "
                    f"{_LONG_LINE:,} bytes: this is no text of words"
                )
            piece, held = line[:cut], [line[cut:]]
        given += len(piece)
        yield piece
    if any(held):
        yield b"".join(held)


def _decode(name: str, raw: bytes, line: int, column: int, offset: int) -> str:
    """The text of a piece, lines ended by ``\\n``.

    It starts at ``offset`` of the file, ``column`` bytes after the beginning of ``line``.
    """
    try:
        return _universal_newlines(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        before = _universal_newlines(raw[: error.start].decode("utf-8"))
        _, feed, tail = before.rpartition("\n")
        in_line = len(tail.encode()) + (0 if feed else column) + 1
        raise LmbenchError(
            f"{name} is not UTF-8: line {line + before.count(chr(10))}, byte {in_line} of the line "
            f"is 0x{raw[error.start]:02x} (offset {offset + error.start} in the file); "
            "save the file as UTF-8"
        ) from None


def _universal_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def write_ids(path: Path, ids: Ids, fingerprint: str) -> None:
    """Write the ids file beside its place and put it there in one step.

    Raises OSError when the folder cannot be written.
    """
    with scratch_folder(path.parent) as scratch:
        temporary = scratch / path.name
        with temporary.open("wb") as file:
            _write(file, ids, fingerprint)
        sync(temporary)
        temporary.replace(path)


def _write(file: BinaryIO, ids: Ids, fingerprint: str) -> None:
    words = np.frombuffer("\n".join(ids.vocabulary).encode(), np.uint8)
    tensors: dict[str, np.ndarray] = {**ids.splits, "vocabulary": words}
    header: dict[str, Any] = {}
    offset = 0
    crc = 0
    for name, array in tensors.items():
        kind = f"U{array.dtype.itemsize * 8}"
        end = offset + array.nbytes
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
        crc = zlib.crc32(array.data, crc)
    header["__metadata__"] = {
        "format": str(FORMAT),
        "fingerprint": fingerprint,
        "crc32": f"{crc:08x}",
    }
    text = json.dumps(header).encode().ljust(_HEADER - 8)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for array in tensors.values():
        file.write(array.data)


def read_ids(path: Path, fingerprint: str) -> Ids | None:
    """Map the ids file into memory, or None where there is none that is whole and fits.

    Everything that will be used is checked: layout, sizes, the fingerprint, the CRC of the content
    and that each id is of a word, so that a truncated, altered or foreign file reads as None and is
    built anew.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        # One mapping for all: the file may be replaced by another process between two openings.
        mapped = np.memmap(path, np.uint8, mode="r")
        start = 8 + int.from_bytes(mapped[:8].tobytes(), "little")
        header = json.loads(mapped[8:start].tobytes())
        content = mapped[start:]
        wanted = {
            "format": str(FORMAT),
            "fingerprint": fingerprint,
            "crc32": f"{zlib.crc32(content.data):08x}",
        }
        if header["__metadata__"] == wanted:
            arrays = _arrays(header, content)
            words = arrays.pop("vocabulary").tobytes().decode("utf-8").split("\n")
            # What another user made up may have a right checksum and ids of no word.
            if all(len(ids) and int(ids.max()) < len(words) for ids in arrays.values()):
                return Ids(arrays, words)
    return None


def _arrays(header: Mapping[str, Any], content: np.ndarray) -> dict[str, np.ndarray]:
    """The tensors as views of ``content``, which they must cover without gap or overlap.

    Raises ValueError, KeyError or TypeError for a header that does not describe the content.
    """
    arrays: dict[str, np.ndarray] = {}
    end = 0
    for name in (*SPLITS, "vocabulary"):
        first, last = header[name]["data_offsets"]
        array = content[first:last].view(_DTYPES[header[name]["dtype"]])
        if first != end or list(array.shape) != header[name]["shape"]:
            raise ValueError(f"tensor {name} is not where the header puts it")
        arrays[name] = array
        end = last
    if end != content.size:
        raise ValueError("the tensors do not cover the content")
    return arrays
