"""Folders that tests read from."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
VECTORS = REPOSITORY / "tests" / "vectors"
# Beside the checkout, where somebody has put it: the real corpus, and a model trained on it.
SHARED = REPOSITORY.parent / "shared"
WIKITEXT = SHARED / "data" / "wikitext-2"
