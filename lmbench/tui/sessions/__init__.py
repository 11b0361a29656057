"""Opening, copying, renaming, deleting and packing sessions."""
