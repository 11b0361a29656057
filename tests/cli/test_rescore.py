"""`lmbench rescore` on a made list: tuned on one half, judged on the other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cli_world import answer
from nbest_world import made_list, real_sentences, unigram_model, write_lines, write_references
from scoring_world import packed

from lmbench.cli import run as lmbench
from lmbench.session import Home

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def lists(home: Home, tmp_path: Path) -> list[str]:
    """Arguments: a list to rank, one to tune on, their references, dense and compressed models."""
    for name, seed in (("test", 11), ("dev", 12)):
        nbest, references = made_list(50, seed)
        write_lines(tmp_path / f"{name}.txt", nbest)
        write_references(tmp_path / f"{name}.ref", references)
    source = unigram_model(real_sentences())
    models = [packed(tmp_path / f"{w}.lmpack", source, weights=w) for w in ("fp32", "int8")]
    dev = ["--dev", "dev.txt", "--dev-references", "dev.ref"]
    return ["rescore", "test.txt", "--references", "test.ref", *dev, "--models", *map(str, models)]


def test_ranking_anew_lowers_the_error_rate_of_the_made_list(
    lists: list[str], capsys: Capture
) -> None:
    document = answer(capsys, *lists)
    assert (document["utterances"], document["hypotheses"]) == (50, 300)
    assert document["best_possible"]["wer"] == 0
    dense, small = document["models"]
    assert [dense["model"], small["model"]] == ["fp32.lmpack", "int8.lmpack"]
    for model in (dense, small):
        assert model["errors"]["wer"] < 0.9 * document["own"]["wer"]
        best = min(model["grid"], key=lambda one: one["wer"])
        assert best["wer"] == next(
            one["wer"]
            for one in model["grid"]
            if (one["weight"], one["penalty"]) == (model["weight"], model["penalty"])
        )
        assert len(model["grid"]) == 77
        assert model["seconds"] > 0
    assert dense["errors"] == small["errors"]  # frequencies lie in the bias, which stays in fp32


def test_the_grid_is_in_plain_view(lists: list[str], capsys: Capture) -> None:
    capsys.readouterr()
    assert lmbench([*lists, "--weight", "0", "0.5", "--penalty", "-1", "0"]) == 0
    out = capsys.readouterr().out
    assert "fp32.lmpack: word error rate in % on dev.txt" in out
    assert "penalty -1" in out
    assert out.count("* ") == 2
    assert "the list's own scores" in out
    assert "the best choice there is" in out


def test_a_weight_and_a_penalty_of_ones_own_need_no_dev_list(
    lists: list[str], capsys: Capture
) -> None:
    model = lists[-1]
    given = ["rescore", "test.txt", "--models", model, "--weight", "0", "--penalty", "0"]
    document = answer(capsys, *given, "--output", "best.txt")
    [one] = document["models"]
    assert one["errors"] is one["grid"] is document["own"] is None
    lines = Path("best.txt").read_text(encoding="utf-8").splitlines()
    assert {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1] for line in lines} == one["texts"]
    assert lmbench([*given, "--output", "best.txt"]) == 2
    assert "--output best.txt: is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changed, complaint",
    [
        (["--references", "dev.ref"], None),
        (["--references", "no.ref"], "--references no.ref: no such file"),
        (["--dev", "no.txt"], "no.txt: no such file or folder"),
        (["--dev", "short.txt"], "short.txt: no hypotheses for 'utt001'"),
        (["--output", "x"], "--output: the texts of one model"),
        (["--models", "no.lmpack"], "no.lmpack: there is no such run or file"),
    ],
)
def test_lists_that_do_not_fit_are_one_line(
    lists: list[str], capsys: Capture, changed: list[str], complaint: str | None
) -> None:
    Path("short.txt").write_text("utt000 -1 a b\n", encoding="utf-8")
    if complaint is None:
        text = Path("dev.ref").read_text(encoding="utf-8").replace("utt000 ", "other ")
        Path("dev.ref").write_text(text, encoding="utf-8")
        complaint = "dev.ref: no reference for 'utt000'"
    arguments = list(lists)
    place = arguments.index(changed[0]) if changed[0] in arguments else None
    if place is None:
        arguments += changed
    else:
        arguments[place : place + (3 if changed[0] == "--models" else 2)] = changed
    capsys.readouterr()
    assert lmbench(arguments) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def test_without_jiwer_a_line_says_how_to_install_it(
    lists: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    assert lmbench(lists) == 2
    assert "need jiwer, which is not installed: pip install" in capsys.readouterr().err


def test_tuning_needs_a_list_with_references(lists: list[str], capsys: Capture) -> None:
    model = lists[-1]
    assert lmbench(["rescore", "test.txt", "--models", model]) == 2
    assert "weight and penalty are tuned on a list with references" in capsys.readouterr().err
    assert lmbench(["rescore", "test.txt"]) == 2
    assert "--models: name one run or packed file" in capsys.readouterr().err
