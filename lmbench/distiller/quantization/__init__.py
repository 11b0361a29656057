"""Quantization after and during training."""
