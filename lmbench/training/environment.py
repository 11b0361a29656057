"""What torch's libraries read once, when they are loaded; for a worker to set before that.

No torch in here: importing it is what these must come before.
"""

from __future__ import annotations

import os

__all__ = ["worker_environment"]


def worker_environment() -> dict[str, str]:
    """The settings of a process that computes, where the user made none.

    ``GOMP_SPINCOUNT`` is how long OpenMP's threads wait busily for the next work. By default that is
    for milliseconds, which another program on the same cores pays for, and this one too: beside one
    busy program a bf16 step at 2x650 on two cores takes 450 to 640 ms, and 330 like this. Alone it
    makes no difference.

    Not among them is ``THP_MEM_ALLOC_ENABLE``, torch's huge pages: that aligns every block to two
    megabytes, which splits the heap that `startup.keep_memory` makes malloc keep, and a training
    grows by a megabyte a step.
    """
    if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        return {}
    return {"GOMP_SPINCOUNT": "3000"}
