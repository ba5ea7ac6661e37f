"""Where the hidden states that a step gives away lie in its memory, for each program of a section.

Shared by both halves; knows no IR and no file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from arkinfer.limits import parse_json
from arkinfer.runtime.contract import FloatArray
from arkinfer_tvm.program import Seen, seen_of

FINAL = "final"
"""The tap that is normed here: a step norms the rows alone that want logits."""


@dataclass(frozen=True)
class Taps:
    """The residual stream of a step, and the norm in front of its head.

    Attributes:
        layers: for each program, the stream after each layer: "layers.0", …, in order.
        gain: float32, the norm's weight.
        eps: of the norm.
    """

    layers: tuple[tuple[Seen, ...], ...]
    gain: FloatArray
    eps: float

    @property
    def names(self) -> tuple[str, ...]:
        """As `arkinfer.runtime.features.Tapped` calls them."""
        return (*(seen.value for seen in self.layers[0]), FINAL)

    def seen(self, program: int, wanted: Sequence[str]) -> list[Seen]:
        """What to look at in a step, in order."""
        *_, last = layers = self.layers[program]
        return [s for s in layers if s.value in wanted or (s is last and FINAL in wanted)]

    def given(
        self, shown: Mapping[str, FloatArray], wanted: Sequence[str]
    ) -> dict[str, FloatArray]:
        """The taps that are wanted by name, of what was seen of a step."""
        return {n: shown[n] if n != FINAL else self._normed(shown) for n in wanted}

    def _normed(self, shown: Mapping[str, FloatArray]) -> FloatArray:
        rows = shown[self.layers[0][-1].value]
        mean = np.mean(np.square(rows), axis=-1, keepdims=True, dtype=np.float32)
        return cast(FloatArray, rows / np.sqrt(mean + np.float32(self.eps)) * self.gain)

    @classmethod
    def read(cls, data: bytes, programs: int, tensor: Callable[[str], npt.NDArray[Any]]) -> Taps:
        """What `taps_to_json` wrote, for so many programs.

        Raises:
            ValueError, TypeError, LookupError, AttributeError: it is not what that writes.
        """
        facts = parse_json(data)
        layers = tuple(tuple(map(seen_of, each)) for each in facts["layers"])
        names = [tuple(seen.value for seen in each) for each in layers]
        if len(layers) != programs or not names[0] or len(set(names)) != 1:
            raise ValueError("its programs do not have the same taps")
        gain = tensor(facts["gain"]).astype(np.float32)
        for seen in (seen for each in layers for seen in each):
            if (seen.place.kind, seen.dtype, seen.row) != ("scratch", "float32", gain.shape):
                raise ValueError(f"{seen.value} is no hidden state")
        return cls(layers, gain, float(facts["eps"]))


def taps_to_json(layers: Sequence[Sequence[Seen]], gain: str, eps: float) -> bytes:
    """What `Taps.read` reads; `gain` is the name of the tensor."""
    facts = {
        "layers": [[asdict(seen) for seen in each] for each in layers],
        "gain": gain,
        "eps": eps,
    }
    return json.dumps(facts, separators=(",", ":")).encode()
