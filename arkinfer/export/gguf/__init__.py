"""Writes a checkpoint as a GGUF file, which llama.cpp runs. Knows no artifact and no backend."""
