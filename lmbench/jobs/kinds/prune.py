"""A pruning run is a training under a schedule, from its parent's weights or from scratch."""

from lmbench.jobs.kinds.train import work

__all__ = ["work"]
