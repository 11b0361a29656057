"""N-best lists in every format, and what ranking them anew comes to. The lists are made."""

from __future__ import annotations

import math
import os
from pathlib import Path

import jiwer
import numpy as np
import pytest
from nbest_world import (
    made_list,
    unigram_model,
    write_espnet,
    write_json,
    write_kaldi,
    write_lines,
    write_references,
)
from scoring_world import WORDS, loaded

from lmbench.deploy.runtimes.table import build_runtime
from lmbench.errors import LmbenchError
from lmbench.scoring import LanguageModel
from lmbench.scoring.nbest import (
    Hypothesis,
    check_references,
    read_nbest,
    read_references,
)
from lmbench.scoring.predictor import RuntimePredictor
from lmbench.scoring.rescoring import Ranking, language_scores, tune


def language_model(source=None) -> LanguageModel:
    source = source or loaded()
    return LanguageModel(
        RuntimePredictor(build_runtime("torch", source)), source.vocabulary, "tiny", "torch"
    )


def test_half_a_surrogate_pair_is_read_as_what_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text('{"id": "a", "score": 1, "text": "hi \\ud83d there"}\n')
    [one] = read_nbest(path)["a"]
    assert one.words == ("hi", "?", "there")


def test_a_list_may_come_through_a_pipe(tmp_path: Path) -> None:
    nbest, _ = made_list(20, 3)
    source, sink = os.pipe()
    os.write(sink, write_lines(tmp_path / "list.txt", nbest).read_bytes())
    os.close(sink)
    assert list(read_nbest(Path(f"/dev/fd/{source}"))) == list(nbest)
    os.close(source)


@pytest.mark.parametrize("form", ["lines", "kaldi", "espnet", "json", "json of lists"])
def test_every_format_reads_as_the_same_list(tmp_path: Path, form: str) -> None:
    nbest, _ = made_list(20, 3)
    match form:
        case "lines":
            path = write_lines(tmp_path / "list.txt", nbest)
        case "kaldi":
            path = write_kaldi(tmp_path / "list", nbest)
        case "espnet":
            path = write_espnet(tmp_path / "list", nbest)
        case _:
            path = write_json(tmp_path / "list.jsonl", nbest, nested=form != "json")
    found = read_nbest(path)
    assert list(found) == list(nbest)
    for utterance, hypotheses in nbest.items():
        assert [one.words for one in found[utterance]] == [one.words for one in hypotheses]
        scores = [one.score for one in hypotheses]
        assert [one.score for one in found[utterance]] == pytest.approx(scores, abs=1e-9)


def test_a_hypothesis_without_words_is_one(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a -1.5\na -2 the cat\n")
    assert read_nbest(tmp_path / "list.txt") == {
        "a": [Hypothesis(-1.5, ()), Hypothesis(-2.0, ("the", "cat"))]
    }


@pytest.mark.parametrize(
    "name, content, complaint",
    [
        ("list.txt", b"", "is empty: it must hold hypotheses"),
        ("list.txt", b"a -1 b\nc\n", "line 2 has no score"),
        ("list.txt", b"a cat\n", "line 1: the score 'cat' is no number"),
        ("list.txt", b"a nan cat\n", "line 1: the score 'nan' is no number"),
        ("list.txt", b"a -1 caf\xe9\n", "is not UTF-8: line 1"),
        ("list.jsonl", b"{\n", "line 1 is no JSON"),
        ("list.jsonl", b"[]\n", "line 1 is no JSON object"),
        ("list.jsonl", b'{"id": "a", "text": "b"}\n', "line 1: 'score' is missing or not a number"),
        ("list.jsonl", b'{"id": 1, "score": 2, "text": ""}\n', "'id' is missing or not a text"),
        ("list.jsonl", b'{"id": "a", "nbest": []}\n', "line 1: 'nbest' of 'a' is empty"),
        ("list.jsonl", b'{"id": "a", "nbest": [3]}\n', "'score' is missing or not a number"),
    ],
)
def test_what_is_no_list_is_one_line(
    tmp_path: Path, name: str, content: bytes, complaint: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LmbenchError, match=complaint):
        read_nbest(tmp_path / name)


def test_a_folder_with_unequal_ids_says_which_file_lacks_what(tmp_path: Path) -> None:
    nbest, _ = made_list(5, 3)
    kaldi, espnet = write_kaldi(tmp_path / "k", nbest), write_espnet(tmp_path / "e", nbest)
    lines = (kaldi / "acwt").read_text().splitlines()
    (kaldi / "acwt").write_text("\n".join(lines[1:]) + "\n")
    with pytest.raises(LmbenchError, match=r"acwt lacks 'utt000-1', which its neighbour has"):
        read_nbest(kaldi)
    with (espnet / "2best_recog" / "score").open("a") as file:
        file.write("utt999 -3\n")
    with pytest.raises(LmbenchError, match=r"2best_recog/text lacks 'utt999'"):
        read_nbest(espnet)
    with pytest.raises(LmbenchError, match="holds no n-best list: it needs words_text"):
        read_nbest(tmp_path)
    (kaldi / "words_text").write_text("utt one\n")
    (kaldi / "acwt").write_text("utt 1\n")
    (kaldi / "lmwt.nolm").unlink()
    with pytest.raises(LmbenchError, match="line 1: 'utt' is no utterance-id and -N"):
        read_nbest(kaldi)


@pytest.mark.parametrize("name", ["words_text", "acwt"])
def test_an_id_that_a_file_has_twice_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_kaldi(tmp_path / "k", made_list(2, 3)[0])
    with (folder / name).open("a") as file:
        file.write("utt000-1 99\n")
    with pytest.raises(LmbenchError, match=rf"{name}: line 13: 'utt000-1' is there twice \(line 1"):
        read_nbest(folder)


def test_references_must_be_of_the_same_utterances(tmp_path: Path) -> None:
    nbest, references = made_list(6, 3)
    path = write_references(tmp_path / "refs", references)
    assert read_references(path) == references
    fewer = {name: words for name, words in references.items() if name > "utt003"}
    with pytest.raises(LmbenchError, match=r"refs: no reference for 'utt000', .* and 1 more"):
        check_references(nbest, fewer, Path("list"), path)
    with pytest.raises(LmbenchError, match="list: no hypotheses for 'utt9'"):
        check_references(nbest, {**references, "utt9": ("a",)}, Path("list"), path)
    path.write_text("a b\na c\n")
    with pytest.raises(LmbenchError, match="utterance 'a' is there twice"):
        read_references(path)


def test_errors_are_those_of_jiwer_over_the_whole_choice() -> None:
    nbest, references = made_list(30, 4)
    ranking = Ranking(nbest, references)
    chosen = ranking.best(ranking.acoustic)
    texts = ranking.texts(chosen)
    said = [" ".join(words) for words in references.values()]
    expected = jiwer.process_words(said, list(texts.values()))
    errors = ranking.errors(chosen)
    assert errors.rate == pytest.approx(expected.wer)
    assert errors.substitutions == expected.substitutions
    assert errors.words == sum(map(len, references.values()))
    assert ranking.oracle().rate == 0  # each list holds what was said


def test_the_total_is_score_and_weighted_log_probability_and_penalty() -> None:
    lm = language_model()
    nbest = {"a": [Hypothesis(-1.0, ("the", "cat")), Hypothesis(-2.0, ("mat",))]}
    ranking = Ranking(nbest)
    language, _ = language_scores(lm, nbest)
    expected = [lm.score("the cat").total.log_prob, lm.score("mat").total.log_prob]
    np.testing.assert_allclose(language, expected, rtol=1e-6)
    total = ranking.total(language, 0.5, -0.25)
    np.testing.assert_allclose(
        total, [-1 + 0.5 * expected[0] - 0.5, -2 + 0.5 * expected[1] - 0.25], rtol=1e-6
    )
    assert ranking.texts(ranking.best(np.array([1.0, 1.0]))) == {"a": "the cat"}


def test_without_unk_an_unknown_word_counts_as_one_drawn_evenly() -> None:
    words = [word for word in WORDS if word != "<unk>"]
    lm = language_model(loaded(words=words))
    [both, without], _ = language_scores(
        lm, {"a": [Hypothesis(0, ("the", "zebra")), Hypothesis(0, ("the",))]}
    )
    assert both == pytest.approx(without - math.log(len(words)))


def test_tuning_takes_the_fewest_errors_and_then_the_smallest_weight() -> None:
    nbest, references = made_list(60, 5)
    ranking = Ranking(nbest, references)
    text = [list(words) for words in references.values()]
    language, _ = language_scores(language_model(unigram_model(text)), nbest)
    tuned = tune(ranking, language, (0.0, 0.3, 0.6, 1.0), (0.0, 5.0))
    rates = {(t.weight, t.penalty): t.errors.rate for t in tuned.trials}
    assert len(rates) == 8
    assert tuned.best.errors.rate == min(rates.values()) < 0.9 * rates[0.0, 0.0]
    even = tune(ranking, np.zeros(len(language)), (1.0, 0.5), (0.0,))
    assert even.best.weight == 0.5
