"""Processes that stay while the workbench is open: loading torch and a model takes seconds."""
