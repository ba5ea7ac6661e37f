"""What every op means: its `ref` against torch, or plain loops where torch has no such op."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional as F

from arkinfer import ir
from arkinfer.errors import InternalError
from arkinfer.ir.ops import Op
from arkinfer.ir.ops.base import need
from arkinfer.ir.types import evaluate, scale_dim
from arkinfer.packing import Scheme
from arkinfer.quant import round_to_nearest

Array = npt.NDArray[Any]
SYMBOLS = {"T": 3, "S": 4, "L": 7, "R": 2}


@dataclass(frozen=True)
class Case:
    """Operand types as text, attributes, and the meaning in other words."""

    types: Sequence[str]
    meaning: Callable[..., Any]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    high: int = 3
    """Integers are below this."""


def _t(x: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


def _rope(x: Array, positions: Array, inv_freq: Array) -> Array:
    """By complex multiplication, pair by pair."""
    out = np.empty_like(x)
    half = x.shape[-1] // 2
    for t, h, i in np.ndindex(x.shape[0], x.shape[1], half):
        angle = float(positions[t]) * float(inv_freq[i])
        z = complex(x[t, h, i], x[t, h, i + half]) * complex(math.cos(angle), math.sin(angle))
        out[t, h, i], out[t, h, i + half] = 1.5 * z.real, 1.5 * z.imag
    return out


def _dense(q: Array, k: Array, v: Array) -> Array:
    """One query row and head at a time."""
    fresh, heads, _ = q.shape
    length, kv_heads, _ = k.shape
    out = np.empty_like(q)
    for t, h in np.ndindex(fresh, heads):
        seen, kv = length - fresh + t + 1, h * kv_heads // heads
        scores = np.array([0.25 * q[t, h] @ k[j, kv] for j in range(seen)])
        weights = np.exp(scores) / np.exp(scores).sum()
        out[t, h] = sum(w * v[j, kv] for j, w in enumerate(weights))
    return out


def _append_int8(cache: Array, rows: Array, scale: Array) -> Array:
    """Number by number, with Python's own rounding."""
    new = np.empty(rows.shape, np.int8)
    for t, head, channel in np.ndindex(*rows.shape):
        code = round(float(rows[t, head, channel]) / float(scale[head, channel]))
        new[t, head, channel] = max(-128, min(127, code))
    return np.concatenate([cache, new])


def _append_by_token(cache: Array, rows: Array, kept: Array) -> tuple[Array, Array]:
    """Row by row: the largest magnitude becomes 127."""
    scales = np.empty((*rows.shape[:2], 1))
    for t, head in np.ndindex(*rows.shape[:2]):
        scales[t, head] = max(abs(float(x)) for x in rows[t, head]) / 127
    for row, scale in zip(rows, scales, strict=True):
        cache = _append_int8(cache, row[None], np.repeat(scale, rows.shape[-1], axis=1))
    return cache, np.concatenate([kept, scales])


def _sdpa(q: Array, k: Array, v: Array, mask: Array) -> torch.Tensor:
    return F.scaled_dot_product_attention(
        _t(q)[None], _t(k)[None], _t(v)[None], attn_mask=_t(mask), scale=0.3, enable_gqa=True
    )[0]


TRUE_CASES: dict[str, list[Case]] = {
    "nn.embedding": [
        Case(["i64[T]", "f32[5, 8]"], lambda i, t: 12 * F.embedding(_t(i), _t(t)), {"scale": 12.0}),
        Case(["i64[T]", "bf16[5, 8]"], lambda i, t: F.embedding(_t(i), _t(t))),
    ],
    "nn.linear": [
        Case(["f32[T, 8]", "f32[6, 8]"], lambda x, w: F.linear(_t(x), _t(w))),
        Case(["f32[8]", "f16[6, 8]"], lambda x, w: F.linear(_t(x), _t(w))),
        Case(["f32[2, T, 8]", "bf16[6, 8]"], lambda x, w: F.linear(_t(x), _t(w))),
    ],
    "nn.rms_norm": [
        Case(
            ["f32[T, 8]", "f32[8]"],
            lambda x, w: F.rms_norm(_t(x), (8,), _t(w), eps=0.1),
            {"eps": 0.1},
        ),
        Case(
            ["f32[T, 2, 8]", "bf16[8]"],
            lambda x, w: F.rms_norm(_t(x), (8,), _t(w), eps=1e-6),
            {"eps": 1e-6},
        ),
    ],
    "nn.rope": [
        Case(["f32[T, 2, 8]", "i64[T]", "f32[4]"], _rope, {"factor": 1.5}, high=8),
    ],
    "nn.silu_mul": [
        Case(["f32[T, 8]", "f32[T, 8]"], lambda g, u: F.silu(_t(g)) * _t(u)),
    ],
    "nn.add": [
        Case(["f32[T, 8]", "f32[T, 8]"], lambda a, b: torch.add(_t(a), _t(b), alpha=0.25),
             {"scale": 0.25}),
    ],
    "quant.linear": [
        Case(["f32[T, 16]", f"quant<{scheme}>[6, 16]"], lambda x, w: F.linear(_t(x), _t(w)))
        for scheme in ("int4-g8", "int8-row", "int3-g8-asym", "int2-g16")
    ],
    "quant.embedding": [
        Case(["i64[T]", f"quant<{scheme}>[5, 16]"], lambda i, t: 3 * F.embedding(_t(i), _t(t)),
             {"scale": 3.0})
        for scheme in ("int4-g8", "int8-row-asym", "int5-g16")
    ],
    "cache.append": [
        Case(["cache<f32>[S, 2, 4]", "f32[T, 2, 4]"], lambda c, r: torch.cat((_t(c), _t(r)))),
        Case(["cache<i8>[S, 2, 4]", "f32[T, 2, 4]", "f32[2, 4]"], _append_int8),
        Case(["cache<i8>[S, 2, 4]", "f32[T, 2, 4]", "cache<f32>[S, 2, 1]"], _append_by_token),
    ],
    "attn.dense": [
        Case(["f32[T, 4, 8]", "cache<f32>[L, 2, 8]", "cache<f32>[L, 2, 8]"], _dense,
             {"scale": 0.25}),
        Case(["f32[T, 4, 8]", "cache<f32>[T, 1, 8]", "cache<f32>[T, 1, 8]"], _dense,
             {"scale": 0.25}),
        Case(["f32[1, 2, 4]", "cache<f32>[L, 2, 4]", "cache<f32>[L, 2, 4]"], _dense,
             {"scale": 0.25}),
        Case(["f32[T, 4, 8]", "cache<i8>[L, 2, 8]", "cache<i8>[L, 2, 8]", "f32[2, 8]", "f32[2, 8]"],
             lambda q, k, v, a, b: _dense(q, k * a, v * b), {"scale": 0.25}),
        Case(["f32[T, 4, 8]", "cache<i8>[L, 2, 8]", "cache<i8>[L, 2, 8]",
              "cache<f32>[L, 2, 1]", "cache<f32>[L, 2, 1]"],
             lambda q, k, v, a, b: _dense(q, k * a, v * b), {"scale": 0.25}),
    ],
    "tensor.neg": [Case(["f32[T, 8]"], lambda x: torch.neg(_t(x)))],
    "tensor.rsqrt": [Case(["f32[T, 8]"], lambda x: torch.rsqrt(_t(x)))],
    "tensor.cos": [Case(["f32[T, 8]"], lambda x: torch.cos(_t(x)))],
    "tensor.sin": [Case(["f32[T, 8]"], lambda x: torch.sin(_t(x)))],
    "tensor.silu": [Case(["f32[T, 8]"], lambda x: F.silu(_t(x)))],
    "tensor.scale": [Case(["f32[T, 8]"], lambda x: _t(x) * 0.7, {"by": 0.7})],
    "tensor.shift": [Case(["f32[T, 8]"], lambda x: _t(x) + 0.7, {"by": 0.7})],
    "tensor.cast": [
        Case(["f32[T, 8]"], lambda x: x, {"to": "f16"}),
        Case(["i64[T]"], lambda x: _t(x).to(torch.float32), {"to": "f32"}),
        Case(["bool[T, 2]"], lambda x: _t(x).to(torch.int64), {"to": "i64"}),
        Case(["f32[T, 8]"], lambda x: _t(x).to(torch.int64), {"to": "i64"}),
    ],
    "tensor.add": [
        Case(["f32[T, 8]", "f32[8]"], lambda a, b: _t(a) + _t(b)),
        Case(["f32[T, 1, 2]", "f32[4, 1]"], lambda a, b: _t(a) + _t(b)),
        Case(["f32[T, 8]", "bf16[1, 1]"], lambda a, b: _t(a) + _t(b)),
    ],
    "tensor.mul": [Case(["f32[T, 8]", "f32[T, 1]"], lambda a, b: _t(a) * _t(b))],
    "tensor.le": [Case(["i64[1, L]", "i64[T, 1]"], lambda a, b: _t(a) <= _t(b))],
    "tensor.mean": [
        Case(["f32[T, 8]"], lambda x: _t(x).mean(-1, keepdim=True), {"axis": -1}),
        Case(["f32[T, 8]"], lambda x: _t(x).mean(0, keepdim=True), {"axis": 0}),
    ],
    "tensor.arange": [
        Case([], lambda: torch.arange(4, 7), {"start": ir.dim("S"), "stop": ir.dim("S + T")}),
        Case([], lambda: torch.arange(0, 5), {"start": 0, "stop": 5}),
    ],
    "tensor.reshape": [
        Case(["f32[T, 8]"], lambda x: _t(x).reshape(3, 2, 4), {"shape": (ir.dim("T"), 2, 4)}),
        Case(["f32[T, 2, 4]"], lambda x: _t(x).flatten(), {"shape": (ir.dim("8*T"),)}),
        Case(["f32[2, S]"], lambda x: _t(x).flatten(), {"shape": (ir.dim("2*S"),)}),
    ],
    "tensor.transpose": [
        Case(["f32[T, 2, 4]"], lambda x: _t(x).permute(2, 0, 1), {"axes": (2, 0, 1)}),
    ],
    "tensor.slice": [
        Case(["f32[T, 8]"], lambda x: _t(x)[:, 2:5], {"axis": 1, "start": 2, "stop": 5}),
        Case(["f32[T, 8]"], lambda x: _t(x)[:, 7:], {"axis": -1, "start": 7, "stop": 8}),
    ],
    "tensor.concat": [
        Case(["f32[S, 4]", "f32[T, 4]"], lambda *x: torch.cat([_t(p) for p in x]), {"axis": 0}),
        Case(["i64[2]", "i64[T]", "i64[2]"], lambda *x: torch.cat([_t(p) for p in x]),
             {"axis": -1}),
    ],
    "tensor.take": [
        Case(["f32[T, 8]", "i64[R]"], lambda x, r: torch.index_select(_t(x), 0, _t(r))),
        Case(["i64[T]", "i64[R]"], lambda x, r: torch.index_select(_t(x), 0, _t(r))),
    ],
    "tensor.sdpa": [
        Case(["f32[4, T, 8]", "f32[2, L, 8]", "f32[2, L, 8]", "bool[T, L]"], _sdpa,
             {"scale": 0.3}),
    ],
}  # fmt: skip

FLAT = [(op, case) for op, cases in TRUE_CASES.items() for case in cases]


def operand(t: ir.Type, rng: np.random.Generator, high: int) -> Any:
    shape = tuple(evaluate(d, SYMBOLS) for d in t.shape)
    if isinstance(t, ir.QuantizedType):
        return round_to_nearest(rng.standard_normal(shape, np.float32), t.scheme)
    dtype = ir.DTYPES[t.dtype]
    if dtype == np.bool_:
        mask = rng.integers(0, 2, shape).astype(np.bool_)
        mask[..., 0] = True  # every query sees something
        return mask
    if np.issubdtype(dtype, np.integer):
        return rng.integers(0, high, shape, dtype=dtype)
    return np.abs(rng.standard_normal(shape)).astype(dtype)


def bound(attributes: Mapping[str, Any]) -> dict[str, Any]:
    def value(item: Any) -> Any:
        return evaluate(item, SYMBOLS) if isinstance(item, ir.Sym) else item

    return {
        k: tuple(map(value, v)) if isinstance(v, tuple) else value(v) for k, v in attributes.items()
    }


def plain(x: Any) -> Array:
    """As torch understands it: dense float64, or integers."""
    dense = x if isinstance(x, np.ndarray) else x.dequantize()
    return dense if dense.dtype.kind in "biu" else dense.astype(np.float64)


@pytest.mark.parametrize(("op", "case"), FLAT, ids=[f"{op}-{i}" for i, (op, _) in enumerate(FLAT)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ref_is_the_meaning(op: str, case: Case, dtype: type) -> None:
    rng = np.random.default_rng(3)
    types = [ir.parse_type(text) for text in case.types]
    operands = [operand(t, rng, case.high) for t in types]
    cls = ir.op_class(op)
    attributes = {**cls.attributes, **case.attributes}
    # Values are computed in `dtype`; weights come as they are stored, floats at least 32 bits.
    computed = [
        x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype == np.float32 else x
        for x in operands
    ]
    results = cls.ref(computed, bound(attributes))
    meant = case.meaning(*(plain(x) for x in operands))
    expected = meant if isinstance(meant, tuple) else (meant,)
    declared = ir.infer_types(op, types, attributes)
    for result, wanted, kind in zip(results, expected, declared, strict=True):
        assert result.shape == tuple(evaluate(d, SYMBOLS) for d in kind.shape)
        assert isinstance(kind, ir.TensorType | ir.CacheType)
        dtype = ir.DTYPES[kind.dtype]
        exact = dtype.kind in "biu"
        assert result.dtype == dtype if exact else result.dtype in (np.float32, np.float64)
        rtol, atol = (0, 0) if exact else (2e-5, 1e-6)
        np.testing.assert_allclose(result, np.asarray(wanted), rtol=rtol, atol=atol)


def test_no_op_is_left_out() -> None:
    assert set(TRUE_CASES) == set(ir.OPS)


@pytest.mark.parametrize("op", sorted(ir.OPS))
def test_every_op_is_described(op: str) -> None:
    cls = ir.op_class(op)
    assert cls.__doc__, "an op states its meaning"
    assert op.count(".") == 1
    assert all(name.isidentifier() for name in [n.rstrip("*") for n in cls.operands])


def test_float64_stays_float64_where_only_values_are_read() -> None:
    x = np.linspace(-3, 3, 24).reshape(3, 8)
    for op in ("tensor.neg", "tensor.cos", "tensor.silu", "nn.silu_mul", "nn.add", "tensor.mul"):
        cls = ir.op_class(op)
        attributes = {k: 0.1 for k in cls.attributes}
        (result,) = cls.ref([x] * len(cls.operands), attributes)
        assert result.dtype == np.float64


def test_rope_far_away() -> None:
    """In float32 the angle itself is rounded, as in the published models; in float64 it is not."""
    x = np.random.default_rng(1).standard_normal((2, 1, 8))
    positions, freq = np.array([30000, 131071]), np.float32([1, 0.1, 1e-2, 1e-4])
    (turned,) = ir.op_class("nn.rope").ref([x, positions, freq], {"factor": 1.5})
    np.testing.assert_allclose(turned, _rope(x, positions, freq), rtol=1e-9, atol=1e-9)


def test_silu_of_large_numbers_is_quiet() -> None:
    x = np.array([-1e4, -200.0, 0.0, 200.0, 1e4], np.float32)
    with np.errstate(all="raise", under="ignore"):
        (single,) = ir.op_class("tensor.silu").ref([x], {})
        (gated,) = ir.op_class("nn.silu_mul").ref([x, np.ones_like(x)], {})
    np.testing.assert_array_equal(single, [0, 0, 0, 200, 1e4])
    np.testing.assert_array_equal(gated, single)


def test_int8_caches_round_to_even_and_saturate() -> None:
    old = np.array([[[7]]], np.int8)
    rows = np.array([0.25, 0.75, -0.25, 63.6, 1e6, -64.1, -1e6], np.float32)[:, None, None]
    (new,) = ir.op_class("cache.append").ref([old, rows, np.array([[0.5]], np.float32)], {})
    assert new.dtype == np.int8
    assert new[:, 0, 0].tolist() == [7, 0, 2, 0, 127, 127, -128, -128]


def test_attention_survives_large_scores() -> None:
    q = np.full((1, 1, 4), 1e4, np.float32)
    k = np.array([[[1e4] * 4], [[-1e4] * 4]], np.float32)
    v = np.array([[[1.0] * 4], [[2.0] * 4]], np.float32)
    (mixed,) = ir.op_class("attn.dense").ref([q, k, v], {"scale": 1.0})
    np.testing.assert_array_equal(mixed, np.ones((1, 1, 4)))


def test_quant_linear_goes_by_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    weight = round_to_nearest(rng.standard_normal((1030, 16384), np.float32), Scheme(4, 128))
    seen: list[int] = []
    dequantize = type(weight).dequantize

    def spy(self: Any, rows: slice) -> Any:
        seen.append(rows.stop - rows.start)
        return dequantize(self, rows)

    monkeypatch.setattr(type(weight), "dequantize", spy)
    x = rng.standard_normal((2, 16384), np.float32)
    (got,) = ir.op_class("quant.linear").ref([x, weight], {})
    assert seen == [1024, 6]
    np.testing.assert_allclose(got, x @ dequantize(weight).T, rtol=1e-4, atol=1e-3)


def test_bfloat16_weights_are_read_exactly() -> None:
    table = np.arange(12, dtype=np.float32).reshape(3, 4).astype(ml_dtypes.bfloat16)
    (rows,) = ir.op_class("nn.embedding").ref([np.array([2, 0]), table], {"scale": 1.0})
    np.testing.assert_array_equal(rows, [[8, 9, 10, 11], [0, 1, 2, 3]])
    assert rows.dtype == np.float32


def test_a_new_op_works_everywhere() -> None:
    """Defining the class is all: text, verifier and interpreter know it."""

    class Double(Op):
        """x followed by itself."""

        name = "test.double"
        operands = ("x",)

        @classmethod
        def infer(cls, types: Sequence[Any], attributes: Mapping[str, Any]) -> list[ir.Type]:
            need(isinstance(types[0], ir.TensorType), cls, "no tensor")
            return [ir.TensorType("f32", (scale_dim(types[0].shape[0], 2),))]

        @classmethod
        def ref(cls, operands: Sequence[Any], attributes: Mapping[str, Any]) -> list[Array]:
            return [np.concatenate([operands[0], operands[0]])]

    try:
        text = "module\nfunc @f(%x: f32[T]) {\n%0 = test.double(%x) : f32[2*T]\nreturn y = %0\n}"
        module = ir.parse_module(text)
        ir.verify_module(module)
        x = np.array([1, 2], np.float32)
        result = ir.run_function(module.functions["f"], {"x": x}, ir.RandomWeights())
        np.testing.assert_array_equal(result["y"], [1, 2, 1, 2])
        with pytest.raises(InternalError, match=r'the op "test\.double" is defined twice'):
            type("Again", (Op,), {"name": "test.double"})
    finally:
        del ir.OPS["test.double"]
