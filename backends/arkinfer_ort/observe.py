"""A state that shows the values inside of its steps: the feature "values".

The session has them as outputs. Knows no artifact and no IR beyond the names in `places.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from arkinfer.runtime.contract import IntArray, Observer, Rows, StepOutput, check_tokens
from arkinfer_ort.places import Place, Places
from arkinfer_ort.state import OnnxRuntimeState

if TYPE_CHECKING:
    import onnxruntime

    from arkinfer_ort.executor import OnnxRuntimeExecutable

LOGITS = "logits"


def extra_outputs(places: Places) -> list[str]:
    """The graph's names of what it shows and does not give away already, each once."""
    names = (place.tensor for place in places.values if not place.cache)
    return [name for name in dict.fromkeys(names) if name != LOGITS]


class ObservedState(OnnxRuntimeState):
    """See `arkinfer.runtime.contract.Observed`."""

    def __init__(
        self,
        executable: OnnxRuntimeExecutable,
        session: onnxruntime.InferenceSession,
        capacity: int,
        places: Places,
    ) -> None:
        super().__init__(executable, session, capacity)
        self._places = places

    def observe(self, tokens: IntArray, observer: Observer, *, rows: Rows = "all") -> StepOutput:
        session = self._executable.session
        ids = check_tokens(self._executable, self, tokens)
        names = extra_outputs(self._places)
        logits, found = self._run_many(session, ids, rows, names)
        self.length += len(ids)
        shown = {LOGITS: logits, **dict(zip(names, found, strict=True))}
        for place in self._places.values:
            if place.cache:
                observer(place.value, self._cache(place))
            else:
                observer(place.value, shown[place.tensor].reshape(-1, *place.row))
        return StepOutput(logits)

    def _cache(self, place: Place) -> np.ndarray:
        """[1, heads, capacity, size] as [length, heads, size]."""
        name = place.tensor.removeprefix("present.")
        return self._caches[name][0, :, : self.length].transpose(1, 0, 2).copy()
