"""NVIDIA's packages for CUDA."""
