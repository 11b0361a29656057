"""`lmbench score` on files, runs and standard input."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path

import pytest
from cli_world import answer
from scoring_world import loaded, packed, sentences

from lmbench.cli import run as lmbench
from lmbench.session import Home

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return packed(tmp_path / "model.lmpack", loaded(), weights="int8")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(sentences(30)) + "\n", encoding="utf-8")
    return path


def test_a_run_in_columns_scores_as_evaluate_says(home: Home, capsys: Capture) -> None:
    test = home.path / "data" / "tiny" / "test.txt"
    [expected] = answer(capsys, "evaluate", "1", "--threads", "1")
    found = answer(capsys, "score", "1", str(test), "--columns", "10", "--threads", "1")
    results = expected["results"]
    assert found["total"]["tokens"] == results["tokens"]
    assert found["total"]["ppl"] == pytest.approx(results["test_ppl"], rel=1e-6)
    assert found["runtime"] == results["runtime"]
    # Their words and characters are of the whole text, and not all of it was predicted.
    assert found["total"]["word_ppl"] is found["total"]["bits_per_character"] is None


def test_each_line_and_word_is_reported_in_either_base(
    home: Home, file: Path, text: Path, capsys: Capture
) -> None:
    natural = answer(capsys, "score", str(file), str(text), "--words")
    decimal = answer(capsys, "score", str(file), str(text), "--words", "--log10")
    assert (natural["base"], decimal["base"]) == ("e", "10")
    assert len(natural["lines"]) == 30
    for one, other in zip(natural["lines"], decimal["lines"], strict=True):
        assert other["log_prob"] == pytest.approx(one["log_prob"] / math.log(10))
        assert one["log_prob"] == pytest.approx(sum(word["log_prob"] for word in one["each"]))
        assert (
            one["ppl"] == other["ppl"] == pytest.approx(math.exp(-one["log_prob"] / one["tokens"]))
        )
        assert one["unknown"] == sum(word["unknown"] for word in one["each"])
        assert one["each"][-1]["word"] == "<eos>"
    assert natural["total"]["words"] == sum(line["words"] for line in natural["lines"])
    assert natural["total"]["unknown"] > 0
    assert natural["total"]["ppl"] != natural["total"]["known_ppl"]


def test_the_table_has_the_same_figures(
    home: Home, file: Path, text: Path, capsys: Capture
) -> None:
    expected = answer(capsys, "score", str(file), str(text))
    assert lmbench(["score", str(file), str(text)]) == 0
    head, *rows, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["log", "prob", "words", "unknown", "ppl", "ppl", "known", "text"]
    for row, line in zip(rows, expected["lines"], strict=True):
        assert row.split()[:3] == [
            f"{line['log_prob']:.4f}",
            str(line["words"]),
            str(line["unknown"]),
        ]
    assert last.endswith("in all")


@pytest.mark.parametrize("named", [[], ["-"]])
def test_standard_input_is_read_where_no_file_is_named(
    home: Home, file: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, named: list[str]
) -> None:
    class Input:
        buffer = io.BytesIO(b"the cat sat\n")

    monkeypatch.setattr(sys, "stdin", Input)
    assert lmbench(["score", str(file), *named, "--words"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[-1] for line in out.splitlines()[2:6]] == ["the", "cat", "sat", "<eos>"]


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["no such.txt"], "no such.txt: no such file; a sentence itself is scored by"),
        (["text.txt", "--carry", "--columns", "2"], "--carry, --columns: two ways to read a text"),
        (["text.txt", "--columns", "900"], "--columns 900"),
        (["empty.txt"], "empty.txt is empty"),
        (["text.txt", "--wrods"], "unknown option --wrods"),
        (["text.txt", "--runtime", "int3"], "runtime 'int3'"),
    ],
)
def test_what_cannot_be_scored_is_one_line(
    home: Home, file: Path, text: Path, capsys: Capture, arguments: list[str], complaint: str
) -> None:
    Path("empty.txt").touch()
    assert lmbench(["score", str(file), *arguments]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
