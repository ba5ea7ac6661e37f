"""What an executable may do beyond `contract.py`: the features "tree", "taps" and "persist".

An executable that declares one gives states of its protocol. What all executors refuse, they refuse
by `drafts.py`, `contract.check_tokens` and `saved_state.py`. Knows no backend.
"""

from __future__ import annotations

from typing import BinaryIO, Protocol

from arkinfer.runtime.contract import Executable, IntArray, State, StepOutput


class Drafting(State, Protocol):
    """A state of an executable with the feature "tree": it tries tokens before they count.

    What was drafted is no part of the sequence: `length` counts it when it is committed, and not
    before. It has to fit behind the sequence within `capacity`. The next `draft`, `step`,
    `observe`, `truncate` or `restore` forgets the drafts that were not committed, also where it
    leaves the length as it is; `save` leaves them alone, and does not save them. A call that raises
    UsageError changes nothing: the drafts are still there. After one that raises another error
    they may be gone.
    """

    def draft(
        self, tokens: IntArray, parents: IntArray, *, taps: tuple[str, ...] = ()
    ) -> StepOutput:
        """Runs a tree of tokens that may follow the sequence.

        Each token stands at the place that it has on its own path: `length` plus the number of its
        ancestors. It attends to the whole sequence, to its ancestors and to itself. So a row of
        logits is what `step` would give for the last token of that path alone.

        Args:
            tokens: int64 [M], 1 <= M <= `drafts.MOST` and at most `Executable.chunk`.
            parents: int64 [M]; the index of the token that each one follows, which comes before
                it; -1: it follows the sequence.
            taps: as of `State.step`.

        Returns:
            Logits and taps of all M rows.

        Raises:
            UsageError: as `State.step`; or these are no parents of so many tokens.
            DeviceError: the runtime refused the step.
        """
        ...

    def commit(self, indices: IntArray) -> None:
        """Appends drafts to the sequence that follow one another, and forgets the others.

        From then on all is as if `step` had been given these tokens alone; the numbers that an
        executor keeps of them may differ from those by the order of additions.

        Args:
            indices: int64 [N] of tokens of the latest `draft`, in order: the first follows the
                sequence, each other one the one before. With N = 0 all drafts are forgotten.

        Raises:
            UsageError: nothing was drafted, or the drafts do not follow one another so.
        """
        ...


class Tapped(Executable, Protocol):
    """An executable with the feature "taps": its steps give hidden states away, by name.

    "layers.0" … are the residual stream after each layer, as the model defines it: with the sums'
    and the embedding's scales in it, whatever the backend computes with. "final" is what the head
    multiplies, its rows times the head are the logits. All are float32 [tokens, hidden] of all
    tokens of the step, wanted rows or not.
    """

    @property
    def taps(self) -> tuple[str, ...]:
        """Every name that `State.step` and `Drafting.draft` take as a tap, in order of depth."""
        ...


class Persistent(State, Protocol):
    """A state of an executable with the feature "persist"; the format is `saved_state.py`'s."""

    def save(self, file: BinaryIO) -> None:
        """Writes the sequence to a file that is open for writing bytes, from where it stands.

        Nothing is in it of tokens that were truncated or not committed.

        Raises:
            UsageError: the file takes no bytes, or the executable is closed.
            ResourceError: the file cannot be written; what it holds is to be thrown away.
        """
        ...

    def restore(self, file: BinaryIO) -> None:
        """Makes this state the one that was saved; reads what `save` wrote, and nothing beyond.

        The same artifact and backend must have saved it. Steps go on with the same bits. Where it
        raises, the state is as it was before.

        Raises:
            UsageError: it was saved by another artifact or backend, is longer than the capacity,
                or the file gives no bytes; or the executable is closed.
            ArtifactError: it is damaged, cut off, or no saved state.
            ResourceError: the file cannot be read.
        """
        ...
