"""Sentences that another split has, nearly, are found; others are not."""

from __future__ import annotations

import random

from lmbench.corpus.making.near_duplicates import Fingerprints

WORDS = [f"w{number}" for number in range(500)]


def sentences(seed: int, count: int, length: int = 20) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=length)) for _ in range(count)]


def test_what_is_repeated_is_found_whatever_stands_beside_it() -> None:
    held_out = Fingerprints()
    seen = sentences(1, 50)
    held_out.add(seen)
    held_out.finish()
    new = sentences(2, 50)
    mixed = [one for pair in zip(seen, new, strict=True) for one in pair]
    assert held_out.repeated(mixed) == [True, False] * 50
    assert held_out.repeated(["short one"]) == [False]


def test_one_word_that_differs_hides_nothing() -> None:
    held_out = Fingerprints()
    seen = sentences(1, 30, length=30)
    held_out.add(seen)
    held_out.finish()
    changed = [" ".join(["other", *one.upper().split()[1:]]) for one in seen]
    assert all(held_out.repeated(changed))


def test_a_phrase_that_is_common_is_no_repetition() -> None:
    held_out = Fingerprints()
    phrase = "at the end of the year , the"
    held_out.add(
        [f"{one} {phrase} {other}" for one, other in zip(*[sentences(1, 9)] * 2, strict=True)]
    )
    held_out.finish()
    assert not any(held_out.repeated([f"{phrase} {one}" for one in sentences(3, 9)]))


def test_of_many_shingles_a_bounded_number_is_kept_and_copies_are_still_found() -> None:
    held_out = Fingerprints(most=2_000)
    seen = sentences(1, 1_000)
    for one in seen:
        held_out.add([one])
    held_out.finish()
    assert held_out.modulus >= 8
    assert len(held_out._kept) <= 1_000
    # A sentence of 13 shingles has none that is kept every fifth time or so.
    assert sum(held_out.repeated([one])[0] for one in seen) > 300
    assert sum(held_out.repeated([one])[0] for one in sentences(2, 1_000)) == 0
