"""Quantizers of others, each a script for a Python that has it. Knows nothing of arkinfer."""
