"""What torch's libraries read once, when they are loaded; for a worker to set before that.

No torch in here: importing it is what these must come before.
"""

from __future__ import annotations

import os

__all__ = ["worker_environment"]


def worker_environment() -> dict[str, str]:
    """The settings of a process that computes, less those that the user made.

    - ``THP_MEM_ALLOC_ENABLE``: torch asks for huge pages for what is larger than one (where the
      kernel's policy is ``madvise``): a bf16 step at 2x650 is a twentieth faster.
    - ``GOMP_SPINCOUNT``: how long OpenMP's threads wait busily for the next work. By default that
      is for milliseconds, which another program on the same cores pays for, and this one too:
      beside one busy program a bf16 step at 2x650 on two cores takes 450 to 640 ms, and 330 like
      this. Alone it makes no difference.
    """
    ours = {"THP_MEM_ALLOC_ENABLE": "1"}
    if "OMP_WAIT_POLICY" not in os.environ:
        ours["GOMP_SPINCOUNT"] = "3000"
    return {name: value for name, value in ours.items() if name not in os.environ}
