"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lmbench.corpus.files import is_writable, publish, scratch_folder, user_cache
from lmbench.errors import LmbenchError


def is_whole(folder: Path) -> bool:
    return (folder / "text").is_file() and (folder / "text").read_text() != "damaged"


def build(scratch: Path, text: str) -> Path:
    built = scratch / "built"
    built.mkdir()
    (built / "text").write_text(text)
    return built


def test_a_scratch_folder_is_gone_afterwards_even_after_an_error(tmp_path: Path) -> None:
    def break_off() -> None:
        with scratch_folder(tmp_path / "new") as scratch:
            (scratch / "half").write_text("written")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert list((tmp_path / "new").iterdir()) == []


def test_a_scratch_folder_of_a_living_process_or_another_machine_stays(tmp_path: Path) -> None:
    elsewhere = tmp_path / ".lmbench-another-machine-999999999-abc"
    elsewhere.mkdir()
    with scratch_folder(tmp_path) as one, scratch_folder(tmp_path) as other:
        assert one != other
        assert one.is_dir()
    assert list(tmp_path.iterdir()) == [elsewhere]


def test_the_users_cache_is_for_the_user_alone_whatever_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where others could write, compiled kernels are not loaded."""
    monkeypatch.setenv("LMBENCH_CACHE", str(tmp_path / "cache"))
    before = os.umask(0)
    try:
        with scratch_folder(user_cache() / "ids"):
            pass
    finally:
        os.umask(before)
    assert [user_cache().stat().st_mode & 0o777, (user_cache() / "ids").stat().st_mode & 0o777] == [
        0o700,
        0o700,
    ]


def test_a_cache_of_no_user_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMBENCH_CACHE", "~nobody-of-this-name/x")
    with pytest.raises(LmbenchError, match="~nobody-of-this-name"):
        user_cache()


def test_what_was_built_is_moved_into_place(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as scratch:
        built = build(scratch, "new")
        publish(built, tmp_path / "target", is_whole)
        assert not built.exists()
    assert (tmp_path / "target" / "text").read_text() == "new"


@pytest.mark.parametrize(
    "there, afterwards", [("another's", "another's"), ("damaged", "new"), (None, "new")]
)
def test_what_is_sound_in_its_place_stays_and_what_is_not_is_replaced(
    tmp_path: Path, there: str | None, afterwards: str
) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / ("text" if there else "unrelated")).write_text(there or "")
    with scratch_folder(tmp_path) as scratch:
        publish(build(scratch, "new"), target, is_whole)
    assert (target / "text").read_text() == afterwards
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_without_write_permission_is_not_writable_even_to_the_superuser(
    tmp_path: Path,
) -> None:
    assert is_writable(tmp_path / "to" / "be" / "made")
    (tmp_path / "file").write_text("")
    assert not is_writable(tmp_path / "file")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    assert not is_writable(locked)
    assert not is_writable(locked / "inside")


def test_what_lies_in_a_folder_that_may_not_be_entered_is_not_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stat(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", stat)
    assert not is_writable(tmp_path / "inside")


def test_the_users_cache_is_where_the_environment_or_the_platform_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMBENCH_CACHE", str(tmp_path / "mine"))
    assert user_cache() == tmp_path / "mine"
    monkeypatch.delenv("LMBENCH_CACHE")
    assert "lmbench" in user_cache().parts
