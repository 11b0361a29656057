"""Whose threads the kernels run in: those of the OpenMP that torch has loaded."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest

from lmbench.training.native import process

PACKAGES = "/venv/lib/python3.11/site-packages"
GNU, LLVM, INTEL = "/lib/libgomp.so.1.0.0", "/conda/lib/libomp.so", "/conda/lib/libiomp5.so"
TORCH = Path(PACKAGES, "torch")


def maps(*paths: str) -> list[str]:
    return [
        "55d0c0a00000-55d0c0a28000 r--p 00000000 fd:01 1835017                    /usr/bin/python3",
        "7f1200000000-7f1200021000 rw-p 00000000 00:00 0 ",
        *(
            f"7f12{n:08x}-7f13{n:08x} r-xp 00000000 fd:01 18350{n}                    {path}"
            for n, path in enumerate(paths)
        ),
        "7ffd1d5e4000-7ffd1d605000 rw-p 00000000 00:00 0                          [stack]",
    ]


@pytest.mark.parametrize("path", [GNU, LLVM, INTEL, "/opt/my libs/libgomp-a34b3233.so.1"])
def test_each_makers_is_known(path: str) -> None:
    assert process.openmp_library(maps("/lib/libc.so.6", path), TORCH) == path


@pytest.mark.parametrize("path", ["/lib/libgompertz/libc.so.6", "/lib/libompd.so", "/lib/omp.so"])
def test_others_are_not(path: str) -> None:
    assert process.openmp_library(maps(path), TORCH) is None


@pytest.mark.parametrize("folder", ["torch/lib", "torch.libs"])
def test_of_two_the_one_that_came_with_torch_is_taken(folder: str) -> None:
    own = f"{PACKAGES}/{folder}/libgomp-24e2ab19.so.1"
    other = f"{PACKAGES}/scikit_learn.libs/libgomp-a34b3233.so.1"
    assert process.openmp_library(maps(other, own), TORCH) == own
    assert process.openmp_library(maps(own, other), TORCH) == own


def test_a_library_that_is_gone_from_the_disk_is_done_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone = "/nowhere/libgomp.so.1 (deleted)"
    monkeypatch.setattr(process, "openmp_library", lambda lines, folder: gone)
    assert process.openmp.__wrapped__() is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no /proc here")
def test_torchs_own_is_found_here() -> None:
    address = process.openmp()
    assert address
    ran: list[int] = []
    work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: ran.append(1))
    parallel = ctypes.CFUNCTYPE(
        None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
    )
    parallel(address)(ctypes.cast(work, ctypes.c_void_p), None, 1, 0)
    assert ran == [1]
