"""The processor as Linux tells of it, which decides kernels and names a machine."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmbench.training import cpu_info

XEON = """processor\t: 0
vendor_id\t: GenuineIntel
model\t\t: 167
model name\t: Intel(R) Xeon(R): a Processor
flags\t\t: fpu amx_bf16

processor\t: 1
vendor_id\t: another
"""


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    cpu_info.described.cache_clear()
    yield
    cpu_info.described.cache_clear()


def test_the_first_cores_fields_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: XEON)
    found = cpu_info.described()
    assert (found["processor"], found["vendor_id"]) == ("0", "GenuineIntel")
    assert found["flags"].split() == ["fpu", "amx_bf16"]
    assert cpu_info.name() == "Intel(R) Xeon(R): a Processor"


def test_where_nothing_is_told_the_machines_kind_is_the_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert cpu_info.described() == {}
    assert cpu_info.name() == (platform.processor() or platform.machine())
