"""C++ of this package, compiled on demand, once for each version of its source, and loaded.

Nothing needs it: where no compiler is at hand, or ``LMBENCH_NATIVE=0`` is set, its users give the
reason or do without.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import re
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

from lmbench.corpus.files import make_cache, own_cache, user_cache

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
# What stops a compiler that could have compiled it.
_PASSING = re.compile(
    "killed|no space left|disk quota|out of memory|cannot allocate", re.IGNORECASE
)
# A compiler that took no processor time for so long hangs; a busy machine makes one merely slow.
_IDLE_LIMIT_S = 60


class NativeUnavailableError(Exception):
    """Why the kernels cannot be had on this machine, in words that follow 'because'."""


def compiler() -> str | None:
    """The C++ compiler to use: ``$CXX``, else the first of the usual ones on the path."""
    wanted = os.environ.get("CXX")
    candidates = (wanted,) if wanted else _COMPILERS
    return next((found for name in candidates if (found := shutil.which(name))), None)


def _stamp(cxx: str) -> str:
    """A hash by which a compiler is known until it is replaced."""
    words = f"{cxx} {Path(cxx).stat().st_mtime_ns}"
    return hashlib.sha256(words.encode()).hexdigest()[:8]


def _no_compiler() -> str:
    wanted = os.environ.get("CXX")
    if wanted:
        return f"CXX is '{wanted}', and no program of that name is on the path"
    return "no C++ compiler (g++ or clang++) is on the path"


def cache_folders() -> tuple[Path, ...]:
    """Where compiled kernels are kept: the first of these that nobody else can write to."""
    return tuple(dict.fromkeys((user_cache() / "native", own_cache() / "native")))


def why_not_trusted(path: Path) -> str | None:
    """Why another user of this machine could have put this file there, or None.

    It, where it exists, and every folder above must belong to this user or to root, and be
    writable for nobody else; a sticky folder like /tmp lets others add files but not replace any.
    """
    resolved = path.resolve()
    for place in dict.fromkeys((path, *path.parents, resolved, *resolved.parents)):
        try:
            status = place.stat()
        except FileNotFoundError:
            continue
        if status.st_uid not in (os.getuid(), 0):
            return f"{place} belongs to another user"
        if (
            status.st_mode & stat.S_ISVTX
            and stat.S_ISDIR(status.st_mode)
            and place
            not in (
                path.parent,
                resolved.parent,
            )
        ):
            continue
        if status.st_mode & 0o002 or (
            status.st_mode & 0o020 and not _is_private_group(status.st_gid)
        ):
            return f"{place} can be written by other users"
    return None


def _is_private_group(gid: int) -> bool:
    """Has this group no member but this user, as where each user has a group of the same name?"""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(gid)
    except KeyError:
        return False
    return gid == 0 or (group.gr_name == user and set(group.gr_mem) <= {user})


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
        in a home that machines with other system libraries share. One that lacks instructions also
        has the compiler in its name: a newer one may know them. It is compiled beside and moved in
        whole.

        Raises:
            NativeUnavailableError: there is no compiler, it failed, or others can write there.
        """
        folder = self._trusted(cache_folders() if folder is None else (folder,))
        name = f"{self.source.stem}-{self.key()}{'-' + host if host else ''}"
        cxx = compiler()
        target, reduced = folder / f"{name}.so", f"{name}.by-{_stamp(cxx) if cxx else '*'}.so"
        for known in (target, *folder.glob(reduced)):
            if known.is_file() and why_not_trusted(known.absolute()) is None:
                return known
        if cxx is None:
            raise NativeUnavailableError(_no_compiler())
        try:
            make_cache(folder)
            with tempfile.TemporaryDirectory(prefix=".build-", dir=folder) as scratch:
                fresh = Path(scratch) / target.name
                if self._compile(cxx, fresh):
                    target = folder / reduced
                # A umask may let others write what is new, and then it would not be trusted.
                fresh.chmod(0o700)
                fresh.replace(target)
        except OSError as error:
            raise NativeUnavailableError(f"{folder} cannot be written ({error.strerror})") from None
        if reason := why_not_trusted(target.absolute()):
            raise NativeUnavailableError(reason)
        return target

    @staticmethod
    def _trusted(folders: tuple[Path, ...]) -> Path:
        """The first of these folders that nobody else can write to."""
        reason = None
        for folder in folders:
            reason = why_not_trusted(folder.absolute() / "kernels.so")
            if reason is None:
                return folder
        raise NativeUnavailableError(
            f"{reason}, so what is compiled there cannot be trusted: set LMBENCH_CACHE to a folder "
            "of your own"
        )

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

    def _compile(self, cxx: str, target: Path) -> tuple[str, ...]:
        """Compile the newest instructions that this compiler and its assembler know; gives the
        flags that leave others out."""
        message = ""
        for left_out in ((), *self.without):
            message = self._try_to_compile(cxx, target, left_out)
            if not message:
                return left_out
            if _PASSING.search(message):
                # It says nothing of what the compiler knows.
                break
        raise NativeUnavailableError(f"{cxx} failed: {message}")

    def _try_to_compile(self, cxx: str, target: Path, left_out: tuple[str, ...]) -> str:
        """What the compiler complains of, in a line; empty where it succeeded."""
        command = [cxx, *_FLAGS, *left_out, str(self.source), "-o", str(target)]
        try:
            compiling = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
        except OSError as error:
            raise NativeUnavailableError(f"{cxx} cannot be run ({error.strerror})") from None
        try:
            messages = _messages_of(compiling)
        except TimeoutError:
            raise NativeUnavailableError(f"{cxx} did nothing for {_IDLE_LIMIT_S} s") from None
        if not compiling.returncode:
            return ""
        lines = sorted(messages.splitlines(), key=lambda line: not _PASSING.search(line))
        told = (line for line in lines if "error" in line.lower() or _PASSING.search(line))
        return next(told, "no message").strip()[:200]


def _messages_of(compiling: subprocess.Popen[str]) -> str:
    """What a compiler has written when it is done; it is killed if this thread is interrupted.

    Raises:
        TimeoutError: it took no processor time for `_IDLE_LIMIT_S`.
    """
    spent = -1.0
    with compiling:
        try:
            while True:
                try:
                    return compiling.communicate(timeout=_IDLE_LIMIT_S)[1]
                except subprocess.TimeoutExpired:
                    before, spent = spent, _processor_time(compiling.pid)
                    if spent <= before:
                        raise TimeoutError from None
        except BaseException:
            _kill(compiling.pid)
            raise


def _processor_time(pid: int) -> float:
    """Seconds that a process and those it started have taken."""
    with contextlib.suppress(psutil.Error):
        driver = psutil.Process(pid)
        return sum(sum(one.cpu_times()[:4]) for one in (driver, *driver.children(recursive=True)))
    return 0.0


def _kill(pid: int) -> None:
    """A compiler's driver with the stages that it started; itself first, or it goes on when a
    stage has ended."""
    with contextlib.suppress(psutil.Error):
        driver = psutil.Process(pid)
        for one in (driver, *driver.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                one.kill()


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
