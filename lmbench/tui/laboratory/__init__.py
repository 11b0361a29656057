"""The quantization laboratory."""
