"""Measures artifacts in processes of their own, and says with what confidence two differ.

Knows no backend and no torch. The command is `arkinfer.cli.bench`; `benchmarks/` measures other
engines with the same parts.
"""
