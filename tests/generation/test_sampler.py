"""A text as it grows: seeds, prompts, alternatives, going back."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lmbench.config import GenerateConfig
from lmbench.deploy.load_model import LoadedModel
from lmbench.deploy.runtimes.table import build_runtime
from lmbench.errors import LmbenchError
from lmbench.generation.sampler import Sampler, Word, read_prompt
from lmbench.generation.sampling import Sampling
from lmbench.generation.text import generate, lines
from lmbench.model.rnn import RNNModel

WORDS = ["<unk>", "<eos>", *(f"word{i}" for i in range(58))]


def tiny(kind: str = "LSTM") -> LoadedModel:
    torch.manual_seed(3)
    model = RNNModel(kind, len(WORDS), 12, 12, 2, 0.2, True).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.mul_(6)  # predictions that differ from word to word
    shape = {"model": kind, "ntoken": len(WORDS), "tied": True}
    return LoadedModel(model, WORDS, shape, "tiny", Path())


def sampler(sampling: Sampling | None = None, seed: int = 5) -> Sampler:
    loaded = tiny()
    return Sampler(build_runtime("torch", loaded), loaded.vocabulary, sampling, seed=seed)


def text(of: Sampler, count: int = 30) -> list[str]:
    return [word.text for word in of.words(count)]


def test_the_same_seed_writes_the_same_text_and_another_writes_another() -> None:
    assert text(sampler(seed=5)) == text(sampler(seed=5))
    assert text(sampler(seed=5)) != text(sampler(seed=6))


def test_what_was_read_beforehand_changes_no_word_and_leaves_one_step_for_the_next() -> None:
    late, early = sampler(), sampler()
    for one in (late, early):
        one.read([7, 8, 9])
    early.catch_up()
    steps: list[torch.Tensor] = []
    step = early.runtime.step

    def counted(ids: torch.Tensor, state: Any) -> Any:
        steps.append(ids)
        return step(ids, state)

    early.runtime.step = counted  # type: ignore[method-assign]
    first = early.next()
    assert [int(ids) for ids in steps] == [9]
    assert [first.text, *text(early, 20)] == text(late, 21)


def test_torchs_own_generator_neither_decides_nor_is_moved() -> None:
    before = torch.get_rng_state()
    first = text(sampler())
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    assert text(sampler()) == first


def test_each_word_is_drawn_from_what_the_module_itself_predicts() -> None:
    loaded = tiny()
    writer = Sampler(build_runtime("torch", loaded), WORDS, Sampling(temperature=1.3), seed=1)
    prompt = [7, 8, 9]
    writer.read(prompt)
    written = list(writer.words(12, alternatives=len(WORDS)))
    ids = torch.tensor([*prompt, *(word.id for word in written)]).view(-1, 1)
    logits, _ = loaded.recurrent(ids, loaded.recurrent.init_hidden(1))
    for word, row in zip(written, logits[len(prompt) - 1 :, 0], strict=False):
        # As the original: exp(logits / temperature), drawn from in proportion.
        weights = row.div(1.3).exp()
        after = weights / weights.sum()
        assert word.probability == pytest.approx(float(after[word.id]), rel=1e-4)
        assert word.surprisal_bits == pytest.approx(
            -math.log2(float(row.softmax(0)[word.id])), rel=1e-4
        )
        for other in word.alternatives:
            assert other.before == pytest.approx(float(row.softmax(0)[other.id]), abs=1e-6)
            assert other.after == pytest.approx(float(after[other.id]), abs=1e-6)


def test_alternatives_are_the_likeliest_words_and_all_of_them_sum_to_one() -> None:
    writer = sampler(Sampling(top_k=10, temperature=0.7))
    for word in writer.words(5, alternatives=len(WORDS)):
        before = [other.before for other in word.alternatives]
        assert before == sorted(before, reverse=True)
        assert sum(before) == pytest.approx(1, abs=1e-5)
        assert sum(other.after for other in word.alternatives) == pytest.approx(1, abs=1e-5)
        assert sum(other.after > 0 for other in word.alternatives) == 10
    few = writer.next(alternatives=3).alternatives
    assert len(few) == 3
    assert sum(other.before for other in few) < 1


def test_going_back_writes_the_same_words_again_and_a_new_seed_begins_a_branch() -> None:
    writer = sampler()
    text(writer, 10)
    place = writer.snapshot()
    first = text(writer)
    writer.restore(place)
    assert text(writer) == first
    writer.restore(place, seed=77)
    assert text(writer) != first


def test_a_word_the_user_takes_is_read_like_any_other() -> None:
    writer = sampler()
    text(writer, 4)
    place = writer.snapshot()
    drawn = writer.next()
    after = text(writer)
    writer.restore(place)
    taken = writer.take(drawn.id)
    assert taken == drawn
    writer.restore(place)
    writer.next()
    assert text(writer) == after


def test_a_word_the_settings_rule_out_can_be_taken_and_shows_probability_zero() -> None:
    writer = sampler(Sampling(temperature=0))
    place = writer.snapshot()
    likeliest = writer.next().id
    writer.restore(place)
    taken = writer.take((likeliest + 1) % len(WORDS))
    assert taken.probability == 0
    assert taken.surprisal_bits > 0


def test_greedy_text_does_not_depend_on_the_seed_after_a_prompt() -> None:
    texts = []
    for seed in (1, 2):
        writer = sampler(Sampling(temperature=0), seed)
        writer.read([4])
        texts.append(text(writer))
    assert texts[0] == texts[1]


def test_no_unk_never_writes_unk() -> None:
    plain = sampler(Sampling(temperature=3))
    assert "<unk>" in text(plain, 400)
    without = Sampling.of(GenerateConfig(temperature=3, no_unk=True), WORDS)
    assert "<unk>" not in text(sampler(without), 400)


def test_an_empty_prompt_begins_after_a_word_of_chance_that_is_not_written() -> None:
    config = GenerateConfig(words=6, seed=11, temperature=0)
    generation = generate(tiny(), config)
    assert len(generation.words) == 6
    assert generation.unknown == ()
    assert generation.text == generate(tiny(), config).text


def test_unknown_words_of_a_prompt_become_unk_and_are_reported_once() -> None:
    prompt = read_prompt("word3 zebra word4 zebra giraffe", WORDS)
    assert prompt.ids == (5, 0, 6, 0, 0)
    assert prompt.unknown == ("zebra", "giraffe")


def test_unk_itself_is_refused_where_pieces_have_none() -> None:
    pieces = ("<eos>", "▁the", "▁cat", *"▁thecat")
    assert read_prompt("the cat", pieces).ids
    with pytest.raises(LmbenchError, match="prompt word '<unk>' is not in"):
        read_prompt("the <unk> cat", pieces)


def test_the_lines_of_a_prompt_are_joined_by_eos_as_in_a_corpus() -> None:
    assert read_prompt("word0 word1\nword2\n", WORDS).ids == (2, 3, 1, 4)


def test_a_prompt_has_ends_of_lines_where_a_corpus_has_them() -> None:
    text = "word0\u2028word1\x0bword2\x85word3\r\nword4\rword5"
    assert read_prompt(text, WORDS).ids == (2, 3, 4, 5, 1, 6, 1, 7)


def test_a_prompt_that_is_not_utf8_is_refused_before_anything_is_written() -> None:
    with pytest.raises(LmbenchError, match="--prompt is not UTF-8"):
        read_prompt("word0 \udcff", WORDS)


def test_of_pieces_the_word_that_holds_an_unknown_byte_is_named() -> None:
    pieces = ["<eos>", "▁the", "▁", "c", "a", "f"]
    with pytest.raises(LmbenchError, match="prompt word 'café' is not in"):
        read_prompt("the café", pieces)
    found = read_prompt("the café <unk> café", [*pieces, "<unk>"])
    assert found.unknown == ("café",)
    assert found.ids == (1, 2, 3, 4, 5, 6, 6, 6, 2, 3, 4, 5, 6, 6)


def test_a_text_of_pieces_is_joined_whichever_of_them_it_has() -> None:
    source = replace(tiny(), vocabulary=["<unk>", "<eos>", "▁the", "e", "r", *WORDS[5:]])
    generation = generate(source, GenerateConfig(words=1))
    written = tuple(Word(id, source.vocabulary[id], 1.0, 1.0) for id in (3, 4))
    assert replace(generation, words=written).text == "er"


def test_an_unknown_word_without_unk_to_stand_for_it_is_an_error() -> None:
    with pytest.raises(LmbenchError, match="'zebra'"):
        read_prompt("zebra", WORDS[1:])


def test_a_vocabulary_of_another_model_is_refused() -> None:
    with pytest.raises(LmbenchError, match="do not belong together"):
        Sampler(build_runtime("torch", tiny()), WORDS[:-1])


def test_weights_without_a_vocabulary_say_what_to_name_in_their_place() -> None:
    with pytest.raises(LmbenchError, match="no vocabulary"):
        Sampler(build_runtime("torch", tiny()), [])


def test_lines_hold_twenty_words_as_the_original_writes_them() -> None:
    written = lines(str(i) for i in range(41))
    assert written.split("\n") == [
        " ".join(str(i) for i in range(20)),
        " ".join(str(i) for i in range(20, 40)),
        "40 ",
    ]


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN_TANH", "RNN_RELU"])
def test_every_kind_of_cell_writes_what_its_module_predicts(kind: str) -> None:
    loaded = tiny(kind)
    texts = [
        [w.text for w in Sampler(build_runtime(name, loaded), WORDS, seed=4).words(20)]
        for name in ("naive", "torch")
    ]
    assert texts[0] == texts[1]
