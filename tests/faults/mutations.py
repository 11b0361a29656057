"""Damage to files: of their bytes, and of what their bytes say, so that checks behind the parser
are reached, too."""

from __future__ import annotations

import hashlib
import io
import json
import random
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import yaml

Mutation = Callable[[random.Random, bytes], bytes]

DEEP: Any = []
for _ in range(300):
    DEEP = [DEEP]

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, 1e308, -0.0),
    *(float("nan"), float("inf"), float("-inf"), "", " ", "x", "nan", "9" * 5000, "/etc/passwd"),
    *("../../x", "\x1b[31mred\x07", "\x9b1m", "a\u202eb", "\ud800", "line\nbreak", "=1+1"),
    *([], {}, [None], ["x"], [1, 2], {"x": 1}, {"": None}, DEEP),
)
"""Values that no field expects, and some that only look right."""


def damage_bytes(random: random.Random, data: bytes) -> bytes:
    """Bytes flipped, cut out, doubled, inserted, or cut off."""
    content = bytearray(data)
    at = random.randrange(len(content) + 1)
    length = random.choice((1, 2, 8, 64, len(content) // 4 + 1))
    match random.randrange(7):
        case 0:
            for _ in range(random.randrange(1, 9)):
                if content:
                    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
        case 1:
            del content[at:]
        case 2:
            del content[at : at + length]
        case 3:
            content[at:at] = content[at : at + length]
        case 4:
            content[at:at] = random.randbytes(length)
        case 5:
            content[at : at + length] = bytes(len(content[at : at + length]))
        case _:
            content[at:at] = random.choice((b"\xff\xfe", b"\x1b[2J", b"[" * 5000, b"\0", b"\n\n"))
    return bytes(content)


def damage_value(random: random.Random, document: Any) -> Any:
    """The document with one value, key or entry of it changed."""
    if not isinstance(document, dict | list) or not document or random.random() < 0.05:
        return random.choice(ODD)
    places = range(len(document)) if isinstance(document, list) else list(document)
    place = random.choice(places)
    copy: Any = document.copy()
    if isinstance(document[place], dict | list) and document[place] and random.random() < 0.7:
        copy[place] = damage_value(random, document[place])
        return copy
    match random.randrange(8):
        case 0:
            del copy[place]
        case 1 if isinstance(copy, dict):
            copy[str(random.choice(ODD))] = copy.pop(place)
        case 1:
            copy.append(copy[place])
        case 2 if isinstance(copy[place], int | float):
            copy[place] = random.choice((-copy[place], copy[place] * 1000, str(copy[place])))
        case _:
            copy[place] = random.choice(ODD)
    return copy


def _json(document: Any) -> bytes:
    return json.dumps(document).encode()


def damage_json(random: random.Random, data: bytes) -> bytes:
    return _json(damage_value(random, json.loads(data)))


def damage_json_lines(random: random.Random, data: bytes) -> bytes:
    lines = data.splitlines()
    at = random.randrange(len(lines))
    match random.randrange(6):
        case 0:
            lines[at] = lines[random.randrange(len(lines))]
        case 1:
            del lines[at]
        case _:
            lines[at] = damage_json(random, lines[at])
    return b"\n".join(lines) + b"\n"


def damage_yaml(random: random.Random, data: bytes) -> bytes:
    if random.random() < 0.1:
        return random.choice(
            (
                b"a: &a [*a, *a]\n",
                b"&a [x, x]\n" + b"".join(b"- [*a, *a]\n" for _ in range(9)),
                "name: \xe9\n".encode("latin-1"),
                b"date: 2020-13-45\n",
                b"when: 2020-02-30T99:00:00Z\n",
                b"{" * 4000,
                b"x: !!python/object/apply:os.system ['true']\n",
                b"1" * 6000,
                b"? {a: 1}\n: 2\n",
                b"a: 1\na: 2\n",
            )
        )
    document = damage_value(random, yaml.safe_load(data))
    return yaml.safe_dump(document, allow_unicode=False).encode("utf-8", "surrogatepass")


def damage_safetensors(random: random.Random, data: bytes) -> bytes:
    """A header with one value changed, before the same content."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = _json(damage_value(random, json.loads(data[8:end])))
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def damage_zip(members: Callable[[str], Mutation | None]) -> Mutation:
    """A zip with one of its members damaged by the mutation that fits its name, or renamed."""

    def damage(random: random.Random, data: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            contents = {info.filename: archive.read(info) for info in archive.infolist()}
        name = random.choice(list(contents))
        mutation = members(name)
        if random.random() < 0.1:
            odd = random.choice(("../x", "/etc/x", "a\x1b[2Jb", name.upper(), "runs", "x/" * 400))
            contents[odd] = contents.pop(name)
        elif mutation is not None:
            contents[name] = mutation(random, contents[name])
        else:
            contents[name] = damage_bytes(random, contents[name])
        written = io.BytesIO()
        with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
            for filename, content in contents.items():
                archive.writestr(zipfile.ZipInfo(filename), content)
        return written.getvalue()

    return damage


def damage_packed(random: random.Random, data: bytes) -> bytes:
    """A packed file with another document, another index or other content, and a right checksum."""
    end = 8 + int.from_bytes(data[:8], "little")
    header, content = json.loads(data[8:end]), data[end:]
    about = header.pop("__metadata__")
    match random.randrange(3):
        case 0:
            document = damage_value(random, json.loads(about["document"]))
            about["document"] = json.dumps(document)
        case 1:
            header = damage_value(random, header)
            header = header if isinstance(header, dict) else {}
        case _:
            content = damage_bytes(random, content)
    stored = "0" * 64
    about["sha256"] = stored
    text = json.dumps({"__metadata__": about, **header}, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    found = len(text).to_bytes(8, "little") + text + content
    return found.replace(stored.encode(), hashlib.sha256(found).hexdigest().encode(), 1)


def damage_ids(random: random.Random, data: bytes) -> bytes:
    """A file of ids with another header or other content, and a right CRC."""
    found = bytearray(random.choice((damage_bytes, damage_safetensors))(random, data))
    end = 8 + int.from_bytes(found[:8], "little")
    place = found.find(b'"crc32": "', 8, end)
    if place > 0:
        found[place + 10 : place + 18] = f"{zlib.crc32(bytes(found[end:])):08x}".encode()
    return bytes(found)
