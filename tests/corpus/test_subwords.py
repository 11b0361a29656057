"""Words are cut into pieces by the vocabulary alone, and pieces become the words again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lmbench.corpus.subwords import Joining, Pieces, is_subword, joined

BYTES = Pieces(["▁"]).of(["".join(map(chr, range(0x21, 0x100)))])  # one <unk> for each byte


def pieces_of(*more: str) -> Pieces:
    from tokenizers import pre_tokenizers

    return Pieces(["▁", *pre_tokenizers.ByteLevel.alphabet(), *more])


def test_the_longest_piece_is_taken_first() -> None:
    pieces = pieces_of("▁the", "▁then", "re", "▁th")
    assert pieces.of(["then", "there", "<unk>", "the"]) == [
        *("▁then", "▁the", "re", "<unk>", "▁the"),
    ]


def test_a_byte_without_a_piece_is_unknown() -> None:
    assert Pieces(["▁", "a"]).of(["ab"]) == ["▁", "a", "<unk>"]
    assert set(BYTES) == {"▁", "<unk>"}


@given(st.lists(st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1), min_size=1))
def test_pieces_are_joined_to_the_words_they_were_cut_from(words: list[str]) -> None:
    words = ["_" if word in ("<unk>", "<eos>") else word for word in words]
    pieces = pieces_of("▁th", "ab").of(["the", *words])
    assert joined(pieces).split() == ["the", *words]
    joining = Joining()
    assert "".join(map(joining.add, pieces)) + joining.end() == f" {joined(pieces)}"


def test_a_vocabulary_of_pieces_is_told_from_one_of_words() -> None:
    assert not is_subword(["▁", "the", "_x"])
    assert is_subword(["<eos>", "▁the"])
    assert is_subword(pieces_of("▁th", "▁a", "▁i")._pieces)
    assert not is_subword(["the", "▁▂▃", "cat"])
    assert not is_subword(["▁the", "café", "łódź"])
    assert not is_subword(["▁x", *(f"word{number}" for number in range(200))])
    # Of another program, in one that spells characters and not bytes.
    assert not is_subword(["▁the", "▁année", "café"])
    # Where texts have few blanks, few pieces begin a word.
    text = "日本語の文章は空白を使わない"
    pieces = ["".join(Pieces.spelled(text[a:b])[1:]) for a in range(14) for b in range(a + 1, 14)]
    assert is_subword(pieces_of("▁a", *pieces, *(piece[1:-1] for piece in pieces))._pieces)


def test_pieces_go_on_from_the_text_before_them() -> None:
    assert joined(["er", "▁cat"], "the great") == "the greater cat"
    assert joined(["▁cat"], "the") == "the cat"
    assert joined(["er", "s"]) == "ers"


def test_ends_of_lines_and_broken_characters_are_shown() -> None:
    cut = pieces_of("▁ca").of(["café"])
    assert joined(["▁ca", "t", "<eos>", *cut[:-1], "▁ca"]) == "cat <eos> caf� ca"
