"""Text from a model: sampling word by word, and the neural cache."""
