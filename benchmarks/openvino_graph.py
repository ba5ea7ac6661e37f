"""A Llama as a stateful OpenVINO model, in the operations that OpenVINO's CPU plug-in fuses.

Only the last token's logits are computed, as OpenVINO GenAI does. Knows no compression and no peer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as op
from openvino.op.util import Variable, VariableInfo

from benchmarks.gguf_file import read_tensor

Node = Any


def llama(checkpoint: Path) -> ov.Model:
    """The model of a checkpoint with tied embeddings; weights in float16.

    Inputs: input_ids [1, T], attention_mask [1, all], position_ids [1, T], beam_idx [1]; output:
    logits [1, 1, vocab].
    """
    return _Builder(checkpoint).model()


def _input(name: str, shape: list[int], dtype: Any) -> Node:
    node = op.parameter(shape, dtype)
    node.set_friendly_name(name)
    node.output(0).get_tensor().set_names({name})
    return node


class _Builder:
    def __init__(self, checkpoint: Path) -> None:
        self._config = json.loads((checkpoint / "config.json").read_text())
        self._checkpoint = checkpoint
        self._heads = int(self._config["num_attention_heads"])
        self._kv_heads = int(self._config["num_key_value_heads"])
        self._size = int(self._config["hidden_size"]) // self._heads
        self._sinks: list[Node] = []
        self._variables: list[Variable] = []

    def model(self) -> ov.Model:
        ids, mask, positions = (
            _input(name, [-1, -1], np.int64)
            for name in ("input_ids", "attention_mask", "position_ids")
        )
        beam = _input("beam_idx", [-1], np.int32)
        table = self._constant("model.embed_tokens.weight")
        hidden = op.gather(table, op.convert(ids, "i32"), np.int32(0))
        cos, sin = self._angles(positions)
        added = self._mask(mask, ids)
        for layer in range(int(self._config["num_hidden_layers"])):
            hidden = self._layer(f"model.layers.{layer}.", hidden, cos, sin, added, beam)
        last = op.slice(hidden, np.array([-1]), np.array([2**31 - 1]), np.array([1]), np.array([1]))
        normed = self._norm("model.norm.weight", last)
        logits = op.matmul(normed, table, False, True)
        logits.output(0).get_tensor().set_names({"logits"})
        inputs = [ids, mask, positions, beam]
        return ov.Model([op.result(logits)], self._sinks, inputs, self._variables, "llama")

    def _layer(self, name: str, hidden: Node, cos: Node, sin: Node, mask: Node, beam: Node) -> Node:
        x = self._norm(f"{name}input_layernorm.weight", hidden)
        part = f"{name}self_attn."
        query = self._turned(self._split(f"{part}q_proj.weight", x, self._heads), cos, sin)
        key = self._turned(self._split(f"{part}k_proj.weight", x, self._kv_heads), cos, sin)
        value = self._split(f"{part}v_proj.weight", x, self._kv_heads)
        keys = self._repeated(self._cached(f"{part}key", key, beam))
        values = self._repeated(self._cached(f"{part}value", value, beam))
        found = op.scaled_dot_product_attention(query, keys, values, mask)
        joined = op.reshape(op.transpose(found, np.array([0, 2, 1, 3])),
                            np.array([0, 0, self._heads * self._size]), True)  # fmt: skip
        hidden = op.add(hidden, self._linear(f"{part}o_proj.weight", joined))
        x = self._norm(f"{name}post_attention_layernorm.weight", hidden)
        gate = op.swish(self._linear(f"{name}mlp.gate_proj.weight", x))
        up = self._linear(f"{name}mlp.up_proj.weight", x)
        return op.add(hidden, self._linear(f"{name}mlp.down_proj.weight", op.multiply(gate, up)))

    def _constant(self, name: str) -> Node:
        weight = read_tensor(self._checkpoint, name)
        return op.convert(op.constant(weight.astype(np.float16), name=name), "f32")

    def _linear(self, name: str, x: Node) -> Node:
        return op.matmul(x, self._constant(name), False, True)

    def _norm(self, name: str, x: Node) -> Node:
        mean = op.reduce_mean(op.power(x, np.float32(2)), np.array([-1]), True)
        root = op.sqrt(op.add(mean, np.float32(self._config["rms_norm_eps"])))
        scaled = op.multiply(x, op.divide(np.float32(1), root))
        return op.multiply(scaled, op.constant(read_tensor(self._checkpoint, name)))

    def _split(self, name: str, x: Node, heads: int) -> Node:
        """[1, heads, T, size]"""
        split = op.reshape(self._linear(name, x), np.array([0, 0, heads, self._size]), True)
        return op.transpose(split, np.array([0, 2, 1, 3]))

    def _angles(self, positions: Node) -> tuple[Node, Node]:
        """Cosine and sine, [1, 1, T, size]."""
        steps = np.arange(0, self._size, 2, dtype=np.float32) / self._size
        rates = (self._config["rope_theta"] ** -steps).astype(np.float32)[None, :, None]
        row = op.convert(op.unsqueeze(positions, np.int32(1)), "f32")
        half = op.transpose(op.matmul(rates, row, False, False), np.array([0, 2, 1]))
        both = op.concat([half, half], -1)
        one = np.int32(1)
        return op.unsqueeze(op.cos(both), one), op.unsqueeze(op.sin(both), one)

    def _turned(self, x: Node, cos: Node, sin: Node) -> Node:
        half, axis, one = np.array([self._size // 2]), np.array([3]), np.array([1])
        first = op.slice(x, np.array([0]), half, one, axis)
        second = op.slice(x, half, np.array([2**31 - 1]), one, axis)
        swapped = op.concat([op.multiply(second, np.float32(-1)), first], -1)
        return op.add(op.multiply(x, cos), op.multiply(swapped, sin))

    def _cached(self, name: str, now: Node, beam: Node) -> Node:
        """The state with what is new appended, [1, kv heads, all, size]."""
        info = VariableInfo()
        info.data_shape = ov.PartialShape([-1, self._kv_heads, -1, self._size])
        info.data_type = ov.Type.f32
        info.variable_id = name
        variable = Variable(info)
        shape = op.concat([op.gather(op.shape_of(beam), np.array([0]), np.int32(0)),
                           np.array([self._kv_heads, 0, self._size], np.int64)], 0)  # fmt: skip
        empty = op.broadcast(np.float32(0), shape)
        before = op.gather(op.read_value(empty, variable), beam, np.int32(0))
        after = op.concat([before, now], 2)
        self._sinks.append(op.assign(after, variable))
        self._variables.append(variable)
        return after

    def _repeated(self, cached: Node) -> Node:
        """Each head of the cache for as many heads of the queries as share it."""
        times = self._heads // self._kv_heads
        if times == 1:
            return cached
        ones = np.ones((1, 1, times, 1, 1), np.float32)  # a form that is fused with attention
        spread = op.multiply(op.unsqueeze(cached, np.int32(2)), ones)
        return op.reshape(spread, np.array([0, self._heads, -1, self._size]), True)

    def _mask(self, mask: Node, ids: Node) -> Node:
        """What is added to scores, [1, 1, T, all]: a token sees itself and what came before."""
        all_ = op.gather(op.shape_of(mask), np.int64(1), np.int32(0))
        new = op.gather(op.shape_of(ids), np.int64(1), np.int32(0))
        columns = op.unsqueeze(op.range(np.int64(0), all_, np.int64(1), "i64"), np.int32(0))
        rows = op.unsqueeze(op.range(op.subtract(all_, new), all_, np.int64(1), "i64"), np.int32(1))
        seen = op.less_equal(columns, rows)
        added = op.select(seen, np.float32(0), np.float32(np.finfo(np.float32).min))
        return op.unsqueeze(added, np.array([0, 1]))
