"""No damaged file ends a reader otherwise than by its work or by one line for the user.

Long: ``python tests/faults/fuzz.py``. ``found/READER-N`` holds inputs that once went wrong.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz import read_damaged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from readers import READERS, make_home

from lmbench.session import Home

FOUND = Path(__file__).parent / "found"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMBENCH_HOME", str(folder))
        patch.setenv("LMBENCH_CACHE", str(folder / "cache"))
        yield make_home(folder)


@pytest.mark.parametrize("name", READERS)
def test_the_undamaged_file_is_read(name: str, home: Home) -> None:
    reader = READERS[name]
    reader.read(home, home.path / reader.file)


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused(name: str, home: Home) -> None:
    reader = READERS[name]
    path = home.path / reader.file
    whole = path.read_bytes()

    @settings(
        max_examples=15,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.integers(0, 2**32))
    def damaged(seed: int) -> None:
        read_damaged(reader, home, reader.damage(random.Random(seed), whole))

    try:
        damaged()
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("case", sorted(FOUND.glob("*")), ids=lambda path: path.name)
def test_what_went_wrong_once_does_so_no_more(case: Path, home: Home) -> None:
    reader = READERS[case.name.rpartition("-")[0].replace("-", " ")]
    path = home.path / reader.file
    whole = path.read_bytes()
    try:
        read_damaged(reader, home, case.read_bytes())
    finally:
        path.write_bytes(whole)
