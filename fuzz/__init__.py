"""Fuzzing of everything that reads bytes which nobody vouches for; docs/security.md says how."""
