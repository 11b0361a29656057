"""C++ of this package, compiled on demand, once for each version of its source, and loaded.

Nothing needs it: where no compiler is at hand, or ``LMBENCH_NATIVE=0`` is set, its users give the
reason or do without.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lmbench.corpus.files import user_cache

__all__ = ["NativeUnavailableError", "Unit", "compiler"]

# No -march=native: a home folder is shared by machines, so the instruction set is chosen when the
# kernels are called, not when they are compiled.
_FLAGS = (
    "-O3",
    "-std=c++17",
    "-shared",
    "-fPIC",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-exceptions",
    "-pthread",
)
_COMPILERS = ("g++", "clang++", "c++")
_LIMIT_S = 180


class NativeUnavailableError(Exception):
    """Why the kernels cannot be had on this machine, in words that follow 'because'."""


def compiler() -> str | None:
    """The C++ compiler to use: ``$CXX``, else the first of the usual ones on the path."""
    wanted = os.environ.get("CXX")
    candidates = (wanted,) if wanted else _COMPILERS
    return next((found for name in candidates if (found := shutil.which(name))), None)


def cache_folder() -> Path:
    """Where compiled kernels are kept."""
    return user_cache() / "native"


@dataclass(frozen=True)
class Unit:
    """One source file and the headers beside it, which become one library.

    Attributes:
        source: the file.
        without: flags tried one after another where the compiler, or the assembler behind it, is
            too old for the rest.
    """

    source: Path
    without: tuple[tuple[str, ...], ...] = ()

    def build(self, folder: Path | None = None, host: str = "") -> Path:
        """The compiled library, from the cache or compiled now.

        It is named by the hash of source, flags and kind of machine, so an upgrade compiles anew
        and two versions live side by side; `host` is added where the common one does not load, as
        in a home that machines with other system libraries share. It is compiled beside and moved
        in whole.

        Raises:
            NativeUnavailableError: there is no compiler, or it failed.
        """
        folder = folder or cache_folder()
        target = folder / f"{self.source.stem}-{self.key()}{'-' + host if host else ''}.so"
        if target.is_file():
            return target
        cxx = compiler()
        if cxx is None:
            raise NativeUnavailableError("no C++ compiler (g++ or clang++) is on the path")
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryDirectory(prefix=".build-", dir=folder) as scratch:
                fresh = Path(scratch) / target.name
                self._compile(cxx, fresh)
                fresh.replace(target)
        except OSError as error:
            raise NativeUnavailableError(f"{folder} cannot be written ({error.strerror})") from None
        return target

    def key(self) -> str:
        """A hash of source, flags and machine, different for each version of the library."""
        words = [*_FLAGS, platform.machine(), platform.system()]
        digest = hashlib.sha256(" ".join(words).encode())
        for source in sorted([self.source, *self.source.parent.glob("*.h")]):
            digest.update(source.read_bytes())
        return digest.hexdigest()[:16]

    def library(self) -> ctypes.CDLL:
        """The library, compiled if it has to be (a few seconds, once).

        Raises:
            NativeUnavailableError: see `build`; also where ``LMBENCH_NATIVE=0`` is set.
        """
        environment = os.environ
        outcome = _attempt(
            self,
            environment.get("PATH", ""),
            environment.get("LMBENCH_NATIVE", ""),
            environment.get("CXX", ""),
        )
        if isinstance(outcome, str):
            # A new one each time: one that is raised again keeps the frames of all its raisers.
            raise NativeUnavailableError(outcome)
        return outcome

    def _compile(self, cxx: str, target: Path) -> None:
        """Compile the newest instructions that this compiler and its assembler know."""
        *attempts, last = ((), *self.without)
        for left_out in attempts:
            if not self._try_to_compile(cxx, target, left_out):
                return
        if message := self._try_to_compile(cxx, target, last):
            raise NativeUnavailableError(f"{cxx} failed: {message}")

    def _try_to_compile(self, cxx: str, target: Path, left_out: tuple[str, ...]) -> str:
        """What the compiler complains of, in a line; empty where it succeeded."""
        command = [cxx, *_FLAGS, *left_out, str(self.source), "-o", str(target)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise NativeUnavailableError(f"{cxx} took longer than {_LIMIT_S} s") from None
        except OSError as error:
            raise NativeUnavailableError(f"{cxx} cannot be run ({error.strerror})") from None
        if not done.returncode:
            return ""
        lines = done.stderr.splitlines()
        return next((line for line in lines if "error" in line.lower()), "no message").strip()[:200]


@cache
def _loaded(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path))


@cache
def _attempt(unit: Unit, _path: str, setting: str, _cxx: str) -> ctypes.CDLL | str:
    """One try for each environment: a compiler that fails is not asked again and again.

    Gives the library, or why there is none. Where the cache is does not count: what is loaded once
    serves the whole process.
    """
    if setting == "0":
        return "LMBENCH_NATIVE=0 is set"
    try:
        try:
            return _loaded(unit.build())
        except OSError:
            return _loaded(unit.build(host=platform.node()))
    except NativeUnavailableError as error:
        return str(error)
    except OSError as error:
        return f"the compiled kernels cannot be loaded ({error})"
