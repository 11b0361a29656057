"""Opening a corpus: which one is taken, what is refused, and how the ids are cached."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from waiting import four_at_once

from lmbench.corpus import Corpus, check_enough, data_info, data_list, open_corpus
from lmbench.corpus import corpus as module
from lmbench.corpus.sources import LAYOUTS
from lmbench.errors import LmbenchError
from lmbench.jobs.scoring_text import corpus_of_words

MakeFolder = Callable[..., Path]


def refuse_to_build(*_: object) -> None:
    raise AssertionError("the ids were built although the cache holds them")


def words_of(corpus: Corpus, split: str) -> str:
    return " ".join(corpus.vocabulary[int(number)] for number in corpus.split(split))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_in_any_of_the_layouts_opens(
    home: Path, make_folder: MakeFolder, layout: str
) -> None:
    folder = make_folder("mine", layout, train="b a b\n\nc", valid="d a\n", test="e\n")

    corpus = open_corpus(str(folder), home)

    assert corpus.name == "mine"
    assert corpus.vocabulary == ["b", "a", "<eos>", "c", "d", "e"]
    assert corpus.split("train").tolist() == [0, 1, 0, 2, 2, 3, 2]
    assert words_of(corpus, "valid") == "d a <eos>"
    assert corpus.counts == {"train": 7, "valid": 3, "test": 2}
    assert corpus.ntokens == 6


def test_the_same_text_has_the_same_fingerprint_in_every_layout(
    home: Path, make_folder: MakeFolder
) -> None:
    prints = {
        open_corpus(str(make_folder(f"mine-{number}", layout)), home).fingerprint
        for number, layout in enumerate(LAYOUTS)
    }
    assert len(prints) == 1


def test_a_split_of_another_name_is_refused(home: Path, make_folder: MakeFolder) -> None:
    corpus = open_corpus(str(make_folder()), home)
    with pytest.raises(LmbenchError, match="no split dev: a corpus has train, valid, test"):
        corpus.split("dev")


def test_a_vocabulary_of_train_maps_the_rest_to_unk(home: Path, make_folder: MakeFolder) -> None:
    folder = make_folder(train="a b\n", valid="a c\n", test="d b\n")

    every = open_corpus(str(folder), home)
    closed = open_corpus(str(folder), home, vocab="train")

    assert closed.vocabulary == ["a", "b", "<eos>", "<unk>"]
    assert words_of(closed, "valid") == "a <unk> <eos>"
    assert words_of(closed, "test") == "<unk> b <eos>"
    assert words_of(every, "test") == "d b <eos>"
    assert closed.fingerprint != every.fingerprint
    assert closed.cache != every.cache


def test_the_rule_that_numbers_words_as_a_model_has_them_is_found(
    home: Path, make_folder: MakeFolder
) -> None:
    folder = make_folder(train="a b\n", valid="a c\n", test="d b\n")
    every, closed = (open_corpus(str(folder), home, vocab=rule) for rule in ("all", "train"))
    for corpus in (every, closed):
        for words in (corpus.vocabulary, []):
            found = corpus_of_words(str(folder), home, words, corpus.ntokens)
            assert found.vocabulary == corpus.vocabulary
    assert corpus_of_words(str(folder), home, ["x"], 1).vocabulary == every.vocabulary


# --- which corpus ---------------------------------------------------------------------------------


def test_without_a_choice_wikitext2_is_taken_where_it_is_there(
    home: Path, make_folder: MakeFolder
) -> None:
    make_folder("home/data/wikitext-2")

    line = open_corpus(None, home).describe_choice()

    assert line == (
        f"corpus: wikitext-2, in {Path('data') / 'wikitext-2'} (7 / 7 / 7 tokens, 8 types)"
    )


def test_a_half_filled_wikitext2_folder_is_named_rather_than_passed_over(
    home: Path, make_folder: MakeFolder
) -> None:
    (make_folder("home/data/wikitext-2") / "valid.txt").unlink()
    for spec in (None, "wikitext-2"):
        with pytest.raises(LmbenchError, match=r"has no valid\.txt: put it beside train\.txt"):
            open_corpus(spec, home)


def test_a_folder_in_data_is_known_by_its_name(home: Path, make_folder: MakeFolder) -> None:
    make_folder("home/data/novels")
    assert open_corpus("novels", home).path == home / "data" / "novels"
    assert "novels" in [entry.name for entry in data_list(home) if entry.is_here]


def test_a_path_is_taken_from_the_current_folder_and_then_from_the_working_folder(
    home: Path, make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder("home/data/novels")
    monkeypatch.chdir(tmp_path)
    assert open_corpus("data/novels", home).path == home / "data" / "novels"

    nearer = make_folder("data/novels", train="another\n")
    assert open_corpus("data/novels", home).path.resolve() == nearer


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_missing_split_is_named(
    home: Path, make_folder: MakeFolder, layout: str, split: str
) -> None:
    folder = make_folder(layout=layout)
    missing = folder / layout.format(split)
    missing.unlink()
    with pytest.raises(LmbenchError, match=f"corpus .*tiny has no {missing.name}"):
        open_corpus(str(folder), home)


def test_a_folder_without_text_says_what_it_should_hold(home: Path, tmp_path: Path) -> None:
    with pytest.raises(LmbenchError, match=r"holds no corpus: it needs train\.txt, valid\.txt"):
        open_corpus(str(tmp_path), home)


def test_a_file_in_place_of_a_folder_is_refused(home: Path, make_folder: MakeFolder) -> None:
    with pytest.raises(LmbenchError, match=r"is a file: give the folder that holds train\.txt"):
        open_corpus(str(make_folder() / "train.txt"), home)


def test_an_unknown_name_says_what_was_probably_meant(home: Path) -> None:
    with pytest.raises(LmbenchError, match="did you mean wikitext-2"):
        open_corpus("wikitext2", home)
    with pytest.raises(LmbenchError, match="`--data wikitext-2` fetches it"):
        open_corpus("elsewhere/wikitext-2", home)


@pytest.mark.parametrize("spec", ["x" * 5000, "~nobody-of-this-name/x", "a\0b", "", "no/such"])
def test_a_senseless_choice_is_one_clear_line(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LmbenchError) as error:
        open_corpus(spec, home)
    assert "\n" not in str(error.value)


def test_a_corpus_too_small_for_one_batch_is_refused_with_what_to_change(
    home: Path, make_folder: MakeFolder
) -> None:
    folder = make_folder(train="a " * 59, valid="a " * 19, test="a " * 18)
    corpus = open_corpus(str(folder), home)

    with pytest.raises(
        LmbenchError, match=r"train of tiny has 60 tokens, and one batch needs 720 .*lower"
    ):
        check_enough(corpus, batch_size=20, bptt=35)
    with pytest.raises(LmbenchError, match=r"train of tiny has 60 tokens.* needs 63"):
        check_enough(corpus, batch_size=3, bptt=20)
    with pytest.raises(LmbenchError, match="test of tiny has 19 tokens, and evaluation needs 20"):
        check_enough(corpus, batch_size=3, bptt=19)
    with pytest.raises(LmbenchError, match=r"evaluation needs 22 .*: lower --eval-batch-size"):
        check_enough(corpus, batch_size=3, bptt=19, eval_batch_size=11)


def test_a_corpus_with_just_enough_is_accepted(home: Path, make_folder: MakeFolder) -> None:
    folder = make_folder(train="a " * 59, valid="a " * 19, test="a " * 19)
    check_enough(open_corpus(str(folder), home), batch_size=3, bptt=19)


# --- the cache ------------------------------------------------------------------------------------


def test_the_second_opening_maps_the_cache_and_builds_nothing(
    home: Path, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder()
    first = open_corpus(str(folder), home)
    monkeypatch.setattr(module, "encode", refuse_to_build)

    second = open_corpus(str(folder), home)

    assert first.cache == second.cache
    assert first.cache is not None
    assert first.cache.parent == folder / ".lmbench"
    assert second.vocabulary == first.vocabulary
    np.testing.assert_array_equal(second.split("test"), first.split("test"))


def test_changed_text_is_read_anew_even_with_the_old_size_and_time(
    home: Path, make_folder: MakeFolder
) -> None:
    folder = make_folder(valid="old text\n")
    before = open_corpus(str(folder), home)
    file = folder / "valid.txt"
    times = file.stat()
    file.write_text("new text\n")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    after = open_corpus(str(folder), home)

    assert words_of(after, "valid") == "new text <eos>"
    assert words_of(before, "valid") == "old text <eos>"
    assert before.fingerprint != after.fingerprint


@pytest.mark.parametrize("damage", [b"", b"garbage", b"\xff" * 9000])
def test_a_damaged_cache_is_rebuilt(home: Path, make_folder: MakeFolder, damage: bytes) -> None:
    folder = make_folder()
    first = open_corpus(str(folder), home)
    assert first.cache is not None
    sound = first.cache.read_bytes()
    first.cache.unlink()
    first.cache.write_bytes(damage)

    second = open_corpus(str(folder), home)

    assert first.cache.read_bytes() == sound
    assert words_of(second, "train") == "the cat sat on the train <eos>"


def test_a_read_only_folder_is_left_alone_and_the_users_cache_is_used(
    home: Path,
    make_folder: MakeFolder,
    user_cache_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = make_folder()
    folder.chmod(0o555)
    try:
        corpus = open_corpus(str(folder), home)
        assert corpus.cache is not None
        assert corpus.cache.is_relative_to(user_cache_folder)
        assert sorted(entry.name for entry in folder.iterdir()) == [
            "test.txt",
            "train.txt",
            "valid.txt",
        ]
        monkeypatch.setattr(module, "encode", refuse_to_build)
        assert open_corpus(str(folder), home).vocabulary == corpus.vocabulary
    finally:
        folder.chmod(0o755)


def test_a_corpus_opens_where_no_cache_can_be_written_at_all(
    home: Path, make_folder: MakeFolder, user_cache_folder: Path
) -> None:
    folder = make_folder()
    (folder / ".lmbench").write_text("a file where the cache's folder should be")
    user_cache_folder.parent.mkdir()
    user_cache_folder.write_text("and here")

    corpus = open_corpus(str(folder), home)

    assert corpus.cache is None
    assert words_of(corpus, "train") == "the cat sat on the train <eos>"
    assert not corpus.split("train").flags.writeable


def test_processes_that_open_at_once_do_not_collide(home: Path, make_folder: MakeFolder) -> None:
    folder = make_folder(train="".join(f"w{n} w{n % 77}\n" for n in range(40_000)))
    cache = folder / ".lmbench"
    code = (
        "import sys, hashlib, json; from pathlib import Path; "
        "from lmbench.corpus import open_corpus; sys.stdin.readline(); "
        "c = open_corpus(sys.argv[1], Path(sys.argv[2])); "
        "print(json.dumps([hashlib.sha256(c.split('train').tobytes()).hexdigest(), str(c.cache)]))"
    )
    answers = four_at_once(code, str(folder), str(home))
    results = {tuple(json.loads(out)) for out in answers}
    corpus = open_corpus(str(folder), home)
    assert len(results) == 1
    assert results.pop()[1] == str(corpus.cache)
    assert [entry.name for entry in cache.iterdir()] == [Path(str(corpus.cache)).name]


def test_leftovers_of_a_killed_process_are_swept_away(home: Path, make_folder: MakeFolder) -> None:
    folder = make_folder()
    code = (
        "import os, signal, sys; from pathlib import Path; "
        "from lmbench.corpus.files import scratch_folder\n"
        "with scratch_folder(Path(sys.argv[1])) as scratch:\n"
        "    (scratch / 'half').write_text('written')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    cache = folder / ".lmbench"
    subprocess.run([sys.executable, "-c", code, str(cache)], check=False, timeout=60)
    assert len(list(cache.iterdir())) == 1

    corpus = open_corpus(str(folder), home)

    assert list(cache.iterdir()) == [corpus.cache]


# --- what `lmbench data` shows --------------------------------------------------------------------


def test_info_counts_tokens_lines_unknown_and_unseen_words(
    home: Path, make_folder: MakeFolder
) -> None:
    folder = make_folder(train="a <unk> b\nc\n", valid="a z z\n", test="<unk> <unk>\n")

    info = data_info(str(folder), home)

    assert info["tokens"] == {"train": 6, "valid": 4, "test": 3}
    assert info["types"] == 6
    assert info["lines"] == {"train": 2, "valid": 1, "test": 1}
    assert info["unknown"] == {"train": 1, "valid": 0, "test": 2}
    assert info["unseen"] == {"valid": 2, "test": 0}
    assert info["bytes"] == {"train": 12, "valid": 6, "test": 12}
    assert json.loads(json.dumps(info)) == info


def test_info_fetches_nothing(home: Path) -> None:
    with pytest.raises(LmbenchError, match="`lmbench data get wikitext-2` fetches it"):
        data_info("wikitext-2", home)


def test_corpora_that_are_not_there_are_listed_as_such(home: Path) -> None:
    entries = {entry.name: entry for entry in data_list(home)}
    assert list(entries) == ["wikitext-2", "wikitext-103", "pydoc"]
    assert [entry.is_here for entry in entries.values()] == [False, False, True]
