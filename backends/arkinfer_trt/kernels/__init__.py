"""Kernels of our own for what TensorRT has no fast layer for, and how their weights lie."""
