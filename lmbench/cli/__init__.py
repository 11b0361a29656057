"""The command line: ``lmbench``, one file a group of verbs, each thin.

Nothing here imports torch: commands that compute start a worker process and follow its folder.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from lmbench.errors import BAD_INPUT, INTERRUPTED, LmbenchError, os_error_line

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 the run failed, 2 bad input, 130 interrupted."""
    # Importing makes many objects and none to collect: a tenth of the time to a first answer.
    gc.disable()
    # pydantic would look for plugins in all that is installed; none of them is of use here.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    _open_missing_streams()
    sys.exit(_flushed(run(list(sys.argv[1:] if arguments is None else arguments))))


def _open_missing_streams() -> None:
    """A process may be started without some of them (``>&-``); nothing is read or lost there."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def _flushed(code: int) -> int:
    """The exit code, once all of the answer is written: as Python ends it would try that after all
    errors are told."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Else it would try again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return code
        from lmbench.cli.output import complain

        complain(f"standard output: {error.strerror}")
        return code or BAD_INPUT
    return code


def run(arguments: list[str]) -> int:
    """Run one command; gives its exit code."""
    with _exit_on_interrupt():
        from cyclopts import CycloptsError

        from lmbench.cli.app import parse_error_line
        from lmbench.cli.output import complain

    for stream in (sys.stdout, sys.stderr):
        # A terminal that knows only ASCII shows a question mark for what it has no sign for.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        with _exit_on_interrupt():
            command = _parse(arguments)
        gc.enable()
        result = command()
    except LmbenchError as error:
        complain(error.message)
    except CycloptsError as error:
        complain(parse_error_line(error, " ".join(_command_words(arguments))))
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has left (`| head`).
        return 0
    except OSError as error:
        complain(os_error_line(error, " ".join(_command_words(arguments))))
    else:
        return result if isinstance(result, int) else 0
    return BAD_INPUT


def _parse(arguments: list[str]) -> Callable[[], Any]:
    """The command that is asked for, its module imported and its arguments checked."""
    from lmbench.cli.app import build, check_command
    from lmbench.cli.output import console

    check_command(arguments)
    # A command's own console would keep the width of the first time it was asked for help.
    command, bound, _ = build(_command_words(arguments)).parse_args(
        arguments, console=console(pipe_width=0), exit_on_error=False, print_error=False
    )
    return lambda: command(*bound.args, **bound.kwargs)


def _command_words(arguments: list[str]) -> list[str]:
    """Which command it is: ``sessions pack``."""
    from lmbench.cli.app import GROUPS

    words = arguments[: 2 if arguments[:1] and arguments[0] in GROUPS else 1]
    return [word for word in words if not word.startswith("-")]


@contextmanager
def _exit_on_interrupt() -> Iterator[None]:
    """While modules are imported and nothing is under way, Ctrl-C ends the process at once: an
    exception could come up in the midst of an import, and be printed whole.

    Afterwards Ctrl-C interrupts, also where it was ignored: a script starts so what it ends in `&`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(_signum: int, _frame: object) -> None:
        os.write(2, b"lmbench: interrupted\n")
        os._exit(INTERRUPTED)

    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(
            signal.SIGINT, signal.default_int_handler if before == signal.SIG_IGN else before
        )
