"""lmbench: a workbench in the terminal for compressing word-level language models."""

__version__ = "0.1.0"
