"""Ways to break a rule of TensorRT in a real network, and what the lint has to say of each."""

from __future__ import annotations

import math
from collections.abc import Callable

from onnx import TensorProto, helper

from arkinfer_trt.kernels.node import gemv_function
from tests.backends.trt.lint.networks import Broken, Seed

SEEDS: dict[str, tuple[str, Seed, str]] = {}
"""By name: the network, what is done to it, and the line that is expected."""

ATTENTION = "attn.dense at model.layers.0.self_attn (Attention)"
SCATTER = "cache.append at model.layers.0.self_attn (TensorScatter)"
LINEAR = "quant.linear at model.layers.0.self_attn"
INT4 = f"{LINEAR} (DequantizeLinear)"
GEMV = f"{LINEAR} (ArkGemv)"


def seed(line: str, network: str = "native") -> Callable[[Seed], Seed]:
    def register(function: Seed) -> Seed:
        SEEDS[function.__name__] = network, function, line
        return function

    return register


@seed(
    "nn.silu_mul at model.layers.0.mlp (Swish): new in TensorRT 11.0; x * Sigmoid(x) is the same "
    "[known-op]"
)
def an_op_of_a_later_version(network: Broken) -> None:
    network.node("Sigmoid").op_type = "Swish"


@seed("BitwiseAnd at seeded (BitwiseAnd): no TensorRT parses it; the GEMV plug-in unpacks codes "
      "[known-op]")  # fmt: skip
def codes_are_unpacked_in_the_network(network: Broken) -> None:
    node = network.node("Reshape")
    made = helper.make_node("BitwiseAnd", [node.input[1]] * 2, ["bits"], name="seeded/BitwiseAnd")
    network.insert(made, node)


@seed("NonZero at seeded (NonZero): it has no place in an engine that is to be fast: the shape of "
      "what it gives depends on numbers [known-op]")  # fmt: skip
def a_shape_depends_on_numbers(network: Broken) -> None:
    node = network.node("Reshape")
    network.insert(helper.make_node("NonZero", ["rows"], ["z"], name="seeded/NonZero"), node)


@seed("Conv at seeded (Conv): TensorRT is not known to parse this op; rules.csv tells which it "
      "does [known-op]")  # fmt: skip
def an_op_that_nobody_looked_at(network: Broken) -> None:
    node = network.node("Reshape")
    network.insert(helper.make_node("Conv", ["rows"] * 2, ["c"], name="seeded/Conv"), node)


@seed("The network: it is in opset 25 of ONNX; TensorRT parses 9 to 24 [opset]")
def a_later_opset(network: Broken) -> None:
    network.model.opset_import[0].version = 25


@seed("cache.append at model.layers.0.self_attn (TensorScatter): it needs opset 24 [opset]")
def an_opset_too_early_for_an_op(network: Broken) -> None:
    network.model.opset_import[0].version = 23


@seed(f"{LINEAR} (MatMul): A is i32; TensorRT takes f32, f16, bf16; integers are dequantized first "
      "[types]")  # fmt: skip
def a_product_of_integers(network: Broken) -> None:
    network.before(network.node("MatMul"), 0, "Cast", to=TensorProto.INT32)


@seed("nn.add at model.layers.0 (Add): A is f16 and B is f32; they have to be of one type: cast "
      "one of them [strongly-typed]")  # fmt: skip
def types_are_mixed(network: Broken) -> None:
    network.before(network.node("Add"), 1, "Cast", to=TensorProto.FLOAT)


@seed("The value double: it is double, which no tensor of TensorRT is [tensor-types]")
def a_constant_of_float64(network: Broken) -> None:
    network.constant("double", TensorProto.DOUBLE, [1], [1.0])


@seed("Cast at seeded (Cast): it casts to double; TensorRT casts to f32, f16, bf16, i32, i64, "
      "bool, u8 [types]")  # fmt: skip
def a_cast_to_float64(network: Broken) -> None:
    network.before(network.node("Add"), 1, "Cast", to=TensorProto.DOUBLE)


@seed("Gather at seeded (Gather): data is i4; TensorRT takes f32, f16, bf16, i32, i64, bool; "
      "tables of integers are looked up outside of the engine [types]")  # fmt: skip
def a_table_of_four_bits(network: Broken) -> None:
    node = network.node("DequantizeLinear")
    inputs = [node.input[0], "rows"]
    made = helper.make_node("Gather", inputs, ["table"], name="seeded/Gather", axis=0)
    network.insert(made, node)


@seed("The value raw: it is i4, which constants may be, and inputs not [tensor-types]")
def an_input_of_four_bits(network: Broken) -> None:
    network.graph.input.append(helper.make_tensor_value_info("raw", TensorProto.INT4, [2, 2]))


@seed(f"{ATTENTION}: Q has 3 axes; TensorRT takes 4 [ranks]")
def attention_without_an_axis_of_heads(network: Broken) -> None:
    shape = network.constant("flat", TensorProto.INT64, [3], [1, -1, 128])
    node = network.node("Attention")
    made = helper.make_node("Reshape", [node.input[0], shape], ["flat Q"], name="seeded/Reshape")
    node.input[0] = network.insert(made, node).output[0]


@seed(f"{ATTENTION}: it has 2 outputs; TensorRT gives 1 [outputs]")
def attention_returns_its_keys(network: Broken) -> None:
    network.node("Attention").output.append("keys")


@seed(f"{ATTENTION}: it has the input past_key, which TensorRT does not take; TensorScatter keeps "
      "keys and values and attn_mask hides what is not written [absent-input]")  # fmt: skip
def attention_keeps_the_past(network: Broken) -> None:
    network.node("Attention").input.extend(["past.k0", "past.v0"])


@seed(f"{ATTENTION}: softcap is 30.0; it has to be 0; TensorScatter keeps keys and values and "
      "attn_mask hides what is not written [attributes]")  # fmt: skip
def attention_is_capped(network: Broken) -> None:
    network.set(network.node("Attention"), softcap=30.0)


@seed(f"{ATTENTION}: attn_mask is f32; it is bool, or f16 like Q [attention-mask]")
def a_mask_of_another_type(network: Broken) -> None:
    network.before(network.node("Attention"), 3, "Cast", to=TensorProto.FLOAT)


@seed(f"{ATTENTION}: attn_mask is for 1 keys, and K has as many as a step says [attention-mask]")
def a_mask_that_is_broadcast_over_keys(network: Broken) -> None:
    network.constant("mask", TensorProto.BOOL, [1, 1, 1, 1], [True])
    network.node("Attention").input[3] = "mask"


@seed(f"{ATTENTION}: 4 heads of queries cannot share 2 of keys and 32 of values "
      "[attention-heads]")  # fmt: skip
def heads_that_do_not_fit(network: Broken) -> None:
    network.before(network.node("Attention"), 2, "Transpose", perm=[0, 3, 1, 2])


@seed(f"{SCATTER}: axis is -1; it has to be -2; it becomes an update of a cache in place "
      "[attributes]")  # fmt: skip
def a_cache_that_grows_along_its_last_axis(network: Broken) -> None:
    network.set(network.node("TensorScatter"), axis=-1)


@seed(f"{SCATTER}: mode is circular; it has to be linear; it becomes an update of a cache in place "
      "[attributes]")  # fmt: skip
def a_cache_that_is_a_ring(network: Broken) -> None:
    network.set(network.node("TensorScatter"), mode="circular")


@seed(f"{SCATTER}: the cache past.k0.Identity has to be an input of the network [cache-input]")
def a_cache_that_is_computed(network: Broken) -> None:
    network.before(network.node("TensorScatter"), 0, "Identity")


@seed(f"{SCATTER}: the cache present.k0 has to be an output of the network [cache-output]")
def a_cache_that_is_dropped(network: Broken) -> None:
    outputs = network.graph.output
    outputs.remove(next(v for v in outputs if v.name == "present.k0"))


@seed(f"{SCATTER}: the cache past.k0 is f16 [1, 2, ?, 32]; each of its sizes has to be a number "
      "[cache-static]")  # fmt: skip
def a_cache_of_varying_size(network: Broken) -> None:
    past = next(v for v in network.graph.input if v.name == "past.k0")
    past.type.tensor_type.shape.dim[2].dim_param = "S"


@seed(f"{SCATTER}: it overwrites past.k0 in place, which Attention reads; present.k0 is what "
      "others may read [cache-readers]")  # fmt: skip
def a_cache_that_is_read_as_it_was(network: Broken) -> None:
    network.node("Attention").input[1] = "past.k0"


@seed("nn.rope at model.layers.0.self_attn (RotaryEmbedding): position_ids is i32; TensorRT takes "
      "i64; tables are looked up by position_ids [types]")  # fmt: skip
def positions_of_32_bits(network: Broken) -> None:
    network.before(network.node("RotaryEmbedding"), 3, "Cast", to=TensorProto.INT32)


@seed("ReduceMean at seeded (ReduceMean): axes has to be a constant, and is computed "
      "[constant-input]")  # fmt: skip
def axes_that_are_computed(network: Broken) -> None:
    node = network.node("Add")
    made = helper.make_node("ReduceMean", [node.input[0], "rows"], ["m"], name="seeded/ReduceMean")
    network.insert(made, node)


@seed("Constant at seeded (Constant): value_string is a word; it may not be there [attributes]")
def a_constant_that_is_a_word(network: Broken) -> None:
    node = network.node("Add")
    made = helper.make_node("Constant", [], ["w"], name="seeded/Constant", value_string="a word")
    network.insert(made, node)


@seed("ScatterND at seeded (ScatterND): reduction is add; it has to be none; TensorScatter updates "
      "a cache in place [attributes]")  # fmt: skip
def a_scatter_that_adds(network: Broken) -> None:
    node = network.node("Add")
    inputs = [node.input[0], "rows", node.input[0]]
    made = helper.make_node("ScatterND", inputs, ["s"], name="seeded/ScatterND", reduction="add")
    network.insert(made, node)


@seed("TopK at seeded (TopK): sorted is 0; it has to be 1 [attributes]")
def the_largest_in_any_order(network: Broken) -> None:
    _top_k(network, 64, 0)


@seed("TopK at seeded (TopK): K is 3840; TensorRT finds fewer than 3840 [top-k]")
def too_many_of_the_largest(network: Broken) -> None:
    _top_k(network, 3840, 1)


def _top_k(network: Broken, k: int, in_order: int) -> None:
    node = network.node("Add")
    count = network.constant("k", TensorProto.INT64, [1], [k])
    inputs, outputs = [node.input[0], count], ["best", "where"]
    made = helper.make_node("TopK", inputs, outputs, name="seeded/TopK", sorted=in_order)
    network.insert(made, node)


SYMMETRIC = (
    "symmetric codes of four bits alone: TensorRT 10.16 does not build int8 on Orin (its issue "
    "4832)"
)


@seed(f"{INT4}: it has the input x_zero_point, which TensorRT does not take; {SYMMETRIC} "
      "[absent-input]")  # fmt: skip
def codes_with_an_offset(network: Broken) -> None:
    network.node("DequantizeLinear").input.append("offset")


@seed(f"{INT4}: output_dtype is 10; it has to be 0; {SYMMETRIC} [attributes]")
def numbers_of_a_type_of_their_own(network: Broken) -> None:
    network.set(network.node("DequantizeLinear"), output_dtype=TensorProto.FLOAT16)


@seed(f"{INT4}: x_scale has to be a constant, and is computed [constant-input]")
def scales_that_are_computed(network: Broken) -> None:
    network.before(network.node("DequantizeLinear"), 1, "Identity")


@seed(f"{INT4}: some of its scales are not positive; a group of zeros has any other [int4-scale]")
def a_scale_of_zero(network: Broken) -> None:
    scale = network.weight(1)
    shape = [size.dim_value for size in scale.type.tensor_type.shape.dim]
    network.constant(scale.name, TensorProto.FLOAT16, shape, [0.0] * math.prod(shape))


@seed(f"{INT4}: its codes are i4 [128, 256] and its scales f16 [256]; they have to have as many "
      "axes [int4-blocks]")  # fmt: skip
def a_scale_for_each_column(network: Broken) -> None:
    network.reshape(1, [256])


@seed(f"{INT4}: its codes are i4 [128, 256] and its scales f16 [4, 8]; they differ along one axis, "
      "the last or that before [int4-blocks]")  # fmt: skip
def blocks_along_two_axes(network: Broken) -> None:
    network.reshape(1, [4, 8])


@seed(f"{INT4}: blocks of 64 along axis 0 do not fit 128 codes with 4 scales along axis 0 "
      "[int4-blocks]")  # fmt: skip
def blocks_of_another_size(network: Broken) -> None:
    network.set(network.node("DequantizeLinear"), block_size=64)


@seed(f"{INT4}: it has 129 codes; two share a byte, so there has to be another [int4-even]")
def an_odd_number_of_codes(network: Broken) -> None:
    network.reshape(0, [129, 1])
    network.reshape(1, [1, 1])


@seed(f"{INT4}: x is i8; TensorRT takes i4; {SYMMETRIC} [types]")
def codes_of_eight_bits(network: Broken) -> None:
    network.weight(0).type.tensor_type.elem_type = TensorProto.INT8


@seed(f"{LINEAR} (Softmax): TensorRT's parser has an op Softmax of its own, and goes by the name "
      "alone; the plug-in needs another [plugin-name]", "gemv")  # fmt: skip
def a_plugin_with_the_name_of_an_op(network: Broken) -> None:
    network.node("ArkGemv").op_type = "Softmax"


@seed(f"{LINEAR} (ArkScore): there is no plug-in arkinfer::ArkScore; there is arkinfer::ArkGemv "
      "[plugin-name]", "gemv")  # fmt: skip
def a_plugin_that_is_not_ours(network: Broken) -> None:
    network.node("ArkGemv").op_type = "ArkScore"


@seed(f"{GEMV}: aot is None, by which it is found; it is 1 [plugin-attributes]", "gemv")
def a_plugin_that_is_compiled_on_the_board(network: Broken) -> None:
    network.set(network.node("ArkGemv"), aot=None)


@seed(f"{GEMV}: The attribute matrix has to be a list of four integers [plugin-attributes]", "gemv")
def a_plugin_with_a_number_for_an_attribute(network: Broken) -> None:
    network.set(network.node("ArkGemv"), matrix=4)


@seed(f"{GEMV}: x is f32 [1, ?, 128]; the kernel has f16 [1, ?, 128] [plugin-types]", "gemv")
def a_plugin_that_reads_float32(network: Broken) -> None:
    network.before(network.node("ArkGemv"), 0, "Cast", to=TensorProto.FLOAT)


@seed(f"{GEMV}: words is i32 [64, 16, 4]; the kernel has i32 [64, 4, 4] [plugin-shapes]", "gemv")
def a_plugin_with_the_attribute_of_another(network: Broken) -> None:
    network.set(network.node("ArkGemv"), matrix=[4, 32, 32, 256])


@seed("The function ArkGemv: TensorRT puts it in the place of nodes of that name, plug-ins among "
      "them; remove it [functions]", "gemv")  # fmt: skip
def a_function_in_the_place_of_a_plugin(network: Broken) -> None:
    network.model.functions.append(gemv_function(24))
