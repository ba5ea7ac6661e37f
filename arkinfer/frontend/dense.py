"""The fused module of a dense model, built node by node from its config: what tracing and the
standard pipeline must arrive at, and a test holds them to it.

`plan` measures it without torch, and backends are tested on it. Knows no pass and no backend.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

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
    declared: Mapping[str, tuple[str, Scheme]] | None = None,
    activations: str = "any",
) -> ir.Module:
    """`step(tokens, rows, k0, v0, …) -> logits, k0, v0, …` of a config, fused.

    Args:
        config: the model.
        context: tokens that the caches may hold.
        chunk: the most tokens of one step.
        linear: how the linears are quantized; None: not.
        embedding: how embedding and head are quantized; None: not.
        dtype: of the weights in the checkpoint, an IR name.
        declared: the matrices whose quantized form is settled: rule and scheme by name.
        activations: what products with quantized matrices take, as the IR calls it.
    """
    schemes = (linear, embedding)
    return _Dense(config, context, chunk, schemes, dtype, declared or {}, activations).build()


class _Dense:
    def __init__(
        self,
        config: ModelConfig,
        context: int,
        chunk: int,
        schemes: tuple[Scheme | None, Scheme | None],
        dtype: str,
        declared: Mapping[str, tuple[str, Scheme]],
        activations: str,
    ) -> None:
        self.declared, self.activations = declared, activations
        self.linear, self.embedding = schemes
        self.config, self.dtype = config, dtype
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
        q, k, v = self.heads(normed, f"{at}.self_attn", heads, kv)
        b.loc = f"{at}.self_attn"
        freq = self.leaf("model.rotary.inv_freq", (size // 2,), "f32")
        factor = config.rope_attention_factor
        q = b.add("nn.rope", q, positions, freq, factor=factor)
        k = b.add("nn.rope", k, positions, freq, factor=factor)
        k, v = b.add("cache.append", k_cache, k), b.add("cache.append", v_cache, v)
        mixed = b.add("attn.dense", q, k, v, scale=1 / math.sqrt(size))
        mixed = b.add("tensor.reshape", mixed, shape=(dim("T"), heads * size))
        b.loc = f"{at}.self_attn.o_proj"
        return self.multiply(mixed, f"{at}.self_attn.o_proj.weight", self.linear), k, v

    def heads(self, x: Value, at: str, heads: int, kv: int) -> tuple[Value, ...]:
        """Queries, keys and values: packed in one product where their matrices are alike."""
        b, size = self.builder, self.config.head_dim
        names = [f"{at}.{part}_proj" for part in "qkv"]
        forms = {self.declared.get(f"{name}.weight") for name in names}
        counts = (heads, kv, kv)
        if len(forms) > 1 or any(form and form[1].act_order for form in forms):
            found: list[Value] = []
            for name, count in zip(names, counts, strict=True):
                b.loc = name
                part = self.multiply(x, f"{name}.weight", self.linear)
                b.loc = at
                found.append(b.add("tensor.reshape", part, shape=(dim("T"), count, size)))
            return tuple(found)
        b.loc = at
        packed = self.multiply(x, f"{at}.qkv_proj.weight", self.linear)
        packed = b.add("tensor.reshape", packed, shape=(dim("T"), heads + 2 * kv, size))
        starts = (0, heads, heads + kv)
        return tuple(
            b.add("tensor.slice", packed, axis=1, start=start, stop=start + count)
            for start, count in zip(starts, counts, strict=True)
        )

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
        parts = self.parts(name)
        forms = [self.declared.get(part) for part in parts]
        if forms[0] is not None:
            found = [
                self.form(part, *form) for part, form in zip(parts, forms, strict=True) if form
            ]
            return (found[0] if len(found) == 1 else self.stack(name, found)), True
        if scheme is None:
            return self.source(name), False
        return self.form(name, "rtn", scheme), True

    def form(self, name: str, rule: str, scheme: Scheme) -> Weight:
        """A quantized form of a matrix."""
        weight = self.source(name)
        rows, columns = weight.type.shape
        assert isinstance(rows, int)
        assert isinstance(columns, int)
        source = Derived(rule, (weight.name,), (("scheme", scheme.name),))
        kind = ir.QuantizedType(scheme, (rows, columns))
        return self.module.add_weight(Weight(f"{name}.{scheme.name}", kind, source))

    def stack(self, name: str, parts: list[Weight]) -> Weight:
        """The same scheme throughout, rows below each other."""
        kinds = [cast(ir.QuantizedType, part.type) for part in parts]
        kind = kinds[0]
        rows = sum(each.shape[0] for each in kinds)
        whole = ir.QuantizedType(kind.scheme, (rows, kind.shape[1]))
        source = Derived("concat", tuple(part.name for part in parts))
        return self.module.add_weight(Weight(f"{name}.{kind.scheme.name}", whole, source))

    def parts(self, name: str) -> list[str]:
        """The checkpoint's matrices that one is made of."""
        if name in self.config.tensor_shapes():
            return [name]
        stem = name.removesuffix("qkv_proj.weight")
        return [f"{stem}{x}_proj.weight" for x in "qkv"]

    def source(self, name: str) -> Weight:
        """A checkpoint's matrix, or q, k and v stacked."""
        shapes = self.config.tensor_shapes()
        parts = [self.leaf(part, shapes[part], self.dtype_of(part)) for part in self.parts(name)]
        if len(parts) == 1:
            return parts[0]
        rows = sum(shapes[p.name][0] for p in parts)
        kind = TensorType(self.dtype, (rows, self.config.hidden_size))
        return self.module.add_weight(
            Weight(name, kind, Derived("concat", tuple(p.name for p in parts)))
        )

    def dtype_of(self, name: str) -> str:
        """What is stored quantized stands for numbers of float32."""
        form = self.declared.get(name)
        return "f32" if form and form[0] == "stored" else self.dtype

    def multiply(self, x: Value, name: str, scheme: Scheme | None) -> Value:
        weight, quantized = self.matrix(name, scheme)
        if not quantized:
            return self.builder.add("nn.linear", x, weight)
        return self.builder.add("quant.linear", x, weight, activations=self.activations)
