"""GGUF files as checkpoints: what stands in them, read and never run. Knows no torch and no IR."""
