"""Working folders: for real processes, with none of them left behind, and with a tiny corpus."""

from jobs_world import world as world
from sweep_world import sweep_home as sweep_home
