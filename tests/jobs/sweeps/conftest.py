"""A working folder with a tiny corpus and a small sweep."""

from sweep_world import sweep_home as sweep_home
