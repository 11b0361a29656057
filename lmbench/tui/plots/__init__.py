"""Curves of the selected and marked runs."""
