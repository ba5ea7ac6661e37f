"""Lowers a function of the IR to one ONNX graph, node by node. Knows no file and no session.

A value f32 [T, width] becomes [1, T, width]. What only the wanted rows need is computed for those
rows alone: the `tensor.take` before the head moves up to the last attention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from onnx import TensorProto

from arkinfer import ir
from arkinfer.errors import UnsupportedError
from arkinfer.ir import DTYPES, CacheType, Node, TensorType, Value
from arkinfer_ort.attention import Attention, NoMatch, Rotary, match_attention
from arkinfer_ort.graph import Graph
from arkinfer_ort.initializers import Initializers
from arkinfer_ort.places import Place, Places
from arkinfer_ort.products import Products
from arkinfer_ort.support import is_exact

ROW_BY_ROW = frozenset(
    {"nn.add", "nn.linear", "nn.rms_norm", "nn.silu_mul", "quant.linear", "tensor.reshape"}
)
"""Ops whose row t depends on rows t alone (a reshape when it only joins heads)."""

_CACHES = {"f32": TensorProto.FLOAT, "i8": TensorProto.INT8}
"""A cache's dtype -> the graph's."""

_CACHE_SCALES = 12
"""Which input of GroupQueryAttention the scales of the keys are; those of the values follow."""

_INT8_CACHE = {
    "k_quant_type": "PER_CHANNEL",
    "v_quant_type": "PER_CHANNEL",
    "kv_cache_bit_width": 8,
}


class Lowering:
    """Lowers `step(tokens, rows, k0, v0, …) -> logits, k0, v0, …`.

    Attributes:
        graph: the ONNX graph.
        caches: the caches that the graph reads and writes in place, in the function's order.
    """

    def __init__(self, function: ir.Function, context: int, initializers: Initializers) -> None:
        self.graph = Graph()
        self.caches: list[dict[str, object]] = []
        self._function = function
        self._context = context
        self._initializers = initializers
        self._products = Products(self.graph, initializers)
        self._names: dict[Value, str] = {}
        self._gathered: dict[Value, str] = {}
        self._widened: dict[str, str] = {}
        self._tables: dict[str, list[str]] = {}
        self._kernels: dict[str, list[Value]] = {}
        self._users = function.users()
        self._inputs = {value.name: value for value in function.inputs}
        self._few = self._needed_at_rows()

    def run(self) -> None:
        """Emits everything.

        Raises:
            UnsupportedError: a value that no kernel gives is used; names its torch path.
        """
        self._declare_inputs()
        for node in self._function.nodes:
            emit = _EMITTERS.get(node.op)
            if emit is not None:
                inner, named, size = self._inside(node), set(self._names), self.graph.size
                emit(self, node)
                computed = [*inner, *(value for value in self._names if value not in named)]
                self._kernels |= dict.fromkeys(self.graph.node_names(size), computed)
        self._declare_outputs()

    def _inside(self, node: Node) -> list[Value]:
        """The values behind a node's operands that have no place in the graph: its own kernel
        computes them. Those that `run` names later, the kernel gives as well."""
        found: dict[Value, None] = {}
        waiting = list(node.values)
        while waiting:
            value = waiting.pop()
            if value not in self._names and value not in found and value.producer is not None:
                found[value] = None
                waiting += value.producer.values
        return list(found)

    def places(self) -> Places:
        """Where the graph has the function's values; after `run`."""
        names = ir.value_names(self._function)
        shown = [
            Place(
                names[value],
                self._names[value],
                cast("tuple[int, ...]", value.type.shape[1:]),
                isinstance(value.type, CacheType),
            )
            for node in self._function.nodes
            for value in node.results
            if value in self._names
        ]
        kernels = {
            kernel: tuple(names[value] for value in dict.fromkeys(values))
            for kernel, values in self._kernels.items()
        }
        return Places(tuple(shown), kernels)

    def _declare_inputs(self) -> None:
        for value in self._function.inputs:
            if isinstance(value.type, CacheType):
                _, heads, size = value.type.shape
                shape = [1, cast(int, heads), "capacity", cast(int, size)]
                self.graph.input(f"past.{value.name}", _CACHES[value.type.dtype], shape)
                dtype = DTYPES[value.type.dtype].name
                self.caches.append(
                    {"name": value.name, "heads": heads, "size": size, "dtype": dtype}
                )
            elif value.name == "tokens":
                name = self.graph.input("tokens", TensorProto.INT64, [1, "tokens"])
                self._names[value] = name
            elif value.name == "rows":
                self._names[value] = self.graph.input("rows", TensorProto.INT64, ["rows"])
            else:
                raise UnsupportedError(
                    f"The function has an input {value.name}", "only tokens, rows and caches fit"
                )
        self.graph.input("last", TensorProto.INT32, [1])
        self.graph.input("total", TensorProto.INT32, [])

    def _declare_outputs(self) -> None:
        function = self._function
        for name, value in zip(function.output_names, function.outputs, strict=True):
            if isinstance(value.type, CacheType):
                shape = [1, *cast("tuple[int, int]", value.type.shape[1:])]
                dims: list[int | str] = [1, shape[1], "capacity", shape[2]]
                if self._names.get(value) != f"present.{name}":
                    raise UnsupportedError(
                        f"The cache {name} is not written by an attention that reads it"
                    )
                self.graph.output(f"present.{name}", _CACHES[value.type.dtype], dims)
            else:
                self.graph.rename(self._name(value), name)
                self._names[value] = name
                width = cast(int, value.tensor.shape[-1])
                self.graph.output(name, TensorProto.FLOAT, [1, "rows", width])

    def _needed_at_rows(self) -> set[Node]:
        """Nodes whose results nobody needs but at the wanted rows."""
        rows = self._inputs.get("rows")
        few: set[Node] = set()
        for node in reversed(self._function.nodes):
            if node.op not in ROW_BY_ROW or any(r in self._function.outputs for r in node.results):
                continue
            users = self._users[node.result]
            if users and all(
                user in few or (user.op == "tensor.take" and user.values[1] is rows)
                for user in users
            ):
                few.add(node)
        return few

    def _name(self, value: Value) -> str:
        name = self._names.get(value)
        if name is None:
            node = value.producer
            what = f"%{value.name}" if node is None else f"{node.op} at {node.loc or 'no path'}"
            raise UnsupportedError(
                f"The ONNX Runtime backend cannot place {what}",
                "its result is used outside of an attention",
                "Choose another backend for this model.",
            )
        return name

    def _operand(self, node: Node, value: Value) -> str:
        """The ONNX name of an operand, at the wanted rows alone where the node works on those."""
        if node not in self._few or value.producer in self._few:
            return self._name(value)
        if value not in self._gathered:
            rows = self._names[self._inputs["rows"]]
            self._gathered[value] = self.graph.add(
                "Gather", [self._name(value), rows], node.loc, axis=1
            )
        return self._gathered[value]

    def _f32(self, weight: ir.Weight) -> str:
        """A float weight in float32; the cast of a narrower one is folded when loaded."""
        name = self._initializers.dense(weight)
        if cast(TensorType, weight.type).dtype == "f32":
            return name
        if name not in self._widened:
            self._widened[name] = self.graph.add("Cast", [name], name, to=TensorProto.FLOAT)
        return self._widened[name]

    def embedding(self, node: Node) -> None:
        (table,) = node.weights
        tokens = self._name(node.values[0])
        name = self._initializers.dense(table)
        found = self.graph.add("Gather", [name, tokens], node.loc, axis=0)
        if cast(TensorType, table.type).dtype != "f32":
            found = self.graph.add("Cast", [found], node.loc, to=TensorProto.FLOAT)
        self._names[node.result] = self._scaled(found, node)

    def quantized_embedding(self, node: Node) -> None:
        (weight,) = node.weights
        table = self._initializers.table(weight)
        inputs = [table.codes, self._name(node.values[0]), table.scale]
        found = self.graph.add(
            "GatherBlockQuantized",
            inputs + ([table.zero] if table.zero else []),
            node.loc,
            bits=table.bits,
            block_size=table.block,
            gather_axis=0,
            quantize_axis=1,
        )
        self._names[node.result] = self._scaled(found, node)

    def _scaled(self, name: str, node: Node) -> str:
        scale = cast(float, node.attributes.get("scale", 1.0))
        if scale == 1.0:
            return name
        return self.graph.add("Mul", [name, self.graph.scalar(scale)], node.loc)

    def linear(self, node: Node) -> None:
        x = self._operand(node, node.values[0])
        weight = self._f32(node.weights[0])
        self._names[node.result] = self.graph.add(
            "FusedMatMul", [x, weight], node.loc, transA=0, transB=1
        )

    def quantized_linear(self, node: Node) -> None:
        x = self._operand(node, node.values[0])
        self._names[node.result] = self._products.add(
            x, node.weights[0], node.loc, exact=is_exact(node)
        )

    def add(self, node: Node) -> None:
        """A sum; together with the norm that reads it where there is one."""
        residual, branch = (self._operand(node, value) for value in node.values)
        branch = self._scaled(branch, node)
        norm = self._norm_of(node)
        if norm is None:
            self._names[node.result] = self.graph.add("Add", [residual, branch], node.loc)
            return
        normed, _, _, total = self.graph.add_multi(
            "SkipSimplifiedLayerNormalization",
            [residual, branch, self._f32(norm.weights[0])],
            norm.loc,
            [None, "", "", None],  # mean and variance: nobody's
            epsilon=cast(float, norm.attributes["eps"]),
        )
        self._names[norm.result] = normed
        self._names[node.result] = total

    def _norm_of(self, node: Node) -> Node | None:
        """A norm that reads the result of a node, and for the same rows."""
        for user in self._users[node.result]:
            if user.op == "nn.rms_norm" and (user in self._few) == (node in self._few):
                return user
            if user.op == "tensor.take" and node in self._few:
                return next((u for u in self._users[user.result] if u.op == "nn.rms_norm"), None)
        return None

    def rms_norm(self, node: Node) -> None:
        if node.result in self._names:
            return
        x = self._operand(node, node.values[0])
        self._names[node.result] = self.graph.add(
            "SimplifiedLayerNormalization",
            [x, self._f32(node.weights[0])],
            node.loc,
            axis=-1,
            epsilon=cast(float, node.attributes["eps"]),
            stash_type=1,
        )

    def silu_mul(self, node: Node) -> None:
        gate, up = (self._operand(node, value) for value in node.values)
        silu = self.graph.add("QuickGelu", [gate], node.loc, alpha=1.0)
        self._names[node.result] = self.graph.add("Mul", [silu, up], node.loc)

    def take(self, node: Node) -> None:
        x, rows = node.values
        if x.producer in self._few:
            self._names[node.result] = self._name(x)
            return
        if x not in self._gathered or rows is not self._inputs.get("rows"):
            self._gathered[x] = self.graph.add(
                "Gather", [self._name(x), self._name(rows)], node.loc, axis=1
            )
        self._names[node.result] = self._gathered[x]

    def reshape(self, node: Node) -> None:
        """Joining the heads of an attention costs nothing: its output has them joined."""
        value = node.values[0]
        joins = value.producer is not None and value.producer.op == "attn.dense"
        if joins and len(node.result.tensor.shape) == 2:
            self._names[node.result] = self._operand(node, value)

    def attention(self, node: Node) -> None:
        try:
            match = match_attention(node)
        except NoMatch as reason:
            raise UnsupportedError(
                f"The attention at {node.loc} cannot be lowered: it {reason}"
            ) from None
        outputs = [None, *(f"present.{cache.name}" for cache in match.old)]
        names = self.graph.add_multi(
            "GroupQueryAttention",
            self._attention_inputs(match),
            node.loc,
            outputs,
            num_heads=match.heads,
            kv_num_heads=match.kv_heads,
            scale=match.scale,
            do_rotary=int(match.rotary is not None),
            **(_INT8_CACHE if match.cache_scales else {}),
        )
        for value, name in zip((node.result, *match.new), names, strict=True):
            self._names[value] = name

    def _attention_inputs(self, match: Attention) -> list[str]:
        sources = [self._name(value) for value in match.sources]
        sources += [""] * (3 - len(sources))
        past = [f"past.{cache.name}" for cache in match.old]
        inputs = [*sources, *past, "last", "total"]
        if match.rotary is not None:
            inputs += self._rotary_tables(match.rotary)
        if match.cache_scales:
            inputs += [""] * (_CACHE_SCALES - len(inputs))
            inputs += [self._initializers.cache_scale(scale) for scale in match.cache_scales]
        return inputs

    def _rotary_tables(self, rotary: Rotary) -> list[str]:
        """cos and sin of every position, float32 [context, size / 2]: folded when loaded, and
        larger than a layer in the file. float32 like the IR's own op: at large positions its
        rounding of angles is the model."""
        key = f"{rotary.inv_freq.name}*{rotary.factor!r}"
        if key not in self._tables:
            positions = self._initializers.positions(self._context)
            angles = self.graph.add("Mul", [positions, self._f32(rotary.inv_freq)], key)
            tables = [self.graph.add(function, [angles], key) for function in ("Cos", "Sin")]
            if rotary.factor != 1.0:
                factor = self.graph.scalar(rotary.factor)
                tables = [self.graph.add("Mul", [table, factor], key) for table in tables]
            self._tables[key] = tables
        return self._tables[key]


_EMITTERS: dict[str, Callable[[Lowering, Node], None]] = {
    "attn.dense": Lowering.attention,
    "nn.add": Lowering.add,
    "nn.embedding": Lowering.embedding,
    "nn.linear": Lowering.linear,
    "nn.rms_norm": Lowering.rms_norm,
    "nn.silu_mul": Lowering.silu_mul,
    "quant.embedding": Lowering.quantized_embedding,
    "quant.linear": Lowering.quantized_linear,
    "tensor.reshape": Lowering.reshape,
    "tensor.take": Lowering.take,
}
"""What has no emitter is part of an attention, or makes `Lowering._name` raise where it is used."""
