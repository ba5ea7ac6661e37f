"""Writes checkpoints in the forms that other engines read. Knows no artifact and no backend."""
