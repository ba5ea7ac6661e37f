"""The ONNX Runtime backend: one ONNX model, whose weights stay where they are in the .ark file."""
