"""Quantized weights and traced graphs out of the cache, or made and kept there. Knows no file."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import cast

import numpy as np

from arkinfer import ir
from arkinfer.compiler.cache import Cache, arithmetic, code_of, key_of
from arkinfer.compiler.weights import Array, quantize_rows
from arkinfer.models.config import ModelConfig
from arkinfer.packing import QuantizedTensor, Scheme, part_specs


class ReusedWeights:
    """A `Quantizer` that asks the cache first, rows by rows.

    The key is the content of the rows, so that one read serves both to look them up and to
    quantize them, and a matrix that was half done when its build was killed is half reused.

    Attributes:
        made: names of the weights of which some rows were computed.
        found: names of the weights of which some rows came from the cache.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self.made: set[str] = set()
        self.found: set[str] = set()

    @property
    def reused(self) -> int:
        """How many weights came from the cache as a whole."""
        return len(self.found - self.made)

    def __call__(self, name: str, rows: Array, scheme: Scheme, clip: bool) -> QuantizedTensor:
        if self._cache.folder is None:
            self.made.add(name)
            return quantize_rows(name, rows, scheme, clip)
        code = code_of("quant", "packing")
        key = key_of("weights", "rtn", code, arithmetic(), scheme.name, clip, rows)
        shape = cast("tuple[int, int]", rows.shape)
        kept = self._cache.get(key)
        if kept is not None:
            self.found.add(name)
            return _unpacked(scheme, shape, kept)
        self.made.add(name)
        result = quantize_rows(name, rows, scheme, clip)
        parts = result.parts().values()
        self._cache.put(key, [np.ascontiguousarray(p).reshape(-1).view("u1").data for p in parts])
        return result


def _unpacked(scheme: Scheme, shape: tuple[int, int], data: bytearray) -> QuantizedTensor:
    """A tensor whose parts follow each other in storage order, as views."""
    parts: dict[str, Array] = {}
    offset = 0
    for name, (dtype, size) in part_specs(scheme, shape).items():
        count = int(np.prod(size, dtype=np.int64))
        parts[name] = np.frombuffer(data, dtype, count, offset).reshape(size)
        offset += parts[name].nbytes
    return QuantizedTensor.from_parts(scheme, shape, parts)


def traced(config: ModelConfig, context: int, cache: Cache) -> ir.Module:
    """The module as `frontend.trace` gives it; from the cache, it takes neither torch nor time.

    Raises:
        UnsupportedError: as `trace`.
    """
    code = code_of("frontend", "models", "ir")
    graph = replace(config, quantization=None)  # how weights are stored is not in it
    key = key_of("graphs", "trace", code, _torch_version(), repr(graph), context)
    kept = cache.get(key)
    if kept is not None:
        return ir.parse_module(kept.decode())
    from arkinfer.frontend.trace import trace

    module = trace(config, context)
    cache.put(key, [ir.print_module(module).encode()])
    return module


def _torch_version() -> str:
    """Without importing it."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return "none"
