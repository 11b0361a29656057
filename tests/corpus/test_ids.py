"""From text to ids, and the file that keeps them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmbench.corpus import ids as module
from lmbench.corpus.ids import (
    SPLITS,
    Ids,
    content_hash,
    encode,
    fingerprint_of,
    read_ids,
    write_ids,
)
from lmbench.errors import LmbenchError

some_text = st.tuples(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    st.text(st.sampled_from("ab \n\r\t\x85\u2028<"), max_size=60),
    st.sampled_from(["a", "<unk>", "ä", "\r\nb", "\na", "<eos>"]),
).map("".join)
several_examples = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def write_splits(folder: Path, texts: dict[str, str]) -> dict[str, Path]:
    files = {split: folder / f"{split}.txt" for split in SPLITS}
    for split, text in texts.items():
        files[split].write_bytes(text.encode())
    return files


def hashes_of(files: dict[str, Path]) -> dict[str, str]:
    return {split: content_hash(path) for split, path in files.items()}


def line_by_line(files: dict[str, Path]) -> tuple[dict[str, list[int]], list[str]]:
    """The rule, as the original states it: one word after the other."""
    numbers: dict[str, int] = {}
    splits: dict[str, list[int]] = {}
    for split, path in files.items():
        splits[split] = []
        with path.open(encoding="utf8") as lines:
            for line in lines:
                for word in [*line.split(), "<eos>"]:
                    splits[split].append(numbers.setdefault(word, len(numbers)))
    return splits, list(numbers)


@several_examples
@given(st.tuples(some_text, some_text, some_text), st.sampled_from([1, 2, 7, 1 << 22]))
def test_ids_are_those_of_reading_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: tuple[str, str, str], chunk: int
) -> None:
    monkeypatch.setattr(module, "_CHUNK", chunk)
    files = write_splits(tmp_path, dict(zip(SPLITS, texts, strict=True)))

    ids = encode(files, hashes_of(files), "all")

    expected, words = line_by_line(files)
    assert {split: array.tolist() for split, array in ids.splits.items()} == expected
    assert ids.vocabulary == words


@several_examples
@given(st.tuples(some_text, some_text, some_text))
def test_a_vocabulary_of_train_makes_unk_of_every_other_word(
    tmp_path: Path, texts: tuple[str, str, str]
) -> None:
    files = write_splits(tmp_path, dict(zip(SPLITS, texts, strict=True)))

    every = encode(files, hashes_of(files), "all")
    closed = encode(files, hashes_of(files), "train")

    assert closed.splits["train"].tolist() == every.splits["train"].tolist()
    in_train = {every.vocabulary[number] for number in every.splits["train"]}
    for split in ("valid", "test"):
        words = [every.vocabulary[number] for number in every.splits[split]]
        expected = [word if word in in_train else "<unk>" for word in words]
        assert [closed.vocabulary[number] for number in closed.splits[split]] == expected
    assert set(closed.vocabulary) - {"<unk>"} == in_train - {"<unk>"}
    assert len(set(closed.vocabulary)) == len(closed.vocabulary)


@pytest.mark.parametrize(
    "types, dtype",
    [(255, "uint8"), (256, "uint8"), (257, "uint16"), (65_536, "uint16"), (65_537, "uint32")],
)
def test_ids_take_the_smallest_type_that_fits(tmp_path: Path, types: int, dtype: str) -> None:
    words = " ".join(f"w{number}" for number in range(types - 1))  # <eos> is one more
    files = write_splits(tmp_path, {"train": f"{words}\n", "valid": "w0\n", "test": "w1\n"})

    ids = encode(files, hashes_of(files), "all")

    assert len(ids.vocabulary) == types
    assert {str(array.dtype) for array in ids.splits.values()} == {dtype}
    assert ids.splits["train"].max() == types - 1


@pytest.mark.parametrize("chunk", [3, 1 << 22])
def test_bytes_that_are_not_utf8_are_named_by_file_line_and_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(module, "_CHUNK", chunk)
    files = write_splits(tmp_path, {"train": "a\n", "valid": "a\n", "test": "a\n"})
    files["valid"].write_bytes("one\r\ntwö\nthé ".encode() + b"\xe9t\xe9\nfour\n")

    with pytest.raises(LmbenchError, match="not UTF-8") as error:
        encode(files, hashes_of(files), "all")

    line = str(error.value)
    assert str(files["valid"]) in line
    assert "line 3, byte 6 of the line is 0xe9 (offset 15 in the file)" in line


@pytest.mark.parametrize("text", ["", "\n \n\t\n"])
def test_a_file_without_words_is_refused_as_empty(tmp_path: Path, text: str) -> None:
    files = write_splits(tmp_path, {"train": "a\n", "valid": "a\n", "test": text})
    with pytest.raises(LmbenchError, match=r"test\.txt is empty"):
        encode(files, hashes_of(files), "all")


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    files = write_splits(tmp_path, {"train": "a\n", "valid": "a\n", "test": "a\n"})
    hashes = hashes_of(files)
    files["valid"].write_text("b\n")
    with pytest.raises(LmbenchError, match=r"valid\.txt changed while it was being read"):
        encode(files, hashes, "all")


def test_reading_reports_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 8)
    files = write_splits(tmp_path, {"train": "a b\n" * 10, "valid": "a\n", "test": "a\n"})
    calls: list[tuple[str, int, int | None]] = []

    encode(files, hashes_of(files), "all", lambda *call: calls.append(call))

    train = [call for call in calls if call[0] == "reading train.txt"]
    assert [done for _, done, _ in train] == [8, 16, 24, 32, 40]
    assert {total for _, _, total in train} == {40}


def some_ids() -> Ids:
    splits = {
        split: np.arange(count, dtype=np.uint16) % 300
        for split, count in zip(SPLITS, (900, 7, 5), strict=True)
    }
    return Ids(splits, [f"wörd{number}" for number in range(300)])


def test_the_file_gives_back_what_was_written_and_maps_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ids.safetensors"
    written = some_ids()

    write_ids(path, written, "print")
    read = read_ids(path, "print")

    assert read is not None
    assert read.vocabulary == written.vocabulary
    for split in SPLITS:
        assert isinstance(read.splits[split], np.memmap)
        assert not read.splits[split].flags.writeable
        assert read.splits[split].dtype == np.uint16
        np.testing.assert_array_equal(read.splits[split], written.splits[split])
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_any_reader_of_safetensors_can_read_the_file(tmp_path: Path) -> None:
    write_ids(tmp_path / "ids.safetensors", some_ids(), "print")

    tensors = safetensors.numpy.load_file(tmp_path / "ids.safetensors")

    np.testing.assert_array_equal(tensors["train"], some_ids().splits["train"])
    assert tensors["vocabulary"].tobytes().decode().split("\n") == some_ids().vocabulary


@several_examples
@given(st.data())
def test_a_file_with_a_bit_flipped_is_never_read_as_other_ids(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "ids.safetensors"
    written = some_ids()
    write_ids(path, written, "print")
    content = bytearray(path.read_bytes())
    header = st.integers(0, 500)
    place = data.draw(st.one_of(header, st.integers(0, len(content) - 1)), label="place")
    content[place] ^= 1 << data.draw(st.integers(0, 7), label="bit")
    path.write_bytes(content)

    read = read_ids(path, "print")

    # A flip in the header's padding changes nothing; any other must be noticed.
    assert read is None or (
        read.vocabulary == written.vocabulary
        and all(np.array_equal(read.splits[one], written.splits[one]) for one in SPLITS)
    )
    assert read is None or place < 4096


@several_examples
@given(st.integers(0, 1000))
def test_a_truncated_file_reads_as_none(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "ids.safetensors"
    write_ids(path, some_ids(), "print")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * kept // 1001])
    assert read_ids(path, "print") is None


def test_a_file_of_another_text_reads_as_none(tmp_path: Path) -> None:
    write_ids(tmp_path / "ids.safetensors", some_ids(), "print")
    assert read_ids(tmp_path / "ids.safetensors", "another") is None
    assert read_ids(tmp_path / "nothing.safetensors", "print") is None


def test_the_fingerprint_is_of_content_and_rule_not_of_names(tmp_path: Path) -> None:
    hashes = {split: hashlib.sha256(split.encode()).hexdigest() for split in SPLITS}
    swapped = {**hashes, "valid": hashes["test"], "test": hashes["valid"]}

    prints = [
        fingerprint_of(hashes, "all"),
        fingerprint_of(hashes, "train"),
        fingerprint_of(swapped, "all"),
    ]

    assert len(set(prints)) == 3
    assert fingerprint_of(dict(reversed(hashes.items())), "all") == prints[0]


def test_a_forged_cache_with_ids_of_no_word_is_built_anew(tmp_path: Path) -> None:
    splits = {name: np.array([0, 1, 2], np.uint8) for name in ("train", "valid", "test")}
    path = tmp_path / "ids.safetensors"
    write_ids(path, Ids(splits, ["a", "b", "c"]), "f" * 64)
    assert read_ids(path, "f" * 64) is not None
    for name in splits:
        for wrong in (np.array([0, 3], np.uint8), np.array([], np.uint8)):
            write_ids(path, Ids({**splits, name: wrong}, ["a", "b", "c"]), "f" * 64)
            assert read_ids(path, "f" * 64) is None
    nested = b"[" * 100_000
    path.write_bytes(len(nested).to_bytes(8, "little") + nested)
    assert read_ids(path, "f" * 64) is None


def test_a_long_line_is_read_in_pieces_and_gives_the_same_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = " ".join(f"wörd{i % 97}\t" for i in range(60_000))
    text = f"first line\r\n{words} last\nand more"
    files = write_splits(tmp_path, dict.fromkeys(SPLITS, text))
    hashes = hashes_of(files)
    whole = encode(files, hashes, "all")
    monkeypatch.setattr(module, "_LONG_LINE", 1 << 16)
    pieces = encode(files, hashes, "all")
    assert pieces.vocabulary == whole.vocabulary
    expected = [*text.replace("\r\n", "\n").replace("\n", " <eos> ").split(), "<eos>"]
    for split in files:
        assert [whole.vocabulary[i] for i in whole.splits[split]] == expected
        assert np.array_equal(pieces.splits[split], whole.splits[split])


def test_a_long_line_of_blanks_has_no_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONG_LINE", 1 << 10)
    files = write_splits(tmp_path, dict.fromkeys(SPLITS, f"a b\n{' ' * 5000}\nc"))
    found = encode(files, hashes_of(files), "train")
    assert [found.vocabulary[i] for i in found.splits["train"]] == [
        *("a", "b", "<eos>", "<eos>", "c", "<eos>"),
    ]


def test_a_byte_that_is_not_utf8_is_named_by_its_place_in_a_long_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONG_LINE", 1 << 16)
    files = write_splits(tmp_path, dict.fromkeys(SPLITS, "a\n"))
    files["train"].write_bytes(b"one\n" + b"word " * 50_000 + b"\xff")
    with pytest.raises(LmbenchError, match="line 2, byte 250001 of the line"):
        encode(files, hashes_of(files), "all")


def test_a_word_of_megabytes_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    files = write_splits(tmp_path, dict.fromkeys(SPLITS, "a b\n" + "x" * (3 << 20)))
    with pytest.raises(LmbenchError, match="from byte 4 on there is a word of more than"):
        encode(files, hashes_of(files), "all")
