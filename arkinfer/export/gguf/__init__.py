"""Writes a checkpoint as a GGUF file, which llama.cpp runs. Knows no artifact and no backend.

Tensors stream: one block of rows is in memory at a time. Vectors stay in float32; embedding and
head have 8 bits where the rest has fewer, as they decide most of the quality. What is quantized
keeps its codes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from arkinfer.errors import ArkError, CheckpointError, UnsupportedError
from arkinfer.export import Request, Written
from arkinfer.export.gguf.encode import Q4_0, Q8_0, TQ2_0, Encoder
from arkinfer.export.gguf.metadata import model_keys, tokenizer_keys
from arkinfer.export.gguf.writer import Tensor, write_gguf
from arkinfer.export.source import is_linear, quantized_source
from arkinfer.frontend.gguf.blocks import type_name
from arkinfer.frontend.gguf.tensors import (
    ROPE_LONG,
    ROPE_SHORT,
    gguf_name,
    is_rotated,
    paired_rows,
)
from arkinfer.frontend.quantized.ternary import Dense
from arkinfer.models.config import ModelConfig
from arkinfer.packing import Scheme
from arkinfer.quant.spec import TERNARY
from arkinfer.report.files import check_place

if TYPE_CHECKING:
    from arkinfer.frontend.checkpoint import Checkpoint
    from arkinfer.frontend.leaves import Tensors

_F32, _F16 = 0, 1
_BLOCK = 4 << 20
"""Numbers that are worked on at a time."""


@dataclass(frozen=True)
class _Kind:
    """What a type means; None stands for float16.

    Attributes:
        keep: the types that quantized matrices may have, from few bits to many; the first one that
            holds their codes is theirs.
        linear: that of other matrices of layers.
        outer: that of embedding and head.
    """

    keep: tuple[Encoder, ...] = ()
    linear: Encoder | None = None
    outer: Encoder | None = None


_KINDS = {
    "f16": _Kind(),
    "q8_0": _Kind((Q8_0,), Q8_0, Q8_0),
    "q4_0": _Kind((Q4_0, Q8_0), Q4_0, Q8_0),
    "tq2_0": _Kind((TQ2_0, Q4_0, Q8_0), TQ2_0, Q8_0),
}
_AS_IT_IS = _Kind((TQ2_0, Q4_0, Q8_0))

_FILE_TYPES = {"f16": 1, "q4_0": 2, "q8_0": 7, "tq2_0": 37}
"""Numbers of ggml's `general.file_type`, by the type that most matrices have."""


@dataclass
class _Losses:
    """Scales that were rounded on the way, by the matrix, counted while tensors are written."""

    scales: Counter[str] = field(default_factory=Counter[str])


def write(checkpoint: Checkpoint, tensors: Tensors, request: Request) -> Written:
    """See `arkinfer.export.Format`.

    Of the request, `type` says how to store matrices; None: quantized ones in the smallest type
    that holds their codes, others in float16. `quant` quantizes first, by round-to-nearest with
    clipping, or takes a ternary checkpoint as it is; a type by itself rounds as llama.cpp does.
    """
    quant = None if request.quant in ("none", TERNARY) else request.quant
    kind = _KINDS[request.type] if request.type else _AS_IT_IS
    path = request.output or Path(f"{checkpoint.name}.gguf")
    check_place(path)
    keys, notes = tokenizer_keys(checkpoint)
    demanded = request.type == "tq2_0" or request.quant == TERNARY
    if quant is None and (demanded or request.type is None):
        _take_ternary(checkpoint, tensors, demanded)
    source = tensors
    if quant is not None or request.calibrated:
        source, more = quantized_source(tensors, request, partial(_problem, kind), np.float16)
        notes += more
    again = _again(source, kind)
    if again and not request.requantize:
        first, scheme = next(iter(again.items()))
        raise UnsupportedError(
            f"{first} is {scheme.name}",
            f"{_problem(kind, scheme)} ({len(again)} of {len(source.schemes())} matrices)",
            "Give --requantize to round these once more, or --type f16",
        )
    losses = _Losses()
    config = checkpoint.config
    entries = [*_factors(config), *_weights(source, config, kind, losses)]
    types = Counter(type_name(t.number).lower() for t in entries if len(t.shape) > 1)
    number = _FILE_TYPES[types.most_common(1)[0][0]]
    request.fill()
    write_gguf(path, {**model_keys(checkpoint, number), **keys}, entries, request.on_part)
    return Written(path, types, (*notes, *_sentences(losses, again)))


def _take_ternary(checkpoint: Checkpoint, tensors: Tensors, demanded: bool) -> None:
    """Has a checkpoint whose plain linears are all ternary give them in two bits."""
    if tensors.schemes():
        return
    found = checkpoint.find_ternary()
    if not isinstance(found, Dense):
        checkpoint.adopt(found)
    elif demanded:
        raise UnsupportedError(
            f"{found.name} is not ternary",
            f"TQ2_0 holds -s, 0 and s only, and {found.reason}",
            "Export with --type q4_0 or q8_0",
        )


def _problem(kind: _Kind, scheme: Scheme) -> str:
    """Why no type of a kind can hold a scheme; "" where one can."""
    if not kind.keep or any(encoder.takes(scheme) for encoder in kind.keep):
        return ""
    names = " and ".join(encoder.type.name for encoder in kind.keep)
    return (
        f"{names} hold symmetric codes of up to {kind.keep[-1].scheme.bits} bits, with inputs in "
        f"their order and groups of a multiple of {kind.keep[-1].type.elements}"
    )


def _again(source: Tensors, kind: _Kind) -> dict[str, Scheme]:
    """The quantized matrices whose codes cannot be kept."""
    return {name: s for name, s in source.schemes().items() if _problem(kind, s)}


def _factors(config: ModelConfig) -> Iterator[Tensor]:
    if config.rope.kind == "longrope":
        for name, factors in (
            (ROPE_LONG, config.rope.long_factor),
            (ROPE_SHORT, config.rope.short_factor),
        ):
            data = np.array(factors, "<f4")
            yield Tensor(name, data.shape, _F32, data.nbytes, partial(_once, data))


def _once(data: npt.NDArray[Any]) -> Iterator[npt.NDArray[np.uint8]]:
    yield data.view(np.uint8)


def _weights(
    source: Tensors, config: ModelConfig, kind: _Kind, losses: _Losses
) -> Iterator[Tensor]:
    for name in source.names():
        shape = source.shape(name)
        encoder = _encoder(source, name, kind)
        number, size = (_F32, 4) if len(shape) == 1 else (_F16, 2)
        nbytes = math.prod(shape) * size
        if encoder is not None:
            number = encoder.number
            nbytes = math.prod(shape) // encoder.type.elements * encoder.type.nbytes
        blocks = partial(_blocks, source, config.head_dim, name, encoder, losses)
        yield Tensor(gguf_name(name), shape, number, nbytes, blocks)


def _encoder(source: Tensors, name: str, kind: _Kind) -> Encoder | None:
    """How a tensor is stored; None: as plain numbers."""
    if len(source.shape(name)) == 1:
        return None
    columns = source.shape(name)[1]
    fitting = [encoder for encoder in kind.keep if columns % encoder.type.elements == 0]
    scheme = source.schemes().get(name)
    if scheme is not None and (kept := [e for e in fitting if e.takes(scheme)]):
        return kept[0]
    encoder = kind.linear if is_linear(name) else kind.outer
    if scheme is not None and encoder is None:  # what was to be kept, and is rounded once more
        encoder = Q4_0 if scheme.bits <= 4 else Q8_0
    return encoder if encoder in fitting else None


def _blocks(
    source: Tensors, head: int, name: str, encoder: Encoder | None, losses: _Losses
) -> Iterator[npt.NDArray[np.uint8]]:
    """The rows of a tensor as they lie in the file, some at a time."""
    count, *rest = source.shape(name)
    step = max(1, _BLOCK // (rest[0] if rest else count))
    if is_rotated(name):
        step = max(1, step // head) * head

    def read(start: int, stop: int) -> npt.NDArray[np.uint8]:
        return _encoded(source, name, start, stop, encoder, losses)

    for start in range(0, count, step):
        stop = min(start + step, count)
        try:
            yield paired_rows(read, head, start, stop) if is_rotated(name) else read(start, stop)
        except ArkError as error:
            why = ". ".join(part for part in (error.what, error.why) if part)
            raise error.__class__(f"{name} cannot be exported", why, error.fix) from None


def _encoded(
    source: Tensors,
    name: str,
    start: int,
    stop: int,
    encoder: Encoder | None,
    losses: _Losses,
) -> npt.NDArray[np.uint8]:
    """Rows [start, stop) as bytes of the type, uint8 [rows, bytes of a row]."""
    scheme = source.schemes().get(name)
    if scheme is not None and encoder is not None and encoder.takes(scheme):
        blocks, rounded = encoder.keep(source.quantized(name, start, stop))
        losses.scales[name] += rounded
        return blocks
    rows = source.read(name, start, stop).astype(np.float32)
    if not np.isfinite(rows).all():
        raise CheckpointError("It holds numbers that are not finite", "", "Restore the checkpoint")
    if encoder is not None:
        return encoder.nearest(rows)
    if rows.ndim == 1:
        return rows.view(np.uint8)
    with np.errstate(over="ignore"):
        half = rows.astype("<f2")
    if not np.isfinite(half).all():
        raise UnsupportedError(
            "It holds numbers that fp16 does not have",
            f"The largest is {np.abs(rows).max():.3g}, and 65504 is the most",
            "Export with --type q8_0",
        )
    return half.view(np.uint8)


def _sentences(losses: _Losses, again: dict[str, Scheme]) -> Iterator[str]:
    rounded = {name: count for name, count in losses.scales.items() if count}
    if rounded:
        yield (
            f"{sum(rounded.values()):,} scales of {len(rounded)} quantized matrices were rounded "
            "to fp16, which GGUF has; their codes are as they were."
        )
    if again:
        yield f"{len(again)} quantized matrices were rounded once more."
