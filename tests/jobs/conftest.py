"""A working folder for real processes, with none of them left behind."""

from jobs_world import world as world
