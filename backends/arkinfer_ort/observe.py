"""An executable whose states show the values inside of their steps, and time their kernels.

It makes a session for each purpose when it is first wanted, on the same graph: what runs a step is
never slowed down by what looks at another one. Knows no artifact, and no IR beyond the names in
`places.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from arkinfer.runtime.contract import (
    IntArray,
    Observer,
    Rows,
    StepOutput,
    check_context,
    check_tokens,
    closed,
)
from arkinfer_ort.executable import OnnxRuntimeExecutable
from arkinfer_ort.places import Place, Places
from arkinfer_ort.sessions import Model
from arkinfer_ort.state import Cache, OnnxRuntimeState
from arkinfer_ort.times import OnnxRuntimeProfiler

if TYPE_CHECKING:
    import onnxruntime

LOGITS = "logits"


def extra_outputs(places: Places) -> list[str]:
    """The graph's names of what it shows and does not give away already, each once."""
    names = (place.tensor for place in places.values if not place.cache)
    return [name for name in dict.fromkeys(names) if name != LOGITS]


class ObservedExecutable(OnnxRuntimeExecutable):
    """See `OnnxRuntimeExecutable`; opened to be observed.

    Attributes:
        model: what sessions are made on.
        places: where the graph has the IR's values.
        features: "values" and "times".
    """

    features = frozenset({"values", "times"})

    def __init__(
        self,
        model: Model,
        places: Places,
        caches: tuple[Cache, ...],
        vocab_size: int,
        max_context: int,
        chunk: int,
    ) -> None:
        super().__init__(None, caches, vocab_size, max_context, chunk)
        self.model, self.places = model, places
        self._seeing: onnxruntime.InferenceSession | None = None
        self._closed = False

    @property
    def session(self) -> onnxruntime.InferenceSession:
        self._check_open()
        self._session = self._session or self.model.session()
        return self._session

    @property
    def seeing(self) -> onnxruntime.InferenceSession:
        """A session that also gives what `extra_outputs` names."""
        self._check_open()
        self._seeing = self._seeing or self.model.session(extra_outputs(self.places))
        return self._seeing

    def new_state(self, context: int) -> ObservedState:
        self._check_open()
        check_context(self, context)
        return ObservedState(self, context)

    def traced(self, prefix: str) -> OnnxRuntimeExecutable:
        """The same model on a session that writes down what its kernels take."""
        self._check_open()
        session = self.model.session(trace=prefix)
        facts = self.vocab_size, self.max_context, self.chunk
        return OnnxRuntimeExecutable(session, self.caches, *facts)

    def adopt(self, session: onnxruntime.InferenceSession) -> None:
        """Runs steps on a session whose trace has ended, unless there is one for them already.

        Two sessions differ in speed by up to a third, depending on where in memory they are: only
        on the same one can a step show whether its trace was right.
        """
        if not self._closed:
            self._session = self._session or session

    def _check_open(self) -> None:
        if self._closed:
            raise closed()

    def close(self) -> None:
        self._session = self._seeing = None
        self._closed = True


class ObservedState(OnnxRuntimeState):
    """See `arkinfer.runtime.contract.Observed` and `Timed`."""

    def __init__(self, executable: ObservedExecutable, capacity: int) -> None:
        super().__init__(executable, capacity)
        self.executable = executable

    @property
    def caches(self) -> dict[str, npt.NDArray[Any]]:
        """By name, [1, heads, capacity, size] each."""
        return self._caches

    def observe(self, tokens: IntArray, observer: Observer, *, rows: Rows = "all") -> StepOutput:
        session, places = self.executable.seeing, self.executable.places
        ids = check_tokens(self.executable, self, tokens)
        names = extra_outputs(places)
        logits, found = self._run_many(session, ids, rows, names)
        self.length += len(ids)
        shown = {LOGITS: logits, **dict(zip(names, found, strict=True))}
        for place in places.values:
            if place.cache:
                observer(place.value, self._cache(place))
            else:
                observer(place.value, shown[place.tensor].reshape(-1, *place.row))
        return StepOutput(logits)

    def profiler(self) -> OnnxRuntimeProfiler:
        return OnnxRuntimeProfiler(self)

    def _cache(self, place: Place) -> npt.NDArray[Any]:
        """[1, heads, capacity, size] as [length, heads, size]."""
        name = place.tensor.removeprefix("present.")
        return self._caches[name][0, :, : self.length].transpose(1, 0, 2).copy()
