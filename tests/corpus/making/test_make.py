"""A corpus of one's own text: what is made, from which formats, and what is left behind."""

from __future__ import annotations

import errno
import gzip
import json
import os
import random
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard

from lmbench.config import DataMakeConfig
from lmbench.corpus import data_info, data_list, open_corpus
from lmbench.corpus.making.card import read_card
from lmbench.corpus.making.documents import read_blocks
from lmbench.corpus.making.make import data_make, data_preview
from lmbench.corpus.making.raw_files import HashedFile, RawFile
from lmbench.corpus.making.splits import SplitChoice
from lmbench.corpus.making.words import splitter
from lmbench.errors import LmbenchError

WORDS = "the a cat dog sees hears runs on under mat old river .".split()  # noqa: SIM905


def sentence(generator: random.Random) -> str:
    return " ".join(generator.choices(WORDS, k=12)).capitalize() + "."


def paragraphs(count: int = 60, seed: int = 1) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(sentence(generator) for _ in range(3)) for _ in range(count)]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(paragraphs()), encoding="utf-8")
    return path


def made(home: Path, *files: Path, name: str = "mine", **settings: Any) -> dict[str, Any]:
    card = data_make(name, files, home, DataMakeConfig(**settings))
    return {"path": home / "data" / name, **card.document()}


def lines(card: dict[str, Any], split: str) -> list[str]:
    return Path(card["path"], f"{split}.txt").read_text(encoding="utf-8").splitlines()


def test_a_corpus_is_where_data_finds_it_with_a_card_that_is_true(text: Path, home: Path) -> None:
    card = made(home, text)

    corpus = open_corpus("mine", home)
    info = data_info("mine", home)
    assert corpus.ntokens == card["vocabulary"]["types"]
    assert info["unseen"] == {"valid": 0, "test": 0}
    assert info["made"] == json.loads((home / "data/mine/corpus.json").read_text())
    (source,) = card["sources"]
    assert source["bytes"] == text.stat().st_size
    assert {split: card["splits"][split]["documents"] for split in corpus.splits} == {
        "train": 54,
        "valid": 3,
        "test": 3,
    }
    for split in corpus.splits:
        counted = card["splits"][split]
        assert counted["sentences"] == len(lines(card, split)) == info["lines"][split]
        assert counted["words"] + counted["sentences"] == corpus.counts[split]
        assert counted["unknown"] == info["unknown"][split]
    assert next(e.about for e in data_list(home) if e.name == "mine") == "made of 1 file by moses"


def test_a_corpus_that_was_changed_since_has_no_card(text: Path, home: Path) -> None:
    made(home, text)
    corpus = open_corpus("mine", home)
    assert corpus.figures("test", 3.0)
    path = corpus.path / "test.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    assert open_corpus("mine", home).figures("test", 3.0) == {}
    assert data_info("mine", home)["made"] is None


def test_the_same_seed_makes_the_same_corpus_and_another_one_another(
    text: Path, home: Path
) -> None:
    cards = [made(home, text, name=f"c{n}", seed=seed) for n, seed in enumerate((1, 1, 2))]
    texts = ["".join(map(str, lines(card, "test"))) for card in cards]
    assert texts[0] == texts[1] != texts[2]


def record(path: Path, records: Sequence[object]) -> Path:
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return path


def test_every_format_gives_the_same_corpus(text: Path, tmp_path: Path, home: Path) -> None:
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    documents = paragraphs()
    folder = tmp_path / "several"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "b.txt").write_text("\n\n".join(documents[30:]), encoding="utf-8")
    (folder / "a.md").write_text("\n\n".join(documents[:30]), encoding="utf-8")
    (folder / "picture.png").write_bytes(b"\x89PNG\0")
    packed = tmp_path / "text.txt.gz"
    packed.write_bytes(gzip.compress(text.read_bytes()))
    squeezed = tmp_path / "text.zst"
    parts = [text.read_bytes()[:1000], text.read_bytes()[1000:]]
    squeezed.write_bytes(b"".join(map(zstandard.compress, parts)))
    json_lines = record(tmp_path / "text.jsonl", [{"body": one, "id": 1} for one in documents])
    table = tmp_path / "text.parquet"
    parquet.write_table(arrow.table({"id": [1] * 60, "body": documents}), table)
    made_of = {
        "text": [text],
        "gz": [packed],
        "zst": [squeezed],
        "folder": [folder],
        "json": [json_lines],
        "parquet": [table],
    }
    fingerprints = set()
    for name, files in made_of.items():
        made(home, *files, name=name, field="body")
        fingerprints.add(open_corpus(name, home).fingerprint)
    assert len(fingerprints) == 1


def test_tokenised_text_keeps_its_words(tmp_path: Path, home: Path) -> None:
    generator = random.Random(1)
    source = tmp_path / "ptb.txt"
    source.write_text(
        "".join(f" {' '.join(generator.choices(WORDS, k=9))} <unk> N \n" for _ in range(2_000))
    )
    card = made(
        home, source, tokenizer="none", min_count=1, keep_duplicates=True, valid=0.2, test=0.2
    )
    found = [line for split in ("train", "valid", "test") for line in lines(card, split)]
    assert Counter(found) == Counter(line.strip() for line in source.read_text().splitlines())
    assert open_corpus("mine", home).ntokens == card["vocabulary"]["types"] == len(WORDS) + 3


@pytest.mark.parametrize("valid, test", [(0.05, 0.05), (0.45, 0.45), (0.3, 0.45), (0.01, 0.4)])
def test_splits_have_the_shares_that_are_asked_for(valid: float, test: float) -> None:
    choice = SplitChoice(DataMakeConfig(valid=valid, test=test))
    drawn = Counter(choice.next() for _ in range(6_000))
    for split, share in (("valid", valid), ("test", test), ("train", 1 - valid - test)):
        assert drawn[split] / 6_000 == pytest.approx(share, abs=0.02)


def test_the_vocabulary_is_of_the_size_that_is_asked_for(text: Path, home: Path) -> None:
    card = made(home, text, vocabulary=10)
    assert open_corpus("mine", home).ntokens == card["vocabulary"]["types"] == 10
    train = Counter(" ".join(lines(card, "train")).split())
    assert train["<unk>"] == card["splits"]["train"]["unknown"] > 0
    kept = min(count for word, count in train.items() if word != "<unk>")
    assert card["vocabulary"]["least_count"] == kept


def test_rare_words_become_unk(text: Path, tmp_path: Path, home: Path) -> None:
    text.write_text(text.read_text() + "\n\n" + "rare " * 4 + "common " * 5)
    card = made(home, text, min_count=5, seed=3)
    words = set(" ".join(lines(card, "train")).split())
    assert "common" in words
    assert "rare" not in words


def test_articles_files_and_lines_stay_whole(tmp_path: Path, home: Path) -> None:
    generator = random.Random(1)
    articles = [
        "\n".join(
            [f" = Title{n} = ", "", *(f"word{n} {sentence(generator)}" for _ in range(4)), ""]
        )
        for n in range(40)
    ]
    source = tmp_path / "wiki.tokens"
    source.write_text("\n".join(articles))
    card = made(home, source, tokenizer="none", min_count=1)
    assert sum(split["documents"] for split in card["splits"].values()) == 40
    # What an article alone has, train has four times or not at all.
    words = Counter(" ".join(lines(card, "train")).split())
    assert Counter(count for word, count in words.items() if word[:4] == "word") == {4: 36}
    card = made(home, source, name="lines", tokenizer="none", documents="lines")
    assert sum(split["documents"] for split in card["splits"].values()) == 40 * 5


def test_what_repeats_valid_or_test_is_left_out_of_train(tmp_path: Path, home: Path) -> None:
    once = paragraphs(200, seed=5)
    source = tmp_path / "twice.txt"
    source.write_text("\n\n".join([*once, *(one.replace("cat", "Cat") for one in once)]))
    repeating = made(home, source, name="repeating", keep_duplicates=True)
    card = made(home, source)
    assert card["splits"]["train"]["repeated"] >= 0.9 * 3 * 10 * 2
    assert repeating["splits"]["train"]["repeated"] == 0
    for other in ("valid", "test"):
        seen = {line.lower() for line in lines(card, "train")}
        again = [line for line in lines(card, other) if line.lower() in seen]
        assert len(again) <= 0.1 * len(lines(card, other))


def test_a_preview_writes_nothing(text: Path, home: Path) -> None:
    assert data_preview([text], DataMakeConfig(), 2) == [
        sentence.split() for sentence in splitter(DataMakeConfig())(paragraphs()[0])[:2]
    ]
    assert not list(home.iterdir())


@pytest.mark.parametrize("name", ["valid.tokens", "train.tokens", "corpus.json"])
def test_a_corpus_may_have_the_name_of_a_file_of_its_making(
    text: Path, home: Path, name: str
) -> None:
    data_make(name, [text], home, DataMakeConfig())
    assert open_corpus(name, home).counts["train"] > 0


def test_a_file_whose_name_is_no_utf8_is_named_in_a_card_that_can_be_read(
    text: Path, home: Path
) -> None:
    latin = text.rename(text.with_name("caf\udce9.txt"))
    data_make("mine", [latin], home, DataMakeConfig())
    card = read_card(home / "data" / "mine")
    assert card is not None
    assert card.sources[0].file == str(latin)
    data_make("mine", [latin], home, DataMakeConfig(seed=2), replace=True)


def test_a_name_that_is_taken_is_refused_and_replaced_only_when_asked(
    text: Path, home: Path
) -> None:
    made(home, text)
    other = open_corpus("mine", home).fingerprint
    with pytest.raises(LmbenchError, match="is there already: choose another name, or add"):
        made(home, text, seed=2)
    data_make("mine", [text], home, DataMakeConfig(seed=2), replace=True)
    assert open_corpus("mine", home).fingerprint != other
    own = home / "data" / "own"
    own.mkdir()
    (own / "train.txt").write_text("mine")
    with pytest.raises(LmbenchError, match="was not made by `lmbench data make`"):
        data_make("own", [text], home, DataMakeConfig(), replace=True)
    assert (own / "train.txt").read_text() == "mine"
    mine = home / "data" / "mine"
    with pytest.raises(LmbenchError, match="lies in the corpus that it would replace"):
        data_make("mine", [mine / "train.txt"], home, DataMakeConfig(), replace=True)
    (mine / "notes.md").write_text("precious")
    with pytest.raises(LmbenchError, match=r"notes\.md: was not made .* and would be lost"):
        data_make("mine", [text], home, DataMakeConfig(), replace=True)
    (mine / "notes.md").unlink()
    mine.rename(home / "elsewhere")
    mine.symlink_to(home / "elsewhere")
    with pytest.raises(LmbenchError, match="is a link, which is not replaced"):
        data_make("mine", [text], home, DataMakeConfig(), replace=True)
    assert open_corpus("mine", home).fingerprint != other
    for bad in ("pydoc", "a/b", ".hidden", "..", "-x"):
        with pytest.raises(LmbenchError, match=r"name"):
            data_make(bad, [text], home, DataMakeConfig())


def test_a_folder_that_cannot_be_read_is_not_left_out_in_silence(
    text: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    for name in ("a", "b"):
        (tree / name).mkdir(parents=True)
        (tree / name / "one.txt").write_bytes(text.read_bytes())
    scan = os.scandir

    def refusing(folder: Any) -> Any:
        if Path(folder).name == "b":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(PermissionError, match="tree/b"):
        data_make("mine", [tree], home, DataMakeConfig())


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_corpus_is_not_lost_where_its_replacement_fails_or_dies(
    text: Path, home: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    made(home, text)
    before = open_corpus("mine", home).fingerprint
    moves = []

    def rename(folder: Path, target: Path, move: Callable[..., Path] = Path.rename) -> Path:
        moves.append(target.name)
        if moves == [".mine.replaced", "mine"]:
            raise failure
        return move(folder, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises((LmbenchError, KeyboardInterrupt)):
            data_make("mine", [text], home, DataMakeConfig(seed=2), replace=True)
    # A death leaves it to whoever asks for the corpus next.
    assert (home / "data" / "mine").is_dir() == isinstance(failure, OSError)
    assert open_corpus("mine", home).fingerprint == before
    assert [entry.name for entry in (home / "data").iterdir()] == ["mine"]


@pytest.mark.parametrize("at", ["reading valid and test", "reading train"])
def test_an_interrupt_leaves_nothing(text: Path, home: Path, at: str) -> None:
    def progress(what: str, _done: int, _total: int | None) -> None:
        if what == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data_make("mine", [text], home, DataMakeConfig(), progress=progress)
    assert not list((home / "data").iterdir())


def test_a_file_that_changes_between_the_passes_is_noticed(text: Path, home: Path) -> None:
    def progress(what: str, done: int, total: int | None) -> None:
        if what == "reading valid and test" and done == total:
            text.write_text(text.read_text().replace("cat", "cow"))

    with pytest.raises(LmbenchError, match="changed while it was read"):
        data_make("mine", [text], home, DataMakeConfig(), progress=progress)
    assert not list((home / "data").iterdir())


def test_a_line_of_many_megabytes_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("the cat sat on the mat " * 1_000_000)
    raw = RawFile(path, "text", path.stat().st_size)
    tracemalloc.start()
    with HashedFile(path) as file:
        blocks = read_blocks(raw, file, DataMakeConfig(), many=False)
        size = sum(len(block.text) for block in blocks)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size > 20_000_000
    assert peak < size / 2


def test_a_file_is_hashed_as_it_is_read(text: Path) -> None:
    import hashlib

    with HashedFile(text) as file:
        file.read(10)
        assert file.done == 10
        assert file.sha256() == hashlib.sha256(text.read_bytes()).hexdigest()
