"""Schedules: read, checked, predicted, and run."""
