"""Compiles MiniCPM-family checkpoints into one file that a torch-free runner executes."""

__version__ = "0.1.0"
