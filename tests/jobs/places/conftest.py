from ray_world import ray_cluster as ray_cluster
from slurm_world import slurm as slurm
