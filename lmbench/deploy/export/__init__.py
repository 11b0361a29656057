"""Models for other programs: ONNX and safetensors."""
