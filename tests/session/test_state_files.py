"""State is on disk whole or not at all, whenever the process dies."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from lmbench.errors import LmbenchError
from lmbench.session import files
from lmbench.session.files import (
    drop_fresh,
    finish_swap,
    fresh_folder,
    locked,
    read_json,
    settled,
    swap_in,
    try_lock,
    write_atomic,
    write_json,
    write_new,
)


class Death(BaseException):
    """The process dies here."""


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    write_atomic(path, b"old")

    def die(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(files.os, "fsync", die)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_takes_no_name_that_is_taken(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    path, dangling = tmp_path / "new", tmp_path / "dangling"
    dangling.symlink_to("nowhere")
    write_new(path, b"first")
    for taken in (path, dangling):
        with pytest.raises(FileExistsError, match=str(taken)):
            write_new(taken, b"second")
    assert path.read_bytes() == b"first"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dangling", "new"]
    assert path.stat().st_nlink == 1


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_has_no_word_for_is_not_written(tmp_path: Path, number: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "run.json", {"version": 1, "loss": number})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "data, complaint",
    [
        (b"{", "cannot be read as JSON"),
        (b"\xff\xfe\xfd", "cannot be read as JSON"),
        (b'{"version": 1, "x": NaN}', "NaN is no JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b"[]", "holds no JSON object"),
        (b"{}", "field 'version'"),
        (b'{"version": true}', "field 'version'"),
        (b'{"version": 2}', "written by a newer lmbench (format 2, this one reads up to 1)"),
    ],
)
def test_damaged_json_is_told_in_one_line(tmp_path: Path, data: bytes, complaint: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(data)
    with pytest.raises(LmbenchError) as caught:
        read_json(path, version=1)
    assert caught.value.message.endswith(f"({path})")
    assert complaint in caught.value.message
    assert "\n" not in caught.value.message


def test_a_missing_file_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(LmbenchError, match=r"^no such file \(.*run\.json\)$"):
        read_json(tmp_path / "run.json", version=1)


def test_text_that_is_no_unicode_can_be_written(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"version": 1, "name": "caf\udce9"})
    assert json.loads((tmp_path / "run.json").read_text())["name"] == "caf\udce9"


def test_a_lock_is_free_again_when_its_holder_lets_go(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with locked(path):
        assert try_lock(path) is None
    descriptor = try_lock(path)
    assert descriptor is not None
    assert try_lock(path) is None
    files.os.close(descriptor)
    again = try_lock(path)
    assert again is not None
    files.os.close(again)


def put(final: Path, number: int, die_at: int) -> None:
    """Replace `final` by a folder of two files that say `number`; die at the `die_at`-th step."""
    steps = iter(range(1000))

    def step() -> None:
        if next(steps) == die_at:
            raise Death

    with pytest.MonkeyPatch.context() as patch:
        for name in ("rename", "mkdir"):
            original = getattr(Path, name)

            def dying(self: Path, *args: object, original=original) -> object:
                step()
                return original(self, *args)

            patch.setattr(Path, name, dying)
        remove = files.shutil.rmtree

        def dying_rmtree(path: Path, ignore_errors: bool = False) -> None:
            step()
            # A death in the middle of removing: one of two files is gone.
            for file in sorted(path.iterdir())[:1]:
                file.unlink()
            step()
            remove(path, ignore_errors)

        patch.setattr(files.shutil, "rmtree", dying_rmtree)
        fresh = fresh_folder(final)
        (fresh / "a").write_text(str(number))
        step()
        (fresh / "b").write_text(str(number))
        swap_in(fresh, final)


def content(folder: Path) -> list[str]:
    return [(folder / name).read_text() for name in ("a", "b")]


def test_what_was_begun_is_dropped_and_what_was_whole_stays(tmp_path: Path) -> None:
    final = tmp_path / "last"
    (fresh_folder(final) / "a").write_text("half")
    drop_fresh(final)
    assert list(tmp_path.iterdir()) == []
    put(final, 1, die_at=-1)
    (fresh_folder(final) / "a").write_text("half")
    drop_fresh(final)
    assert content(final) == ["1", "1"]
    assert list(tmp_path.iterdir()) == [final]
    # Between the renames of a swap the new one is the whole one.
    (fresh_folder(final) / "a").write_text("2")
    final.rename(tmp_path / "last.old")
    drop_fresh(final)
    assert settled(final) == tmp_path / "last.new"


def test_a_swap_that_a_death_interrupted_is_finished(tmp_path: Path) -> None:
    final = tmp_path / "last"
    finish_swap(final)
    assert list(tmp_path.iterdir()) == []
    put(final, 1, die_at=-1)
    for name in ("a", "b"):
        (tmp_path / "last.new").mkdir(exist_ok=True)
        (tmp_path / "last.new" / name).write_text("2")
    final.rename(tmp_path / "last.old")
    finish_swap(final)
    assert content(final) == ["2", "2"]
    assert list(tmp_path.iterdir()) == [final]


def test_no_death_at_any_step_loses_the_last_whole_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the disk does after a power cut is not played here, and syncing is slow.
    monkeypatch.setattr(files, "fsync_folder", lambda folder: None)
    for first in range(10):
        for second in range(14):
            final = tmp_path / f"{first}-{second}" / "last"
            final.parent.mkdir()
            put(final, 1, die_at=-1)
            written = 1
            for number, die_at in ((2, first), (3, second)):
                try:
                    put(final, number, die_at)
                except Death:
                    pass
                else:
                    written = number
                whole = settled(final)
                assert whole is not None, (first, second)
                a, b = content(whole)
                assert a == b
                assert int(a) >= written
            put(final, 4, die_at=-1)
            assert content(final) == ["4", "4"]
            assert [p.name for p in final.parent.iterdir()] == ["last"]


def test_a_swap_has_succeeded_though_the_old_folder_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "last"
    put(final, 1, die_at=-1)

    def rmdir(path: Path, **_: object) -> None:
        raise OSError(errno.ENOTEMPTY, "NFS keeps a file that is mapped", str(path))

    with monkeypatch.context() as nfs:
        nfs.setattr(files.os, "rmdir", rmdir)
        put(final, 2, die_at=-1)
    assert content(final) == ["2", "2"]
    put(final, 3, die_at=-1)
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


def test_old_folders_that_stay_mapped_stand_in_no_further_swaps_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On NFS a folder of which a process maps a file can be moved, but not removed."""
    final = tmp_path / "last"
    remove = files.shutil.rmtree

    def rmtree(path: Path, ignore_errors: bool = False) -> None:
        if ".old" not in path.name:
            remove(path, ignore_errors)
        elif not ignore_errors:
            raise OSError(errno.ENOTEMPTY, "NFS keeps a file that is mapped", str(path))

    monkeypatch.setattr(files.shutil, "rmtree", rmtree)
    for number in range(1, 5):
        fresh = fresh_folder(final)
        (fresh / "a").write_text(str(number))
        swap_in(fresh, final)
        assert (final / "a").read_text() == str(number)


def test_before_the_first_folder_is_whole_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(Death):
        put(tmp_path / "last", 1, die_at=1)
    assert settled(tmp_path / "last") is None


def test_a_swap_that_ends_while_one_looks_leaves_the_new_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "last"

    def ended_before_this_look(*_: object) -> None:
        final.mkdir()

    monkeypatch.setattr(files, "_settled_in", ended_before_this_look)
    assert settled(final) == final
