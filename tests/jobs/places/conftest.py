from jobs_world import world
from ray_world import ray_cluster
from slurm_world import slurm
from sweep_world import sweep_home

__all__ = ["ray_cluster", "slurm", "sweep_home", "world"]
