"""Trained models at work: loading them, the runtimes that execute them, and exporting them."""
