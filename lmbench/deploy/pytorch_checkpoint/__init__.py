"""Checkpoints of PyTorch's example and of Distiller, read without unpickling them."""
