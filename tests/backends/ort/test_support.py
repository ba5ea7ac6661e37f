"""What the compiler says of single nodes."""

from __future__ import annotations

import pytest

from arkinfer import ir
from arkinfer.ir import CacheType, QuantizedType, TensorType, Value, Weight, dim
from arkinfer.packing import parse_scheme
from arkinfer.targets import load_target
from arkinfer_ort.compiler import OnnxRuntimeCompiler
from arkinfer_ort.support import needed_version, newest, product_block


def support(op, *operands, target="cpu", **attributes):
    builder = ir.Builder(ir.infer_types)
    builder.add(op, *operands, **attributes)
    return OnnxRuntimeCompiler().supports(builder.nodes[0], load_target(target))


def rows(width):
    return Value(TensorType("f32", (dim("T"), width)), "x")


def quantized(name, shape):
    return Weight("w", QuantizedType(parse_scheme(name), shape))


@pytest.mark.parametrize(
    ("name", "columns", "level", "reason"),
    [
        ("int4-g128", 1024, "fast", ""),
        ("int8-row-asym", 4096, "fast", ""),
        ("int2-row", 768, "fast", ""),
        ("int4-g16", 64, "fast", ""),
        ("int4-g128-actorder", 256, "fast", ""),
        ("int2-g16", 64, "slow", "2 bits in blocks of 16 are widened at every use"),
        ("int3-g128", 1024, "no", "ONNX Runtime multiplies by 2, 4, 8 bits, not 3"),
        ("int4-g128-min", 1024, "no", "float minima"),
        ("int4-g24", 48, "no", "groups of 24 cannot be cut"),
    ],
)
def test_schemes(name, columns, level, reason):
    found = support("quant.linear", rows(columns), quantized(name, (8, columns)))
    assert found.level == level
    assert reason in found.reason


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("int2-row", "with activations in fp32 two bits become four in memory, and a product"),
        ("int4-g128-asym", "with activations in fp32 a product takes 3 times as long"),
        ("int8-row", "with activations in fp32 a product takes 4 to 6 times as long"),
    ],
)
def test_activations_as_they_are_are_slow_and_need_four_bits_alone(name, reason):
    matrix = quantized(name, (128, 1024))
    for target in ("cpu", "jetson-orin"):
        found = support("quant.linear", rows(1024), matrix, target=target, activations="f32")
        assert found.level == "slow"
        assert found.reason.startswith(reason)
    asked = support("quant.linear", rows(1024), matrix, activations="i8")
    assert asked == support("quant.linear", rows(1024), matrix, activations="any")
    assert asked.level == "fast"
    assert needed_version(matrix.type, exact=True) == "1.23"
    assert product_block(matrix.type, "x86_64", exact=True) == 128


def test_two_bits_are_measured_on_x86_only():
    found = support(
        "quant.linear", rows(128), quantized("int2-g128", (8, 128)), target="jetson-orin"
    )
    assert (found.level, found.reason) == ("slow", "2-bit kernels were not measured on aarch64")


@pytest.mark.parametrize(
    ("name", "columns", "table", "version"),
    [
        ("int4-g128", 384, True, "1.23"),
        ("int8-row-asym", 384, True, "1.23"),
        ("int4-g128-asym", 384, False, "1.23"),
        ("int4-g128-asym", 512, True, "1.23"),
        ("int4-g128-asym", 384, True, "1.28"),  # 3 zero points in 2 bytes
        ("int2-g128", 512, False, "1.28"),
    ],
)
def test_versions(name, columns, table, version):
    kind = QuantizedType(parse_scheme(name), (8, columns))
    assert needed_version(kind, table=table) == version


@pytest.mark.parametrize(
    ("name", "shape", "arch", "block", "version"),
    [
        ("int2-row", (128, 1024), "x86_64", 256, "1.24"),
        ("int2-row", (128, 1024), "aarch64", 128, "1.24"),
        ("int2-row", (128, 5760), "x86_64", 128, "1.24"),  # 22.5 * 256
        ("int2-row", (192, 1024), "x86_64", 128, "1.28"),  # rows by 128 only
        ("int2-g256", (128, 1024), "x86_64", 128, "1.24"),
        ("int2-row-asym", (128, 1024), "x86_64", 128, "1.24"),
        ("int4-row", (128, 1024), "x86_64", 128, "1.23"),
    ],
)
def test_blocks_of_two_bits(name, shape, arch, block, version):
    kind = QuantizedType(parse_scheme(name), shape)
    assert product_block(kind, arch) == block
    assert needed_version(kind) == version


def test_the_newest_version_is_that_of_the_newest_feature():
    assert newest([]) == "1.23"
    assert newest(["1.28", "1.9", "1.23"]) == "1.28"


def test_a_scaled_addition_is_slow():
    assert support("nn.add", rows(8), rows(8), scale=1.0).level == "fast"
    found = support("nn.add", rows(8), rows(8), scale=0.5)
    assert found.level == "slow"
    assert "rescale-residual" in found.reason


def test_an_op_without_kernel():
    found = support("tensor.cos", rows(8))
    assert found.reason == "the ONNX Runtime backend has no kernel for tensor.cos"


def attention(*, dtype="f32", size=64, append=True, head_source="reshape"):
    builder = ir.Builder(ir.infer_types)
    caches = [Value(CacheType(dtype, (dim("S"), 1, size)), name) for name in ("k0", "v0")]
    heads = Value(TensorType("f32", (dim("T"), 1, size)), "heads")
    if head_source == "reshape":
        heads = builder.add("tensor.reshape", rows(size), shape=(dim("T"), 1, size))
    if append:
        caches = [builder.add("cache.append", cache, heads) for cache in caches]
    builder.add("attn.dense", heads, *caches, scale=0.125)
    return OnnxRuntimeCompiler().supports(builder.nodes[-1], load_target("cpu"))


def test_attention():
    assert attention().level == "fast"


def test_int8_caches_are_slow_in_prefill():
    builder = ir.Builder(ir.infer_types)
    caches = [Value(CacheType("i8", (dim("S"), 1, 64)), name) for name in ("k0", "v0")]
    scales = [Weight(name, TensorType("f32", (1, 64))) for name in ("k", "v")]
    heads = builder.add("tensor.reshape", rows(64), shape=(dim("T"), 1, 64))
    fresh = [
        builder.add("cache.append", cache, heads, scale)
        for cache, scale in zip(caches, scales, strict=True)
    ]
    builder.add("attn.dense", heads, *fresh, *scales, scale=0.125)
    builder.add("attn.dense", heads, *fresh, *scales[::-1], scale=0.125)
    right, swapped = (
        OnnxRuntimeCompiler().supports(node, load_target("cpu")) for node in builder.nodes[-2:]
    )
    assert right.level == "slow"
    assert right.reason.startswith("long prompts take 2 to 3 times as long over int8 caches")
    assert (swapped.level, swapped.reason) == (
        "no",
        "it writes its caches with other scales than it reads them",
    )


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"dtype": "f16"}, "it attends in float32 to a cache of f32 or i8, not of f16"),
        ({"size": 20}, "it has heads of 20; GroupQueryAttention takes multiples of 8"),
        ({"append": False}, "it reads a cache that nothing was appended to"),
        ({"head_source": "input"}, "it has heads that do not come from one matrix product"),
    ],
)
def test_attention_that_does_not_fit(facts, reason):
    found = attention(**facts)
    assert (found.level, found.reason) == ("no", reason)
