"""NVIDIA's bindings of CUDA's libraries."""
