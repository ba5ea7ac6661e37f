"""The writer that a backend's compiler fills: tensors and files of one section, streamed.

`MeasuringWriter` is the same without a file: what `plan` counts. Knows no backend.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from arkinfer.artifact import ArtifactWriter, Section
from arkinfer.backend import RowStore, Work
from arkinfer.compiler.cache import Cache, key_of
from arkinfer.compiler.weights import Array, WeightStore, nbytes
from arkinfer.errors import InternalError
from arkinfer.ir import DTYPES, QuantizedType, TensorType, Weight
from arkinfer.packing import QuantizedTensor, part_specs

ALIGNMENT = 4096  # of every entry's data; see docs/format.md


class SectionWriter:
    """Writes one backend's section into an artifact; the contract is `backend.SectionWriter`.

    Args:
        backend: the section's name.
        artifact: where tensors and files go.
        store: the numbers.
        on_bytes: told how many bytes of weights were written, as they are.
        on_weight: told which weight is next.
        cache: keeps what works make.
        on_work: told what is made next, and how many of how many are done.
    """

    def __init__(
        self,
        backend: str,
        artifact: ArtifactWriter,
        store: WeightStore,
        on_bytes: Callable[[int], None] = lambda size: None,
        on_weight: Callable[[Weight], None] = lambda weight: None,
        cache: Cache | None = None,
        on_work: Callable[[str, int, int], None] = lambda name, done, total: None,
    ) -> None:
        self._backend, self._artifact, self._store = backend, artifact, store
        self._on_bytes, self._on_weight, self._on_work = on_bytes, on_weight, on_work
        self._cache = cache or Cache(None)
        self._tensors: list[str] = []
        self._config: dict[str, Any] = {}
        self._requires: dict[str, str] = {}
        self._variants: tuple[str, ...] = ()

    @property
    def store(self) -> RowStore:
        return self._store

    def weight(self, weight: Weight) -> dict[str, str]:
        names = part_names(weight)
        self._on_weight(weight)
        if isinstance(weight.type, QuantizedType):
            if not self._artifact.has_tensor(names["codes"]):
                self._quantized(weight, weight.type, names)
        elif not self._artifact.has_tensor(names[""]):
            blocks = cast("Iterator[Array]", self._store.blocks(weight))
            dtype = np.dtype(DTYPES[weight.type.dtype]).name
            shape = cast("tuple[int, ...]", weight.type.shape)
            self._artifact.add_tensor(names[""], dtype, shape, self._counted(blocks))
        self._tensors += [name for name in names.values() if name not in self._tensors]
        return names

    def _quantized(self, weight: Weight, kind: QuantizedType, names: dict[str, str]) -> None:
        """Streams the codes; the other parts, a small fraction, wait for them."""
        kept: dict[str, list[Array]] = {name: [] for name in names if name != "codes"}

        def codes() -> Iterator[Array]:
            for block in self._store.blocks(weight):
                if not isinstance(block, QuantizedTensor):
                    raise InternalError(f"@{weight.name} is {kind}, but came dense")
                parts = block.parts()
                for name, rows in kept.items():
                    if name != "order" or not rows:  # of all rows the same
                        rows.append(parts[name])
                yield parts["codes"]

        for name, (dtype, shape) in part_specs(kind.scheme, kind.shape).items():
            chunks = codes() if name == "codes" else iter(kept.pop(name))
            self._artifact.add_tensor(names[name], dtype.name, shape, self._counted(chunks))

    def tensor(
        self, name: str, dtype: str, shape: tuple[int, ...], chunks: Iterable[npt.NDArray[Any]]
    ) -> str:
        full = f"{self._backend}/{name}"
        self._artifact.add_tensor(full, dtype, shape, self._counted(chunks))
        self._tensors.append(full)
        return full

    def _counted(self, chunks: Iterable[Array]) -> Iterator[Array]:
        for chunk in chunks:
            yield chunk
            self._on_bytes(chunk.nbytes)

    def file(self, name: str, data: bytes) -> str:
        full = f"backends/{self._backend}/{name}"
        self._artifact.add_bytes(full, data)
        return full

    def made(self, works: Sequence[Work]) -> list[bytes]:
        found: list[bytes] = []
        for done, work in enumerate(works):
            self._on_work(f"{work.verb} {work.name}", done, len(works))
            key = key_of("works", self._backend, *work.facts)
            kept = self._cache.get(key)
            if kept is None:
                kept = work.make()
                self._cache.put(key, [kept])
            found.append(bytes(kept))
        return found

    def configure(
        self,
        config: Mapping[str, Any],
        requires: Mapping[str, str],
        variants: Sequence[str] = (),
    ) -> None:
        self._config, self._requires, self._variants = dict(config), dict(requires), tuple(variants)

    def finish(self, activations: str | None = None, caches: str | None = None) -> Section:
        """The finished section, which the artifact now lists.

        Args:
            activations: what its products with quantized matrices take; None: there are none.
            caches: how it keeps key-value caches; None: as the build was told to.
        """
        section = Section(
            self._backend, self._config, self._requires, tuple(self._tensors), activations, caches,
            self._variants,
        )  # fmt: skip
        self._artifact.add_section(section)
        return section


class MeasuringWriter:
    """Counts what a compiler would write, and computes none of it.

    Attributes:
        entries: bytes by entry name, as they would stand in the artifact.
    """

    def __init__(
        self, backend: str, store: WeightStore, entries: dict[str, int] | None = None
    ) -> None:
        self._backend, self._store = backend, store
        self.entries: dict[str, int] = {} if entries is None else entries
        self.config: dict[str, Any] = {}
        self.weights: list[Weight] = []

    @property
    def store(self) -> RowStore:
        return self._store

    def weight(self, weight: Weight) -> dict[str, str]:
        names = part_names(weight)
        if weight not in self.weights:
            self.weights.append(weight)
        if isinstance(weight.type, QuantizedType):
            specs = part_specs(weight.type.scheme, weight.type.shape)
            for part, (dtype, shape) in specs.items():
                size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
                self.entries[f"weights/{names[part]}"] = size
        else:
            self.entries[f"weights/{names['']}"] = nbytes(weight)
        return names

    def tensor(
        self, name: str, dtype: str, shape: tuple[int, ...], chunks: Iterable[npt.NDArray[Any]]
    ) -> str:
        full = f"{self._backend}/{name}"
        from arkinfer.artifact import DTYPES as SIZES

        self.entries[f"weights/{full}"] = SIZES[dtype] * int(np.prod(shape, dtype=np.int64))
        return full

    def file(self, name: str, data: bytes) -> str:
        full = f"backends/{self._backend}/{name}"
        self.entries[full] = len(data)
        return full

    def made(self, works: Sequence[Work]) -> list[bytes]:
        return [bytes(work.size) for work in works]

    def configure(
        self,
        config: Mapping[str, Any],
        requires: Mapping[str, str],
        variants: Sequence[str] = (),
    ) -> None:
        self.config = dict(config)
        self.entries["manifest.json"] = len(json.dumps(self.config))


def part_names(weight: Weight) -> dict[str, str]:
    """part -> the name of the tensor that holds it."""
    if isinstance(weight.type, TensorType):
        return {"": weight.name}
    return {
        part: f"{weight.name}.{part}" for part in part_specs(weight.type.scheme, weight.type.shape)
    }
