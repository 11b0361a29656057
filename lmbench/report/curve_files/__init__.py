"""The curves of runs as files that other programs draw: CSV, TensorBoard, Weights & Biases."""
