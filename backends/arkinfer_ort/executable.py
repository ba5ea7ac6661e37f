"""A loaded section of the ONNX Runtime backend. Knows no artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arkinfer.runtime.contract import check_context, closed
from arkinfer_ort.state import Cache, OnnxRuntimeState

if TYPE_CHECKING:
    import onnxruntime


class OnnxRuntimeExecutable:
    """A session, shared by all states.

    Attributes:
        caches: what a state must bring.
        vocab_size: columns of the logits.
        max_context: the longest sequence, in tokens.
        chunk: the most tokens of one step.
        features: none beyond the contract.
    """

    features: frozenset[str] = frozenset()

    def __init__(
        self,
        session: onnxruntime.InferenceSession | None,
        caches: tuple[Cache, ...],
        vocab_size: int,
        max_context: int,
        chunk: int,
    ) -> None:
        self._session = session
        self.caches = caches
        self.vocab_size = vocab_size
        self.max_context = max_context
        self.chunk = chunk

    @property
    def session(self) -> onnxruntime.InferenceSession:
        if self._session is None:
            raise closed()
        return self._session

    def new_state(self, context: int) -> OnnxRuntimeState:
        """See `Executable`.

        Raises:
            UsageError: the context is longer than the artifact was compiled for, or it is closed.
            ResourceError: there is no memory for the caches.
        """
        if self._session is None:
            raise closed()
        check_context(self, context)
        return OnnxRuntimeState(self, context)

    def close(self) -> None:
        self._session = None
