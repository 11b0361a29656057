"""The per-layer tables of a run, and one tensor in detail."""
