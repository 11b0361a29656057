"""Log probabilities of texts: by hand, by stepping, in batches and as running text."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from places import REPOSITORY
from scoring_world import WORDS, loaded, packed, sentences

from lmbench.corpus import open_corpus
from lmbench.corpus.batches import batchify
from lmbench.deploy.runtimes.table import build_runtime
from lmbench.errors import LmbenchError
from lmbench.scoring import LanguageModel, LineScore
from lmbench.scoring import score as module
from lmbench.scoring.lines import Line, Words, lines_of
from lmbench.scoring.predictor import RuntimePredictor
from lmbench.scoring.score import Score, score_columns, score_running, score_sentences


class Unigrams:
    """A model that gives each word the same probability wherever it stands."""

    def __init__(self, probabilities: Iterable[float]) -> None:
        self._losses = -np.log(np.array(list(probabilities)))

    def initial_state(self, batch: int = 1) -> None:
        return None

    def step(self, ids, state):
        return np.tile(-self._losses.astype(np.float32), (len(ids), 1)), state

    def losses(self, windows, state):
        return (self._losses[targets] for _, targets in windows)


def model(kind: str = "LSTM", runtime: str = "torch") -> LanguageModel:
    built = build_runtime(runtime, loaded(kind))
    return LanguageModel(RuntimePredictor(built), WORDS, "tiny", runtime)


def by_stepping(lm: LanguageModel, text: str) -> list[float]:
    """Each word's log probability, and the end's, from a stream of its own."""
    stream = lm.stream()
    return [*stream.read(text), stream.end()]


def totals(scores: Iterable[LineScore]) -> Score:
    return sum((score.total for score in scores), Score())


def test_log10_sums_of_three_sentences_are_those_worked_out_by_hand() -> None:
    """P(<eos>) = 1/10, P(<unk>) = 1/100, P(a) = 1/2, P(b) = 1/1000: sums of their exponents."""
    words = ["<eos>", "<unk>", "a", "b"]
    lm = LanguageModel(Unigrams([0.1, 0.01, 0.5, 0.001]), words, "by hand", "none")
    expected = {
        "b b": (-7.0, -7.0, 3, 0),  # -3 - 3 - 1
        "b zebra": (-6.0, -4.0, 3, 1),  # -3 - 2 - 1; without the unknown word -3 - 1
        "a a b <unk>": (2 * math.log10(0.5) - 6, 2 * math.log10(0.5) - 4, 5, 1),
    }
    for text, (log10, known, tokens, unknown) in expected.items():
        score = lm.score(text).total
        assert score.log_prob / math.log(10) == pytest.approx(log10, abs=1e-12)
        assert score.known_log_prob / math.log(10) == pytest.approx(known, abs=1e-12)
        assert (score.tokens, score.unknown) == (tokens, unknown)
        assert score.perplexity == pytest.approx(10 ** (-log10 / tokens))
        assert score.known_perplexity == pytest.approx(10 ** (-known / (tokens - unknown)))


def test_without_unk_an_unknown_word_has_no_probability_and_is_not_read() -> None:
    words = [word for word in WORDS if word != "<unk>"]
    built = build_runtime("torch", loaded(words=words))
    lm = LanguageModel(RuntimePredictor(built), words, "tiny", "torch")
    [with_it, without] = lm.score_lines(["the zebra sat", "the sat"])
    assert with_it.log_probs[1] == -math.inf
    np.testing.assert_allclose(np.delete(with_it.log_probs, 1), without.log_probs)
    total = with_it.total
    assert (total.log_prob, total.perplexity, total.unknown) == (-math.inf, math.inf, 1)
    assert total.known_log_prob == pytest.approx(without.total.log_prob)
    assert lm.stream().read("the zebra sat")[1] == -math.inf


@pytest.mark.parametrize("runtime", ["naive", "torch", "onnx", "fp16"])
def test_sentences_in_batches_have_the_probabilities_of_each_stepped_alone(runtime: str) -> None:
    lm = model(runtime=runtime)
    texts = sentences(80)
    scores = list(lm.score_lines(texts))
    assert [score.line.words for score in scores] == [tuple(text.split()) for text in texts]
    close = 5e-3 if runtime == "fp16" else 1e-4
    for text, score in zip(texts[:12], scores, strict=False):
        np.testing.assert_allclose(score.log_probs, by_stepping(lm, text), atol=close)


def test_a_long_text_gives_the_same_in_however_many_windows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm, texts = model(), [" ".join(sentences(60)), *sentences(9)]
    whole = [score.log_probs for score in lm.score_lines(texts)]
    carried = [score.log_probs for score in lm.score_lines(texts, carry=True)]
    monkeypatch.setattr(module, "_WINDOW", 7)
    monkeypatch.setattr(module, "_AHEAD", 20)
    monkeypatch.setattr(module, "_SENTENCES", 3)
    for mode, expected in ((False, whole), (True, carried)):
        again = [score.log_probs for score in lm.score_lines(texts, carry=mode)]
        assert len(again) == len(expected)
        for one, other in zip(again, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_long_line_does_not_fill_up_the_short_ones() -> None:
    scored: list[int] = []

    class Counting(Unigrams):
        def losses(self, windows, state):
            for _, targets in windows:
                scored.append(len(targets))
                yield self._losses[targets]

    words = ["<eos>", "<unk>", "a", "b"]
    lm = LanguageModel(Counting([0.1, 0.01, 0.5, 0.001]), words, "counted", "none")
    texts = [*["a b a"] * 20, "b", *["a"] * 3, " ".join(["a b"] * 1500)]
    tokens = sum(score.total.tokens for score in lm.score_lines(texts))
    assert tokens <= sum(scored) < 1.1 * tokens


def test_running_text_is_read_on_from_line_to_line() -> None:
    lm, texts = model(), sentences(20)
    stream = lm.stream()
    for text, score in zip(texts, lm.score_lines(texts, carry=True), strict=True):
        np.testing.assert_allclose(score.log_probs, [*stream.read(text), stream.end()], atol=1e-4)
    apart = totals(lm.score_lines(texts)).log_prob
    assert apart != pytest.approx(totals(lm.score_lines(texts, carry=True)).log_prob, rel=1e-3)


@pytest.mark.parametrize("columns", [1, 4, 10])
def test_columns_score_what_evaluate_scores(tmp_path: Path, columns: int) -> None:
    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    known = [line.replace("unheard-of", "<unk>") for line in sentences(150, 3)]
    for split in ("train", "valid", "test"):
        (folder / f"{split}.txt").write_text("\n".join([" ".join(WORDS[1:]), *known]))
    corpus = open_corpus("tiny", tmp_path)
    source = loaded(words=corpus.vocabulary)
    runtime = build_runtime("torch", source)
    expected = runtime.evaluate(batchify(corpus.split("test"), columns), 35)
    words = Words(corpus.vocabulary, "tiny")
    with (folder / "test.txt").open("rb") as file:
        lines = lines_of(file, "test.txt", words)
        found = totals(score_columns(RuntimePredictor(runtime), words, lines, columns))
    assert found.tokens == expected.tokens
    assert -found.log_prob / found.tokens == pytest.approx(expected.loss, rel=1e-6)


def test_a_page_of_ours_in_columns_scores_as_evaluate_does() -> None:
    """On real text, with a vocabulary that lacks most of its words."""
    page = (REPOSITORY / "docs" / "pruning.md").read_text(encoding="utf-8")
    text = "\n".join(line for line in page.splitlines() if line)
    vocabulary = ["<eos>", "<unk>", *sorted(set(text.split()))[::3]]
    words, source = Words(vocabulary, "pruning.md"), loaded(words=vocabulary)
    ids = np.concatenate([np.append(words.ids(t.split()), words.eos) for t in text.split("\n")])
    runtime = build_runtime("torch", source)
    expected = runtime.evaluate(batchify(ids, 10), 35)
    lines = lines_of(io.BytesIO(text.encode()), "page", words)
    found = totals(score_columns(RuntimePredictor(runtime), words, lines, 10))
    assert found.tokens == expected.tokens
    assert -found.log_prob == pytest.approx(expected.nll, rel=1e-6)
    assert 0 < found.known_tokens < found.tokens


def test_an_unknown_word_among_what_fills_no_row_is_not_predicted() -> None:
    lm = LanguageModel(Unigrams([0.1, 0.5, 0.001]), ["<eos>", "a", "b"], "by hand", "none")
    texts = [["a", "b"] * 3, ["a", "b"]]

    def score(lines: list[list[str]]) -> Score:
        lines_in_ids = [lm.words.line(line) for line in lines]
        return totals(score_columns(lm.predictor, lm.words, lines_in_ids, 4))

    known = score(texts)
    behind = score([texts[0], [*texts[1], "zzz"]])
    assert (behind.tokens, behind.log_prob) == (known.tokens, known.log_prob)
    assert behind.unknown == 1
    assert score([["zzz", *texts[0]], texts[1]]).log_prob == -math.inf


def test_too_little_text_for_the_columns_is_refused() -> None:
    lm = model()
    with pytest.raises(LmbenchError, match="--columns 10: 3 tokens do not fill two rows"):
        list(score_columns(lm.predictor, lm.words, [lm.words.line(["the", "cat"])], 10))


def test_a_model_that_predicts_no_numbers_is_refused_however_it_is_asked() -> None:
    words = ["<eos>", "<unk>", "a", "b"]
    predictor = Unigrams([0.1, math.nan, 0.5, math.nan])
    lm = LanguageModel(predictor, words, "diverged", "none")
    line = lm.words.line(["a", "b", "a", "a"])
    ways = (
        lambda: lm.score("a b"),
        lambda: list(lm.score_lines(["a", "a b"], carry=True)),
        lambda: list(score_columns(predictor, lm.words, [line], 1)),
        lambda: lm.next("a"),
    )
    for way in ways:
        with pytest.raises(LmbenchError, match="are not finite numbers: its weights are damaged"):
            way()


def read(text: bytes, words: Words | None = None, **settings: bool) -> list[Line]:
    return list(lines_of(io.BytesIO(text), "file.txt", words or Words(WORDS, "tiny"), **settings))


def test_lines_are_those_of_a_corpus_and_end_with_or_without_a_line_feed() -> None:
    lines = read("\ufeffthe\tcat \r\n\nsat".encode(), keep_words=True)
    assert [line.words for line in lines] == [("the", "cat"), (), ("sat",)]
    assert [line.ids.tolist() for line in lines] == [[2, 5], [], [7]]
    assert [line.beginning for line in lines] == ["the cat", "", "sat"]


def test_one_word_alone_is_a_text() -> None:
    lm = model()
    [score] = score_sentences(lm.predictor, lm.words, read(b"cat"))
    np.testing.assert_allclose(score.log_probs, by_stepping(lm, "cat"), atol=1e-5)
    [score] = score_running(lm.predictor, lm.words, read(b"cat"))
    np.testing.assert_allclose(score.log_probs, by_stepping(lm, "cat"), atol=1e-5)


@pytest.mark.parametrize(
    "text, complaint",
    [
        (b"", "file.txt is empty"),
        (b" \n\n", "file.txt is empty"),
        (b"\xef\xbb\xbf", "file.txt is empty"),
        (b"the cat\nthe \xe9t\xe9\n", "line 2, byte 5 of the line is 0xe9"),
        (b"the\0cat\n", "holds NUL bytes"),
        ("the cat".encode("utf-16"), "is not UTF-8: line 1, byte 1"),
        (b"x" * (3 << 20), "a word of more than 1,048,576 bytes: this is no text of words"),
    ],
    ids=[
        "empty",
        "blank",
        "byte order mark",
        "mixed encodings",
        "NUL",
        "UTF-16",
        "one endless word",
    ],
)
def test_what_is_no_text_is_one_clear_line(text: bytes, complaint: str) -> None:
    with pytest.raises(LmbenchError, match=complaint):
        read(text)


def test_a_line_of_megabytes_is_one_line() -> None:
    [line, last] = read(b"the cat sat " * 300_000 + b"\nmat")
    assert len(line.ids) == 900_000
    assert line.beginning == ("the cat sat " * 10)[:60]
    assert last.ids.tolist() == [6]


@pytest.mark.parametrize("words, complaint", [([], "no vocabulary"), (["a"], "has no <eos>")])
def test_a_model_without_the_words_for_it_says_so(words: list[str], complaint: str) -> None:
    with pytest.raises(LmbenchError, match=complaint):
        Words(words, "weights.safetensors")


def test_a_perplexity_that_overflows_is_infinite_and_one_of_nothing_is_no_number() -> None:
    assert Score(tokens=1, log_prob=-1e4).perplexity == math.inf
    assert math.isnan(Score().perplexity)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN_TANH", "RNN_RELU"])
@pytest.mark.parametrize("tied, projection", [(True, False), (True, True), (False, False)])
def test_numpy_predicts_as_torch_does(
    tmp_path: Path, kind: str, tied: bool, projection: bool
) -> None:
    source = loaded(kind, tied=tied, projection=projection)
    lm = LanguageModel.load(packed(tmp_path / "model.lmpack", source, weights="fp32"))
    assert lm.runtime == "numpy"
    exact = LanguageModel(RuntimePredictor(build_runtime("naive", source)), WORDS, "tiny", "naive")
    texts = sentences(12)
    for one, other in zip(lm.score_lines(texts), exact.score_lines(texts), strict=True):
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-4)
    np.testing.assert_allclose(by_stepping(lm, texts[0]), by_stepping(exact, texts[0]), atol=1e-4)
    assert torch.is_grad_enabled()
