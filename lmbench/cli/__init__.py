"""The command line: ``lmbench``, one file a group of verbs, each thin.

Nothing here imports torch: commands that compute start a worker process and follow its folder.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lmbench.errors import LmbenchError

__all__ = ["main"]

BAD_INPUT = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 the run failed, 2 bad input, 130 interrupted."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run one command; gives its exit code."""
    from cyclopts import CycloptsError

    from lmbench.cli.app import build

    app = build()
    try:
        result = app(
            arguments,
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
    except LmbenchError as error:
        return _refuse(error.message)
    except CycloptsError as error:
        return _refuse(" ".join(str(error).split()))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has left (`| head`); there is nobody to tell.
        sys.stderr.close()
        return 0
    return result if isinstance(result, int) else 0


def _refuse(message: str) -> int:
    for line in message.split("\n"):
        print(f"lmbench: {line}", file=sys.stderr)
    return BAD_INPUT
