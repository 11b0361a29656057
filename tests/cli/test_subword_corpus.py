"""A model of words and one of their pieces, of one text, compare in bits a character."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from cli_world import answer

from lmbench.cli import run as lmbench
from lmbench.corpus import data_info
from lmbench.session import Home

Capture = pytest.CaptureFixture[str]
STEMS = ["walk", "talk", "jump", "look", "play", "call", "turn", "work", "park", "paint"]
ENDS = ["", "s", "ed", "ing", "er", "ers"]
SMALL = ("--emsize", "16", "--nhid", "16", "--tied", "--epochs", "2", "--threads", "1")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    generator = random.Random(1)

    def sentence() -> str:
        stems = [generator.choice(STEMS) + generator.choice(ENDS) for _ in range(9)]
        return f"The {' '.join(stems)}, naïve."

    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"{sentence()} {sentence()}" for _ in range(600)))
    return path


def trained(capsys: Capture, text: Path, name: str, *options: str) -> dict[str, Any]:
    answer(capsys, "data", "make", name, str(text), "--documents", "paragraphs", *options)
    return answer(capsys, "train", "--data", name, *SMALL)


def test_words_and_pieces_compare(
    home: Home, text: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = trained(capsys, text, "words")
    pieces = trained(capsys, text, "pieces", "--tokenizer", "bpe:320")
    made = {name: data_info(name, home.path)["made"] for name in ("words", "pieces")}
    counts = {name: made[name]["splits"]["test"] for name in made}
    for key in ("words", "characters", "sentences"):
        assert counts["words"][key] == counts["pieces"][key]
    assert counts["pieces"]["pieces"] > counts["pieces"]["words"]
    assert (home.path / "data/pieces/tokenizer.json").is_file()

    for run, name in ((words, "words"), (pieces, "pieces")):
        results, counted = run["results"], counts[name]
        total = results["test_loss"] * (
            (counted["pieces"] or counted["words"]) + counted["sentences"]
        )
        bits = total / math.log(2) / counted["characters"]
        assert results["test_bits_per_character"] == pytest.approx(bits)
        ends = counted["words"] + counted["sentences"]
        assert results["test_word_ppl"] == pytest.approx(math.exp(total / ends))
    assert words["results"]["test_word_ppl"] == pytest.approx(words["results"]["test_ppl"])
    # A character costs both about the same; a token does not.
    ratio = (
        pieces["results"]["test_bits_per_character"] / words["results"]["test_bits_per_character"]
    )
    assert 0.6 < ratio < 1.6
    assert pieces["results"]["test_word_ppl"] > 1.5 * pieces["results"]["test_ppl"]

    [scored] = answer(capsys, "evaluate", str(pieces["id"]), "--threads", "1")
    same = pytest.approx(pieces["results"]["test_bits_per_character"], rel=1e-5)
    assert scored["results"]["test_bits_per_character"] == same
    [part] = answer(capsys, "evaluate", str(pieces["id"]), "--threads", "1", "--tokens", "500")
    assert "test_bits_per_character" not in part["results"]
    quantized = answer(capsys, "quantize", str(pieces["id"]), "--preset", "int8-best")
    packed = answer(capsys, "pack", str(pieces["id"]), "-o", "pieces.lmpack")
    for run in (quantized, packed):
        results = run["results"]
        total = results["test_loss"] * (counts["pieces"]["pieces"] + counts["pieces"]["sentences"])
        bits = total / math.log(2) / counts["pieces"]["characters"]
        assert results["test_bits_per_character"] == pytest.approx(bits)
    rows = answer(capsys, "compare", str(words["id"]), str(pieces["id"]))
    assert all(row["test_bits_per_character"] for row in rows)

    plain = tmp_path / "plain.txt"
    plain.write_text("The walker parked , naïve .\n" * 3, encoding="utf-8")
    scored = answer(capsys, "score", str(pieces["id"]), str(plain), "--words")["total"]
    assert (scored["words"], scored["unknown"]) == (18, 0)
    assert scored["tokens"] > 21
    assert scored["word_ppl"] == pytest.approx(math.exp(-scored["log_prob"] / 21))
    characters = 3 * len("The walker parked , naïve .\n")
    assert scored["bits_per_character"] == pytest.approx(
        -scored["log_prob"] / math.log(2) / characters
    )
    written(capsys, str(pieces["id"]), tmp_path)


def written(capsys: Capture, run: str, folder: Path) -> None:
    """Text of pieces is text of words, wherever it is written."""
    options = ("generate", run, "--words", "60", "--prompt", "The walker", "--seed", "3")
    document = answer(capsys, *options)
    assert "▁" not in document["text"]
    assert any(word["text"].startswith("▁") for word in document["words"])
    bits = sum(word["surprisal_bits"] for word in document["words"])
    assert len(document["text"].split()) < len(document["words"]) == 60
    assert document["bits_per_word"] == pytest.approx(bits / len(document["text"].split()))
    assert lmbench(list(options)) == 0
    captured = capsys.readouterr()
    assert captured.out.split() == document["text"].split()
    assert "60 pieces by" in captured.err
    assert f"{document['bits_per_word']:.2f} bits a word" in captured.err
    assert lmbench([*options, "--outf", str(folder / "out.txt")]) == 0
    assert (folder / "out.txt").read_text().split() == document["text"].split()
    assert json.dumps(document["unknown"]) == "[]"
