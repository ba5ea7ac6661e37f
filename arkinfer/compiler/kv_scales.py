"""Static scales of an int8 key-value cache, from one pass over a small text. Knows no backend."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from arkinfer import ir
from arkinfer.backend import RowStore
from arkinfer.compiler.cache import Cache, arithmetic, code_of, key_of
from arkinfer.compiler.text_pass import over_text, text_tokens, unquantized
from arkinfer.compiler.weights import BLOCK, Leaves, WeightStore, elements_per_row, rows_of
from arkinfer.errors import UsageError
from arkinfer.packing import QuantizedTensor

if TYPE_CHECKING:
    from arkinfer.frontend.checkpoint import Checkpoint

Array = npt.NDArray[Any]

MARGIN = 1.25
"""Room above the largest value seen: other texts reach a little further, and a value that does
not fit is cut off."""

SMALLEST = np.float32(1e-8)
"""Of a scale: a channel that was always zero is no reason to divide by it."""

TOKENS = 256
"""The most tokens that are looked at; reading the weights costs more."""


def calibrated(
    module: ir.Module,
    leaves: Leaves,
    checkpoint: Checkpoint,
    *,
    cache: Cache | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Leaves:
    """The leaves, and the scales of every cache as `quantize-cache` names them.

    Args:
        module: fused; its caches still float; attributes `context` and `vocab_size`.
        leaves: the checkpoint's.
        checkpoint: its tokenizer.
        cache: where scales are kept, by the content of all weights that they come from.
        on_progress: told how many of how many matrices were worked through.

    Raises:
        CheckpointError: the tokenizer is missing, or gives ids that the model has not.
    """
    from arkinfer.passes.quantize_cache import PREFIX

    limit = min(TOKENS, cast(int, module.attributes["context"]))
    tokens = text_tokens(checkpoint, cast(int, module.attributes["vocab_size"]))[:limit]
    key = "" if cache is None or cache.folder is None else _key(module, leaves, tokens)
    kept = cache.get(key) if cache is not None and key else None
    if kept is None:
        store = WeightStore(module.weights, leaves)
        scales = cache_scales(module, store, tokens, on_progress=on_progress)
        if cache is not None and key:
            cache.put(key, [scale.tobytes() for scale in scales.values()])
    else:
        scales = _unpacked(module, kept)
    return _MoreLeaves(leaves, {f"{PREFIX}{name}": scale for name, scale in scales.items()})


def _key(module: ir.Module, leaves: Leaves, tokens: Sequence[int]) -> str:
    """By the graph, the tokens, and the bytes of every weight below it."""
    probe = _probe(module)
    code = code_of("ir", "packing", "compiler/kv_scales.py", "compiler/text_pass.py")
    facts = [code, arithmetic(), ir.print_module(probe), repr(tokens)]
    used = {weight.name for node in probe.nodes() for weight in node.weights}
    for name in sorted(_leaf_names(probe, used)):
        digest = hashlib.sha256()
        weight = probe.weights[name]
        count, step = rows_of(weight), max(1, BLOCK // elements_per_row(weight))
        for start in range(0, count, step):
            rows = leaves.rows(name, start, min(start + step, count))
            digest.update(rows.reshape(-1).view(np.uint8).data)
        facts.append(f"{name} {digest.hexdigest()}")
    return key_of("calibrations", *facts)


def _leaf_names(module: ir.Module, names: set[str]) -> set[str]:
    """The leaves that weights come from, themselves included."""
    found: set[str] = set()
    for name in names:
        source = module.weights[name].source
        found |= {name} if source is None else _leaf_names(module, set(source.inputs))
    return found


def _unpacked(module: ir.Module, data: bytearray) -> dict[str, npt.NDArray[np.float32]]:
    """Scales by cache, from their bytes one after the other."""
    step = module.functions["step"]
    found: dict[str, npt.NDArray[np.float32]] = {}
    offset = 0
    for name, value in zip(step.output_names, step.outputs, strict=True):
        if isinstance(value.type, ir.CacheType):
            shape = cast("tuple[int, ...]", value.type.shape[1:])
            found[name] = np.frombuffer(data, np.float32, int(np.prod(shape)), offset)
            found[name] = found[name].reshape(shape)
            offset += found[name].nbytes
    return found


def cache_scales(
    module: ir.Module,
    store: RowStore,
    tokens: Sequence[int],
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, npt.NDArray[np.float32]]:
    """The largest magnitude of each channel over the tokens, as an int8 scale.

    Rotated keys get one scale per pair of channels, from the pair's length: at other positions
    the pair has turned, and all of it may lie in either channel. The matrices are taken as they
    were before quantization, one at a time, and of the embedding only the rows of the tokens.

    Args:
        module: fused; its caches still float.
        store: the numbers.
        tokens: at least one id.
        on_progress: told how many of how many matrices were worked through.

    Returns:
        name of the cache -> float32 [kv heads, head_dim], positive.

    Raises:
        UsageError: no token to calibrate on.
    """
    if not tokens:
        raise UsageError(
            "There is no text to calibrate the int8 cache on",
            fix="Give a text of some hundred tokens",
        )
    step = _probe(module).functions["step"]
    outputs = over_text(step, tokens, store, on_progress=on_progress)
    scales: dict[str, npt.NDArray[np.float32]] = {}
    for name, value in zip(step.output_names, step.outputs, strict=True):
        high = _largest(outputs[name], rotated=_is_rotated(value))
        scales[name] = np.maximum(high * np.float32(MARGIN / 127), SMALLEST)
    return scales


def _largest(rows: Array, *, rotated: bool) -> npt.NDArray[np.float32]:
    """float32 [T, heads, size] -> [heads, size]."""
    if not rotated:
        return np.abs(rows).max(axis=0)
    length = np.hypot(*np.split(rows, 2, axis=-1)).max(axis=0)
    return np.concatenate((length, length), axis=-1)


def _is_rotated(cache: ir.Value) -> bool:
    """Whether the rows that were appended to a cache come from `nn.rope`."""
    append = cache.producer
    rows = append.values[1].producer if append is not None else None
    return rows is not None and rows.op == "nn.rope"


def _probe(module: ir.Module) -> ir.Module:
    """A copy that ends at the caches, with matrices as they were before they were quantized."""
    from arkinfer.passes import pass_named, run_pipeline

    probe = unquantized(module)
    step = probe.functions["step"]
    kept = [i for i, value in enumerate(step.outputs) if isinstance(value.type, ir.CacheType)]
    step.output_names = [step.output_names[i] for i in kept]
    step.outputs = [step.outputs[i] for i in kept]
    run_pipeline(probe, [pass_named("eliminate-dead-code")])
    return probe


class _MoreLeaves:
    """The leaves of a checkpoint, and those that calibration found."""

    def __init__(self, leaves: Leaves, found: dict[str, npt.NDArray[np.float32]]) -> None:
        self._leaves, self._found = leaves, found

    def rows(self, name: str, start: int, stop: int) -> Array:
        found = self._found.get(name)
        return self._leaves.rows(name, start, stop) if found is None else found[start:stop]

    def quantized(self, name: str, start: int, stop: int) -> QuantizedTensor:
        return self._leaves.quantized(name, start, stop)
