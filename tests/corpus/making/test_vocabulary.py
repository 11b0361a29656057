"""Words are counted exactly while they are few, and nearly where there are too many."""

from __future__ import annotations

from collections import Counter

from lmbench.corpus.making.vocabulary import WordCounts


def test_the_most_frequent_words_in_an_order_that_is_always_the_same() -> None:
    counts = WordCounts()
    counts.add(["b", "a", "c", "a", "b", "d"])
    assert list(counts.most_frequent(1, 3)) == ["a", "b", "c"]
    assert counts.most_frequent(2, None) == {"a": 2, "b": 2}
    assert counts.missed == 0
    counts.add(["<unk>", "<unk>", "<unk>", "<eos>", "<eos>", "<eos>"])
    assert list(counts.most_frequent(1, 3)) == ["a", "b", "c"]


def test_no_more_words_are_held_than_asked_and_counts_are_off_by_what_is_said() -> None:
    counts = WordCounts(most=100)
    true: Counter[str] = Counter()
    for round_ in range(200):
        words = [f"often{n}" for n in range(20)] + [f"rare{round_}-{n}" for n in range(10)]
        counts.add(words)
        true.update(words)
        assert len(counts) <= 100
    found = counts.most_frequent(1, 20)
    assert sorted(found) == sorted(f"often{n}" for n in range(20))
    assert counts.missed > 0
    assert all(true[word] - counts.missed <= count <= true[word] for word, count in found.items())
