"""The TensorRT backend: networks in standard ONNX, which a board's TensorRT finishes and runs."""
