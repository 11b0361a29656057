"""Input that is no text, or of which no corpus comes, is refused in one line."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pytest
import zstandard

from lmbench.cli import run as lmbench

GOOD = "\n\n".join(f"The cat number {n} sits here on the mat." for n in range(60)).encode()
CASES: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.txt", b"", "a.txt is empty"),
    "blank": ("a.txt", b" \n\n", "there are no words in the text"),
    "binary": ("a.txt", GOOD[:700] + b"\0" + GOOD, "a.txt: offset 700 is a NUL byte"),
    "mixed encodings": (
        "a.txt",
        GOOD + b"\ncaf\xe9 au lait",
        f"byte 4 of the line is 0xe9 (offset {len(GOOD) + 4} in the file)",
    ),
    "UTF-16": ("a.txt", GOOD.decode().encode("utf-16"), "offset 0 in the file"),
    "a word without end": ("a.txt", b"x" * (3 << 20), "a word of more than 1,048,576 bytes"),
    "one word": ("a.txt", b"word \n\n" * 80, "train has one word only"),
    "one document": ("a.txt", b"The cat sat.", "no document is left for"),
    "only rare words": (
        "a.txt",
        b"\n\n".join(b"w%d v%d" % (n, n) for n in range(40)),
        "train has no word 3 times: lower --min-count",
    ),
    "cut gzip": ("a.txt.gz", gzip.compress(GOOD)[:-30], "a.txt.gz: cannot be decompressed"),
    "no gzip": ("a.gz", GOOD, "a.gz: cannot be decompressed"),
    "cut zstd": ("a.zst", zstandard.compress(GOOD)[:-30], "a.zst: cannot be decompressed"),
    "no zstd": ("a.zst", GOOD, "a.zst: cannot be decompressed"),
    "no field": ("a.jsonl", b'{"body": "x", "n": 1}', "line 1: no field 'text' (it has body, n)"),
    "no text": (
        "a.jsonl",
        b'{"text": "x"}\n{"text": 3}',
        "line 2: field 'text' is no text but int",
    ),
    "no JSON": ("a.jsonl", b'{"text": "x"}\n{"te', "line 2: no JSON"),
    "no record": ("a.json", b'["text"]', "line 1: no JSON object"),
    "JSON of Latin-1": ("a.jsonl", b'{"text": "x"}\n{"text": "\xe9"}', "0xe9 at offset 24"),
    "no parquet": ("a.parquet", GOOD, "a.parquet: cannot be read as parquet"),
    "no suffix of text": ("folder/a.png", GOOD, "the folder holds no text"),
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    monkeypatch.setenv("LMBENCH_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    return home


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert lmbench(["data", "make", "mine", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line(
    case: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, content, says = CASES[case]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    assert says in refusal(capsys, name.partition("/")[0])
    assert not (home / "data").exists() or not list((home / "data").iterdir())


def test_a_record_that_is_too_long_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lmbench.corpus.making.documents._LONGEST_RECORD", 1000)
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n' + json.dumps({"text": "x " * 1000}))
    assert "line 2 (offset 14) is longer than 1,000 bytes" in refusal(capsys, "a.jsonl")


def test_what_is_wrong_with_parquet_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    parquet.write_table(arrow.table({"body": ["x"], "n": [1]}), tmp_path / "a.parquet")
    assert "no field 'text' (it has body, n)" in refusal(capsys, "a.parquet")
    assert "field 'n' is no text but int64" in refusal(capsys, "a.parquet", "--field", "n")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'lmbench[parquet]'" in refusal(capsys, "a.parquet")


def test_files_that_are_not_there_or_not_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys) == "lmbench: mine: made of what? name files or folders after it"
    assert refusal(capsys, "gone.txt") == "lmbench: gone.txt: no such file or folder"
