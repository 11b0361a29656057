"""What a folder has to keep, tried."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lmbench.session.shared_folder import file_system, is_shared, problem_with


def test_a_folder_of_this_machine_keeps_all_and_nothing_is_left_in_it(tmp_path: Path) -> None:
    assert problem_with(tmp_path) is None
    assert not list(tmp_path.iterdir())
    assert not is_shared(file_system(tmp_path))


def test_a_folder_whose_renames_are_copies_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "rename", lambda path, target: shutil.copytree(path, target))
    assert problem_with(tmp_path) == "a file can be renamed out of a folder that is no longer there"


@pytest.mark.parametrize("system", ["nfs4", "lustre", "fuse.glusterfs"])
def test_network_file_systems_are_known(system: str) -> None:
    assert is_shared(system)


def test_the_file_system_of_a_folder_that_is_not_there_yet_is_known(tmp_path: Path) -> None:
    assert file_system(tmp_path / "to" / "come") == file_system(tmp_path)
