"""Text from the selected run, or from several side by side."""
