"""The compiled extra is built where a compiler is, once, and missed by nobody where none is."""

import ctypes
import itertools
import os
import subprocess
import sys
import time

import pytest
from places import REPOSITORY

from lmbench.compile_kernels import Unit, _kill, _processor_time, compiler, why_not_trusted
from lmbench.deploy.native import NativeUnavailableError, library, why_unavailable
from lmbench.deploy.native.build import KERNELS
from lmbench.session.remembered import remember

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C++ compiler here")


@needs_compiler
def test_it_is_compiled_once_and_found_again_without_a_compiler(tmp_path, monkeypatch):
    source, cache = tmp_path / "small.cpp", tmp_path / "cache"
    source.write_text('extern "C" int one() { return 1; }')
    unit = Unit(source)
    first = unit.build(cache)
    assert ctypes.CDLL(str(first)).one() == 1
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert unit.build(cache) == first
    assert [p.name for p in cache.iterdir()] == [first.name]


def test_without_a_compiler_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(NativeUnavailableError, match="no C\\+\\+ compiler"):
        KERNELS.build(tmp_path)


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(tmp_path, monkeypatch):
    fake = tmp_path / "g++"
    fake.write_text("#!/bin/sh\necho 'kernels.cpp:1: error: what is this' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    with pytest.raises(
        NativeUnavailableError, match=r"failed: kernels\.cpp:1: error: what is this"
    ):
        KERNELS.build(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_broken_compiler_is_asked_only_once(tmp_path, monkeypatch):
    counter = tmp_path / "count"
    fake = tmp_path / "c++"
    fake.write_text(f"#!/bin/sh\necho x >> {counter}\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    monkeypatch.setenv("LMBENCH_CACHE", str(tmp_path / "cache"))
    for _ in range(3):
        assert "failed" in str(why_unavailable())
    # Once with all instructions, once without AMX, once without AVX512.
    assert counter.read_text() == "x\n" * 3


@needs_compiler
@pytest.mark.parametrize(
    "unknown, best",
    [pytest.param("LMBENCH_NO_AMX", 2, marks=pytest.mark.slow), ("LMBENCH_NO_AVX512", 1)],
)
def test_an_old_assembler_costs_its_instructions_and_no_more(tmp_path, monkeypatch, unknown, best):
    """A compiler that fails until `unknown` is asked for."""
    real = compiler()
    fake = tmp_path / "c++"
    fake.write_text(
        f'#!/bin/sh\ncase "$*" in *{unknown}*) exec {real} "$@";; esac\n'
        'echo "error: no such instruction" >&2\nexit 1\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    built = ctypes.CDLL(str(KERNELS.build(tmp_path / "cache")))
    assert built.lmb_isa() == min(best, library().lmb_isa())


@needs_compiler
def test_what_an_old_or_starved_compiler_leaves_out_comes_with_a_better_one(tmp_path, monkeypatch):
    source, cache, real = tmp_path / "small.cpp", tmp_path / "cache", compiler()
    source.write_text('extern "C" int full() {\n#ifdef LESS\nreturn 0;\n#endif\nreturn 1; }')
    unit, fake = Unit(source, without=(("-DLESS",),)), tmp_path / "c++"
    monkeypatch.setenv("CXX", str(fake))

    def complains(words: str) -> None:
        less = f'case "$*" in *-DLESS*) exec {real} "$@";; esac'
        fake.write_text(f'#!/bin/sh\n{less}\necho "{words}" >&2\nexit 1\n')
        fake.chmod(0o755)

    complains("fatal error: Killed signal terminated program cc1plus")
    with pytest.raises(NativeUnavailableError, match="Killed signal terminated"):
        unit.build(cache)
    complains("error: no such instruction")
    less = unit.build(cache)
    assert ctypes.CDLL(str(less)).full() == 0
    assert unit.build(cache) == less
    monkeypatch.setenv("CXX", str(real))
    full = unit.build(cache)
    assert ctypes.CDLL(str(full)).full() == 1
    monkeypatch.setenv("CXX", str(fake))
    assert unit.build(cache) == full
    full.unlink()
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX")
    assert unit.build(cache) == less


@needs_compiler
def test_a_library_that_does_not_load_here_is_built_for_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("LMBENCH_CACHE", str(tmp_path))
    foreign = tmp_path / "native" / f"kernels-{KERNELS.key()}.so"
    foreign.parent.mkdir(mode=0o700)
    foreign.write_bytes(b"made for another system")
    # A compiler of another name, so that this is a first attempt.
    real = compiler()
    assert real is not None
    (tmp_path / "c++").symlink_to(real)
    monkeypatch.setenv("CXX", str(tmp_path / "c++"))
    assert why_unavailable() is None
    assert foreign.read_bytes() == b"made for another system"


def test_a_compiler_that_is_not_on_the_path_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "ccache g++")
    with pytest.raises(NativeUnavailableError, match=r"CXX is 'ccache g\+\+', and no program"):
        KERNELS.build(tmp_path)


@pytest.mark.parametrize(
    "first",
    [
        lambda: None,
        lambda: remember("runtimes", "key", "torch"),
    ],
    ids=["nothing", "a measurement"],
)
def test_a_library_is_ones_own_whatever_the_umask_lets_others_do(tmp_path, monkeypatch, first):
    """Also where the first that is kept in the cache was something else."""
    fake, source = tmp_path / "c++", tmp_path / "small.cpp"
    fake.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho mine > "$2"\n')
    fake.chmod(0o755)
    source.write_text("")
    monkeypatch.setenv("CXX", str(fake))
    monkeypatch.setenv("LMBENCH_CACHE", str(tmp_path / "caches" / "cache"))
    monkeypatch.setattr("lmbench.compile_kernels.own_cache", lambda: tmp_path / "own")
    before = os.umask(0)
    try:
        first()
        built = Unit(source).build()
    finally:
        os.umask(before)
    assert built.parent == tmp_path / "caches" / "cache" / "native"
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    assert Unit(source).build() == built


def test_a_compiler_that_cannot_be_run_is_named(tmp_path, monkeypatch):
    fake = tmp_path / "c++"
    fake.write_bytes(b"\x7fELF no program")
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    with pytest.raises(NativeUnavailableError, match=r"c\+\+ cannot be run"):
        KERNELS.build(tmp_path / "cache")


def test_it_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("LMBENCH_NATIVE", "0")
    with pytest.raises(NativeUnavailableError, match="LMBENCH_NATIVE=0"):
        library()


def test_a_packed_model_runs_where_there_is_no_compiler(tmp_path):
    code = f"""
import torch
from pathlib import Path
from lmbench.config import PackConfig
from lmbench.deploy.runtimes.choose import open_runtime
from lmbench.deploy.load_model import load_packed
from lmbench.deploy.packed_file.writing import write_packed
from lmbench.deploy.runtimes.table import (RUNTIMES, supported)
from lmbench.model.rnn import RNNModel

model = RNNModel("LSTM", 30, 16, 16, 1, 0.0, tie_weights=True).eval()
path = Path({str(tmp_path / "m.lmpack")!r})
write_packed(model, [f"w{{i}}" for i in range(30)], path, PackConfig(weights="int8"))
loaded = load_packed(path)
names = [entry.name for entry in supported(loaded)]
assert not any("native" in name for name in names), names
print(RUNTIMES["native-int8"].refusal(loaded))
runtime = open_runtime("as-is", loaded, "step")
assert runtime.name == "int8", runtime.name
logits, _ = runtime.step(torch.tensor([3]), runtime.initial_state())
assert logits.shape == (1, 30)
"""
    environment = {
        **{k: v for k, v in os.environ.items() if k not in ("CXX", "LMBENCH_NATIVE")},
        "PATH": "",
        "LMBENCH_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(REPOSITORY),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "no C++ compiler" in done.stdout


def test_a_library_that_another_user_could_have_put_there_is_not_loaded(tmp_path, monkeypatch):
    """It is compiled anew, into a folder of one's own."""
    shared, own = tmp_path / "shared", tmp_path / "own"
    planted = shared / "native" / f"kernels-{KERNELS.key()}.so"
    planted.parent.mkdir(parents=True)
    planted.write_bytes(b"somebody's")
    monkeypatch.setenv("LMBENCH_CACHE", str(shared))
    monkeypatch.setattr("lmbench.compile_kernels.own_cache", lambda: own)
    fake = tmp_path / "c++"
    fake.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho mine > "$2"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    assert KERNELS.build() == planted
    for place, mode in ((shared, 0o777), (planted.parent, 0o777), (planted.parent, 0o1777)):
        before = place.stat().st_mode
        place.chmod(mode)
        built = KERNELS.build()
        assert built == own / "native" / planted.name
        assert built.read_text() == "mine\n"
        place.chmod(before)
    planted.chmod(0o666)
    assert KERNELS.build().read_text() == "mine\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_a_folder_or_library_of_another_user_is_not_trusted(tmp_path):
    library_path = tmp_path / "cache" / "kernels.so"
    library_path.parent.mkdir()
    library_path.write_bytes(b"somebody's")
    assert why_not_trusted(library_path) is None
    for place in (library_path, library_path.parent):
        os.chown(place, 12_345, 0)
        assert why_not_trusted(library_path) == f"{place} belongs to another user"
        os.chown(place, 0, 0)


def test_where_no_folder_is_ones_own_the_reason_names_the_folder_and_the_remedy(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(NativeUnavailableError, match=r"written by other users.*LMBENCH_CACHE"):
        KERNELS.build(tmp_path / "native")


def test_a_slow_compiler_is_waited_for_and_one_that_hangs_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr("lmbench.compile_kernels._IDLE_LIMIT_S", 0.2)
    fake = tmp_path / "c++"
    fake.write_text('#!/bin/sh\nsleep 1; while [ "$1" != -o ]; do shift; done; echo done > "$2"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    taken = itertools.count()
    with monkeypatch.context() as patch:
        patch.setattr("lmbench.compile_kernels._processor_time", lambda pid: next(taken))
        assert KERNELS.build(tmp_path / "slow").read_text() == "done\n"
    assert next(taken) > 1
    fake.write_text("#!/bin/sh\nsleep 600\n")
    with pytest.raises(NativeUnavailableError, match=r"did nothing for 0\.2 s"):
        KERNELS.build(tmp_path / "hangs")


def test_the_processor_time_of_a_compiler_is_that_of_its_stages_too():
    busy = "while :; do :; done"
    with subprocess.Popen(["sh", "-c", f"sh -c '{busy}'; :"]) as driver:
        try:
            while _processor_time(driver.pid) < 0.05:
                time.sleep(0.01)
        finally:
            _kill(driver.pid)
