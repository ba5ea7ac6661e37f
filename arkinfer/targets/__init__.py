"""Targets: what a build is for. One TOML file per target beside this one. Knows no backend."""

from arkinfer.targets.target import Published, Target, load_target, target_names

__all__ = ["Published", "Target", "load_target", "target_names"]
