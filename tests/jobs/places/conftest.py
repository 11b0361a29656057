from jobs_world import world
from slurm_world import slurm
from sweep_world import sweep_home

__all__ = ["slurm", "sweep_home", "world"]
