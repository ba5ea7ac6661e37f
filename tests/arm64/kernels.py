"""Stand-ins for `arkinfer_tvm.library`, which run kernels in a process of another machine: tests
that load a library and run programs run there when they are given these. Knows no kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from arkinfer_tvm.program import Program, programs_to_json
from tests.arm64.remote import Remote

Array = np.ndarray[Any, Any]


class RemoteLibrary:
    """See `arkinfer_tvm.library.Library`."""

    def __init__(self, remote: Remote, code: bytes, name: str, threads: int, calls: int) -> None:
        self._remote = remote
        self._thing = remote.ask(0, "Kernels", code, name, threads, calls).number

    def run(
        self, program: Program, weights: Mapping[str, Array], caches: Sequence[Array],
        ports: Mapping[str, Array], symbols: Mapping[str, int],
    ) -> None:  # fmt: skip
        """Copies there, and back into the same arrays."""
        used = {str(o.key) for o in program.operands if o.kind == "weight"}
        sent = {name: weights[name] for name in sorted(used)}
        facts = programs_to_json([program])
        there = self._remote.ask(
            self._thing, "run", facts, sent, list(caches), dict(ports), dict(symbols)
        )
        for array, now in zip(
            (*caches, *ports.values()), (*there[0], *there[1].values()), strict=True
        ):
            array[...] = now

    def close(self) -> None:
        self._remote.ask(self._thing, "close")


class RemoteBound:
    """See `arkinfer_tvm.library.Bound`; `arguments` are the caches themselves."""

    def __init__(
        self, program: Program, library: RemoteLibrary, weights: Mapping[str, Array]
    ) -> None:
        self._program, self._library, self._weights = program, library, weights

    def arguments(self, caches: Sequence[Array]) -> Sequence[Array]:
        return caches

    def run(
        self,
        arguments: Sequence[Array],
        symbols: Mapping[str, int],
        ports: Iterable[tuple[str, Array]],
    ) -> None:
        self._library.run(self._program, self._weights, arguments, dict(ports), symbols)
