"""What pruning each tensor alone costs."""
