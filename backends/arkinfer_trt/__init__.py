"""The TensorRT backend, host half: a standard ONNX network that a board's TensorRT finishes."""
