"""The conformance suite of backends, on ARM: the same tests, with an executor of `remote.py`."""

from __future__ import annotations

from tests.backends.test_conformance import test_logits, test_logits_at_depth
from tests.backends.test_state import *  # noqa: F403  (its tests and fixtures, all of them)
from tests.backends.test_taps import test_taps_are_the_models_hidden_states

__all__ = ["test_logits", "test_logits_at_depth", "test_taps_are_the_models_hidden_states"]
