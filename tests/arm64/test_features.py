"""Trees of drafts, saved states and hidden states, on ARM: of the tests of tests/backends, some of
each. What remains of the features is the same Python here and there.
"""

from __future__ import annotations

from tests.backends.test_persist import (
    model,
    test_it_goes_through_a_file_and_another_executable,
    test_nothing_of_what_was_forgotten_is_saved,
)
from tests.backends.test_taps import test_drafts_have_taps_too
from tests.backends.test_tree import (
    runs,
    test_64_drafts_far_into_a_sequence,
    test_a_committed_path_is_as_if_it_alone_had_been_decoded,
    test_rows_are_those_of_their_paths,
    test_saving_leaves_drafts_alone_and_out,
    test_states_draft_side_by_side,
)

__all__ = [
    "model",
    "runs",
    "test_64_drafts_far_into_a_sequence",
    "test_a_committed_path_is_as_if_it_alone_had_been_decoded",
    "test_drafts_have_taps_too",
    "test_it_goes_through_a_file_and_another_executable",
    "test_nothing_of_what_was_forgotten_is_saved",
    "test_rows_are_those_of_their_paths",
    "test_saving_leaves_drafts_alone_and_out",
    "test_states_draft_side_by_side",
]
