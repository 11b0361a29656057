"""The embedded corpus, made from small libraries of the tests' own and from the real one."""

from __future__ import annotations

import json
import platform
import random
import sys
import sysconfig
from pathlib import Path

import pytest
from waiting import four_at_once

from lmbench.corpus import data_info, open_corpus, pydoc
from lmbench.errors import LmbenchError

WORDS = ["red", "blue", "green", "small", "large", "round", "square", "warm", "cold", "new"]


def write_library(folder: Path, modules: int = 60) -> Path:
    """A library whose modules have docstrings of sentences that are all different."""
    chance = random.Random(1)
    folder.mkdir()
    (folder / "pydoc_data").mkdir()
    topics = {f"topic{n}": f"This is the topic {n} of the library.\n" for n in range(5)}
    (folder / "pydoc_data" / "topics.py").write_text(f"topics = {topics!r}\n")
    for number in range(modules):
        text = "\n".join(
            f"The {' '.join(chance.choices(WORDS, k=6))} thing is in a box." for _ in range(20)
        )
        (folder / f"module{number}.py").write_text(f'"""{text}"""\nraise SystemExit("imported")\n')
    return folder


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small library in place of Python's own."""
    folder = write_library(tmp_path / "library")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(folder))
    return folder


def read(folder: Path, split: str) -> list[str]:
    return (folder / f"{split}.txt").read_text(encoding="utf-8").splitlines()


def test_the_real_library_gives_an_english_corpus_without_a_network(home: Path) -> None:
    corpus = open_corpus(None, home)

    assert corpus.name == "pydoc"
    assert corpus.counts["train"] > 100_000
    assert min(corpus.counts["valid"], corpus.counts["test"]) > 10_000
    assert corpus.ntokens > 2_000
    assert {"the", "of", "returns", "<unk>", "<eos>"} <= set(corpus.vocabulary)
    assert data_info("pydoc", home)["unseen"] == {"valid": 0, "test": 0}
    line = corpus.describe_choice()
    assert line.startswith(
        f"corpus: pydoc, the documentation inside Python {platform.python_version()} "
    )
    assert "`lmbench data get wikitext-2` fetches it" in line


def test_the_same_sources_give_the_same_fingerprint_in_every_folder(
    library: Path, tmp_path: Path
) -> None:
    prints = {open_corpus("pydoc", tmp_path / name).fingerprint for name in ("one", "other")}
    assert len(prints) == 1


def test_no_sentence_stands_twice(library: Path, home: Path) -> None:
    (library / "copy.py").write_text((library / "module1.py").read_text())
    folder = pydoc.pydoc_folder(home)
    for split in ("train", "valid", "test"):
        # Only the words that are rare in train, the topics' numbers, can make lines alike.
        found = [line for line in read(folder, split) if "<unk>" not in line]
        assert len(set(found)) == len(found)


def test_words_seen_fewer_than_three_times_in_train_become_unk(library: Path, home: Path) -> None:
    folder = pydoc.pydoc_folder(home)
    counts: dict[str, int] = {}
    for line in read(folder, "train"):
        for word in line.split():
            counts[word] = counts.get(word, 0) + 1
    known = {word for word, count in counts.items() if word == "<unk>" or count >= pydoc.RAREST}
    assert known == set(counts)
    for split in ("valid", "test"):
        assert {word for line in read(folder, split) for word in line.split()} <= known | {"<unk>"}


def test_whole_documents_go_to_one_split_and_valid_and_test_get_a_tenth_each() -> None:
    documents = [
        pydoc.Document(f"module {number}", tuple([["a"] * (number % 17 + 1)] * 9))
        for number in range(400)
    ]
    total = sum(document.size for document in documents)

    splits = pydoc._split(documents)

    placed = [document.name for split in splits.values() for document in split]
    assert sorted(placed) == sorted(document.name for document in documents)
    for split in ("valid", "test"):
        assert 0.08 < sum(document.size for document in splits[split]) / total <= 0.10


def test_a_document_stays_where_it_is_when_others_change_little() -> None:
    documents = [pydoc.Document(f"module {n}", ((["a"] * 30),) * 9) for n in range(200)]
    before = pydoc._split(documents)
    after = pydoc._split([one for one in documents if one.name != "module 7"])

    moved = sum(
        len({one.name for one in before[split]} ^ {one.name for one in after[split]})
        for split in before
    )
    assert moved <= 10


def test_sources_are_parsed_and_never_imported(library: Path, home: Path) -> None:
    assert "raise SystemExit" in (library / "module1.py").read_text()
    open_corpus("pydoc", home)
    assert "module1" not in sys.modules


def test_making_it_reports_how_many_bytes_are_read(library: Path, home: Path) -> None:
    calls: list[tuple[str, int, int | None]] = []

    pydoc.pydoc_folder(home, lambda *call: calls.append(call))

    size = sum(path.stat().st_size for path in library.rglob("*.py"))
    assert len(calls) == len(list(library.rglob("*.py")))
    assert calls[-1] == ("reading the standard library", size, size)


def test_tests_and_installed_packages_are_no_documentation(library: Path, home: Path) -> None:
    before = open_corpus("pydoc", home).fingerprint
    for name in ("site-packages/other", "test", "idlelib/idle_test", "json/tests"):
        (library / name).mkdir(parents=True)
        (library / name / "more.py").write_text('"""This is the text of a test."""\n')
    assert open_corpus("pydoc", home).fingerprint == before


def test_sources_that_do_not_parse_are_passed_over(library: Path, home: Path) -> None:
    before = open_corpus("pydoc", home).fingerprint
    (library / "template.py").write_text("this is {not} python")
    (library / "binary.py").write_bytes(b"\0\xff")
    assert open_corpus("pydoc", home).fingerprint == before


def test_a_changed_library_is_read_anew(library: Path, home: Path) -> None:
    before = open_corpus("pydoc", home).fingerprint
    (library / "added.py").write_text('"""This is the docstring of a new module."""\n')
    assert open_corpus("pydoc", home).fingerprint != before


def test_the_text_is_made_once_and_made_again_when_it_was_altered(
    library: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pydoc.pydoc_folder(home)
    sound = (folder / "valid.txt").read_bytes()
    (folder / "valid.txt").write_bytes(sound[:-10])

    assert pydoc.pydoc_folder(home) == folder
    assert (folder / "valid.txt").read_bytes() == sound
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]

    monkeypatch.setattr(pydoc, "_documents", None)
    assert pydoc.pydoc_folder(home) == folder


def test_a_read_only_working_folder_puts_it_into_the_users_cache(
    library: Path, home: Path, user_cache_folder: Path
) -> None:
    home.chmod(0o555)
    try:
        corpus = open_corpus(None, home)
        assert corpus.path.is_relative_to(user_cache_folder)
        assert list(home.iterdir()) == []
    finally:
        home.chmod(0o755)


def test_an_installation_without_sources_is_one_clear_line(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "python311.zip"))
    with pytest.raises(LmbenchError, match=r"python311\.zip has none: give another corpus"):
        open_corpus(None, home)


def test_processes_that_make_it_at_once_do_not_collide(tmp_path: Path, home: Path) -> None:
    library = write_library(tmp_path / "library")
    code = (
        "import sys, sysconfig; from pathlib import Path; "
        "sysconfig.get_path = lambda name: sys.argv[1]; "
        "from lmbench.corpus import open_corpus; sys.stdin.readline(); "
        "print(open_corpus('pydoc', Path(sys.argv[2])).fingerprint)"
    )
    answers = four_at_once(code, str(library), str(home))
    assert len(set(answers)) == 1
    (folder,) = (home / "data" / "pydoc").iterdir()
    about = json.loads((folder / "about.json").read_text())
    assert set(about["sha256"]) == {"train.txt", "valid.txt", "test.txt"}
