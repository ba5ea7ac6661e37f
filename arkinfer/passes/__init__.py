"""Passes over the IR: the registry, the manager and the standard pipeline."""

from arkinfer.passes.base import Pass, spec_of
from arkinfer.passes.manager import PassRun, run_pipeline
from arkinfer.passes.pipeline import standard_pipeline
from arkinfer.passes.registry import NAMES, parse_passes, pass_class, pass_named

__all__ = [
    "NAMES",
    "Pass",
    "PassRun",
    "parse_passes",
    "pass_class",
    "pass_named",
    "run_pipeline",
    "spec_of",
    "standard_pipeline",
]
