"""The runs of the session: their tree, what can be done with one, and its log."""
