"""The runs of a sweep, and what they come to."""
