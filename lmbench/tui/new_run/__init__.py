"""Starting runs: the form, the published commands, and what a run will take."""
