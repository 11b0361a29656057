"""From files to documents, in blocks of bounded size. No torch here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lmbench.config.corpus_making import DataMakeConfig, DocumentsRule
from lmbench.corpus.ids import decoded_pieces
from lmbench.corpus.making.raw_files import HashedFile, RawFile, opened
from lmbench.errors import LmbenchError

__all__ = ["MANY_FILES", "Block", "read_blocks"]

MANY_FILES = 100
"""From here on a file is a document by itself, where nothing else is said."""

# A longer paragraph is cut at a line's end, so that neither memory nor a split depends on it.
_LONGEST_BLOCK = 1 << 13
# A longer line of text is read in pieces; a longer record is refused.
_LONGEST_LINE = 1 << 20
_LONGEST_RECORD = 1 << 26
_TITLE = re.compile(r"\s*= [^=].* =\s*")


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph of a document, or a part of one."""

    text: str
    """Lines joined by line feeds, none of them blank."""

    begins_document: bool


def read_blocks(
    raw: RawFile, file: HashedFile, config: DataMakeConfig, *, many: bool
) -> Iterator[Block]:
    """The blocks of a file in order.

    Args:
        file: `raw`, open; how much of it was read, it says.
        many: whether there are so many files that each is a document where `documents` is auto.

    Raises:
        LmbenchError: it is no text, or a record lacks the field; names file and place.
    """
    if raw.format == "parquet":
        yield from _of_records(_parquet(raw.path, config.field))
        return
    rule = "files" if config.documents == "auto" and many else config.documents
    with opened(raw, file) as content:
        if raw.format == "json lines":
            yield from _of_records(_json_lines(content, raw.path, config.field))
        else:
            yield from _of_text(_lines(content, raw.path), rule)


def _lines(content: BinaryIO, path: Path) -> Iterator[str]:
    """The lines of a text; one of more than a megabyte in pieces."""
    rest, offset = "", 0
    for raw, text in decoded_pieces(content, str(path)):
        if b"\0" in raw:
            raise LmbenchError(
                f"{path}: offset {offset + raw.index(0)} is a NUL byte: this is no text in UTF-8"
            )
        if not offset:
            text = text.removeprefix("\ufeff")
        offset += len(raw)
        *ended, rest = (rest + text).split("\n")
        yield from ended
        if len(rest) > _LONGEST_LINE:
            yield rest
            rest = ""
    if rest:
        yield rest


def _of_text(lines: Iterator[str], rule: DocumentsRule) -> Iterator[Block]:
    """Paragraphs, and where documents begin among them."""
    held: list[str] = []
    size, begins, is_first = 0, True, True
    for line in lines:
        is_blank = not line or line.isspace()
        if is_first and not is_blank:
            if rule == "auto":
                rule = "articles" if _TITLE.fullmatch(line) else "paragraphs"
            is_first = False
        is_title = rule == "articles" and _TITLE.fullmatch(line) is not None
        if held and (is_blank or is_title or rule == "lines" or size > _LONGEST_BLOCK):
            yield Block("\n".join(held), begins)
            held, size, begins = [], 0, rule in ("paragraphs", "lines")
        if not is_blank:
            begins = begins or is_title
            held.append(line)
            size += len(line)
    if held:
        yield Block("\n".join(held), begins)


def _of_records(texts: Iterator[str]) -> Iterator[Block]:
    """Each text is a document."""
    for text in texts:
        begins = True
        for block in _of_text(iter(text.splitlines()), "files"):
            yield Block(block.text, begins)
            begins = False


def _json_lines(content: BinaryIO, path: Path, field: str) -> Iterator[str]:
    number, offset = 0, 0
    while line := content.readline(_LONGEST_RECORD):
        number += 1
        if len(line) == _LONGEST_RECORD and not line.endswith(b"\n"):
            raise LmbenchError(
                f"{path}: line {number} (offset {offset}) is longer than {_LONGEST_RECORD:,} "
                "bytes: write a record of JSON a line"
            )
        if not line.isspace():
            yield _json_text(line, f"{path}: line {number}", offset, field)
        offset += len(line)


def _json_text(line: bytes, where: str, offset: int, field: str) -> str:
    try:
        record: Any = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise LmbenchError(
            f"{where} is not UTF-8: byte 0x{line[error.start]:02x} at offset "
            f"{offset + error.start}: save the file as UTF-8"
        ) from None
    except (ValueError, RecursionError) as error:
        raise LmbenchError(f"{where}: no JSON ({error}): write a record a line") from None
    if not isinstance(record, dict):
        raise LmbenchError(f"{where}: no JSON object: write a record a line, as {{{field!r}: …}}")
    return _field(record, where, field)


def _field(record: dict[str, Any], where: str, field: str) -> str:
    if field not in record:
        has = ", ".join(list(map(str, record))[:10]) or "nothing"
        raise LmbenchError(
            f"{where}: no field '{field}' (it has {has}): name the text's by --field"
        )
    value = record[field]
    if not isinstance(value, str):
        kind = type(value).__name__
        raise LmbenchError(
            f"{where}: field '{field}' is no text but {kind}: name another by --field"
        )
    # Half a surrogate pair, which JSON can escape, has no UTF-8.
    return value.encode("utf-8", "replace").decode("utf-8")


def _parquet(path: Path, field: str) -> Iterator[str]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError:
        raise LmbenchError(
            f"{path}: parquet needs pyarrow: pip install 'lmbench[parquet]'"
        ) from None
    try:
        with parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            schema = file.schema_arrow
            if field not in schema.names:
                has = ", ".join(schema.names[:10])
                raise LmbenchError(
                    f"{path}: no field '{field}' (it has {has}): name the text's by --field"
                )
            kind = schema.field(field).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise LmbenchError(
                    f"{path}: field '{field}' is no text but {kind}: name another by --field"
                )
            for batch in file.iter_batches(batch_size=256, columns=[field], use_threads=False):
                yield from (text.as_py() for text in batch.column(0) if text.is_valid)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        line = " ".join(str(error).split())
        raise LmbenchError(f"{path}: cannot be read as parquet ({line})") from None
