"""Settings of malloc, in processes of their own."""

import subprocess
import sys

import pytest

# Prints how many heaps malloc has after several threads have allocated at once.
_HEAPS = """
import ctypes, os, threading
from lmbench.malloc import ARENA_MAX, set_malloc
told = {told}
all_there = threading.Barrier(4)
def allocate():
    kept = bytearray(5_000)
    all_there.wait()
threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc = ctypes.CDLL(None)
if not hasattr(libc, "malloc_info"):
    raise SystemExit("no malloc_info")
libc.fdopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, file)
libc.fflush(file)
"""


def heaps(told: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _HEAPS.format(told=told)], capture_output=True, text=True, check=True
    )
    return done.stdout.count("<heap nr")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_threads_share_one_heap_where_it_is_asked_for() -> None:
    try:
        several = heaps("None")
    except subprocess.CalledProcessError:
        pytest.skip("this C library has no malloc_info")
    assert several > 1
    assert heaps("set_malloc({ARENA_MAX: 1})") == 1
