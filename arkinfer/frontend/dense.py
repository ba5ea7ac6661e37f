"""The fused module of a dense model, built node by node from its config: what tracing and the
standard pipeline must arrive at, and a test holds them to it.

`plan` measures it without torch, and backends are tested on it. Knows no pass and no backend.
"""

from __future__ import annotations

import math

from arkinfer import ir
from arkinfer.ir import Builder, CacheType, Derived, TensorType, Value, Weight, dim
from arkinfer.models.config import ModelConfig
from arkinfer.packing import Scheme


def dense_module(
    config: ModelConfig,
    *,
    context: int = 256,
    chunk: int = 64,
    linear: Scheme | None = None,
    embedding: Scheme | None = None,
    dtype: str = "f32",
) -> ir.Module:
    """`step(tokens, rows, k0, v0, …) -> logits, k0, v0, …` of a config, fused.

    Args:
        config: the model.
        context: tokens that the caches may hold.
        chunk: the most tokens of one step.
        linear: how the linears are quantized; None: not.
        embedding: how embedding and head are quantized; None: not.
        dtype: of the weights in the checkpoint, an IR name.
    """
    return _Dense(config, context, chunk, linear, embedding, dtype).build()


class _Dense:
    def __init__(
        self,
        config: ModelConfig,
        context: int,
        chunk: int,
        linear: Scheme | None,
        embedding: Scheme | None,
        dtype: str,
    ) -> None:
        self.config, self.linear, self.embedding, self.dtype = config, linear, embedding, dtype
        self.context = context
        self.builder = Builder(ir.infer_types)
        self.module = ir.Module(
            attributes={"context": context, "chunk": chunk, "vocab_size": config.vocab_size}
        )

    def build(self) -> ir.Module:
        config, b = self.config, self.builder
        cache = CacheType("f32", (dim("S"), config.num_key_value_heads, config.head_dim))
        caches = [Value(cache, f"{x}{i}") for i in range(config.num_hidden_layers) for x in "kv"]
        tokens = Value(TensorType("i64", (dim("T"),)), "tokens")
        rows = Value(TensorType("i64", (dim("R"),)), "rows")
        positions = b.add("tensor.arange", start=dim("S"), stop=dim("S + T"))
        b.loc = "model.embed_tokens"
        table, quantized = self.matrix("model.embed_tokens.weight", self.embedding)
        op = "quant.embedding" if quantized else "nn.embedding"
        hidden = b.add(op, tokens, table, scale=config.embedding_scale)
        outputs: list[Value] = []
        for layer in range(config.num_hidden_layers):
            hidden, k, v = self.layer(layer, hidden, positions, *caches[2 * layer : 2 * layer + 2])
            outputs += [k, v]
        b.loc = ""
        hidden = b.add("tensor.take", hidden, rows)
        b.loc = "model.norm"
        hidden = b.add("nn.rms_norm", hidden, self.final_norm(), eps=config.rms_norm_eps)
        b.loc = "lm_head"
        head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
        logits = self.multiply(hidden, head, self.embedding)
        names = ["logits", *(value.name for value in caches)]
        function = ir.Function("step", [tokens, rows, *caches], b.nodes, [logits, *outputs], names)
        self.module.functions["step"] = function
        ir.verify_module(self.module)
        return self.module

    def layer(
        self, index: int, hidden: Value, positions: Value, k_cache: Value, v_cache: Value
    ) -> tuple[Value, Value, Value]:
        config, b, at = self.config, self.builder, f"model.layers.{index}"
        attended, k, v = self.attention(index, hidden, positions, k_cache, v_cache)
        b.loc = at
        hidden = b.add("nn.add", hidden, attended, scale=config.residual_scale)
        b.loc = f"{at}.post_attention_layernorm"
        normed = self.norm(hidden, f"{at}.post_attention_layernorm.weight")
        b.loc = f"{at}.mlp.gate_proj"
        gate = self.multiply(normed, f"{at}.mlp.gate_proj.weight", self.linear)
        b.loc = f"{at}.mlp.up_proj"
        up = self.multiply(normed, f"{at}.mlp.up_proj.weight", self.linear)
        b.loc = f"{at}.mlp"
        inner = b.add("nn.silu_mul", gate, up)
        b.loc = f"{at}.mlp.down_proj"
        down = self.multiply(inner, f"{at}.mlp.down_proj.weight", self.linear)
        b.loc = at
        return b.add("nn.add", hidden, down, scale=config.residual_scale), k, v

    def attention(
        self, index: int, hidden: Value, positions: Value, k_cache: Value, v_cache: Value
    ) -> tuple[Value, Value, Value]:
        config, b, at = self.config, self.builder, f"model.layers.{index}"
        heads, kv, size = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        b.loc = f"{at}.input_layernorm"
        normed = self.norm(hidden, f"{at}.input_layernorm.weight")
        b.loc = f"{at}.self_attn"
        packed = self.multiply(normed, f"{at}.self_attn.qkv_proj.weight", self.linear)
        packed = b.add("tensor.reshape", packed, shape=(dim("T"), heads + 2 * kv, size))
        q = b.add("tensor.slice", packed, axis=1, start=0, stop=heads)
        k = b.add("tensor.slice", packed, axis=1, start=heads, stop=heads + kv)
        v = b.add("tensor.slice", packed, axis=1, start=heads + kv, stop=heads + 2 * kv)
        freq = self.leaf("model.rotary.inv_freq", (size // 2,), "f32")
        factor = config.rope_attention_factor
        q = b.add("nn.rope", q, positions, freq, factor=factor)
        k = b.add("nn.rope", k, positions, freq, factor=factor)
        k, v = b.add("cache.append", k_cache, k), b.add("cache.append", v_cache, v)
        mixed = b.add("attn.dense", q, k, v, scale=1 / math.sqrt(size))
        mixed = b.add("tensor.reshape", mixed, shape=(dim("T"), heads * size))
        b.loc = f"{at}.self_attn.o_proj"
        return self.multiply(mixed, f"{at}.self_attn.o_proj.weight", self.linear), k, v

    def leaf(self, name: str, shape: tuple[int, ...], dtype: str | None = None) -> Weight:
        return self.module.add_weight(Weight(name, TensorType(dtype or self.dtype, shape)))

    def norm(self, hidden: Value, name: str) -> Value:
        weight = self.leaf(name, (self.config.hidden_size,))
        return self.builder.add("nn.rms_norm", hidden, weight, eps=self.config.rms_norm_eps)

    def final_norm(self) -> Weight:
        weight = self.leaf("model.norm.weight", (self.config.hidden_size,))
        by = 1 / self.config.logit_divisor
        if by == 1:
            return weight
        source = Derived("scale", (weight.name,), (("by", by),))
        return self.module.add_weight(
            Weight(f"{weight.name}.scaled", TensorType("f32", weight.type.shape), source)
        )

    def matrix(self, name: str, scheme: Scheme | None) -> tuple[Weight, bool]:
        weight = self.source(name)
        if scheme is None:
            return weight, False
        rows, columns = weight.type.shape
        assert isinstance(rows, int)
        assert isinstance(columns, int)
        source = Derived("rtn", (weight.name,), (("scheme", scheme.name),))
        kind = ir.QuantizedType(scheme, (rows, columns))
        return self.module.add_weight(Weight(f"{name}.{scheme.name}", kind, source)), True

    def source(self, name: str) -> Weight:
        """A checkpoint's matrix, or q, k and v stacked."""
        shapes = self.config.tensor_shapes()
        if name in shapes:
            return self.leaf(name, shapes[name])
        stem = name.removesuffix("qkv_proj.weight")
        parts = [
            self.leaf(f"{stem}{x}_proj.weight", shapes[f"{stem}{x}_proj.weight"]) for x in "qkv"
        ]
        rows = sum(shapes[p.name][0] for p in parts)
        kind = TensorType(self.dtype, (rows, self.config.hidden_size))
        return self.module.add_weight(
            Weight(name, kind, Derived("concat", tuple(p.name for p in parts)))
        )

    def multiply(self, x: Value, name: str, scheme: Scheme | None) -> Value:
        weight, quantized = self.matrix(name, scheme)
        return self.builder.add("quant.linear" if quantized else "nn.linear", x, weight)
