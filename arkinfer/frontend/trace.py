"""From a config to the IR: builds our torch modules without weights, exports, imports.

Knows no checkpoint: weights become symbols by their Hugging Face names. What single ATen ops mean
is in `aten.py`.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx.node import map_arg

from arkinfer import ir
from arkinfer.errors import InternalError
from arkinfer.frontend.aten import apply
from arkinfer.frontend.leaves import INV_FREQ
from arkinfer.ir import Builder, Function, Module, TensorType, Value, Weight, infer_types
from arkinfer.models.config import ModelConfig
from arkinfer.models.minicpm import CausalLM

_TOKENS, _ROWS, _SEEN = 7, 3, 5
"""Example lengths: unequal and above 1, so that torch takes none of them for a constant."""

_DTYPES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}


def trace(config: ModelConfig, context: int) -> Module:
    """`step(tokens i64[T], rows i64[R], k0, v0, …) -> (logits, k0, v0, …)` of a model.

    `k0`, `v0` … are f32 [S, kv heads, head_dim], [S + T, …] as results; logits are f32 [R, V] of
    the `rows` of `tokens`. T, R and S are symbols. Only `tensor.*`, `nn.embedding` and `nn.linear`
    occur; every node's `loc` is the torch module path.

    Args:
        config: the model.
        context: the longest sequence; it chooses the LongRoPE table (`leaves.LeafSource`).

    Raises:
        UnsupportedError: the modules use a torch operation that cannot be imported.
    """
    with torch.device("meta"):
        model = CausalLM(config, context).eval()
    return import_program(export(model, config), config)


def export(model: nn.Module, config: ModelConfig) -> ExportedProgram:
    """The ATen graph of a module with the signature of `CausalLM.forward`, for any T, R and S.

    AUTO lets torch find the ranges of the lengths; that they hold is what the tests of this
    module check at other lengths, as torch specializes silently where it must.
    """
    meta = torch.device("meta")
    size = (_SEEN, config.num_key_value_heads, config.head_dim)
    past = [
        (torch.empty(size, device=meta), torch.empty(size, device=meta))
        for _ in range(config.num_hidden_layers)
    ]
    tokens = torch.zeros(_TOKENS, dtype=torch.int64, device=meta)
    rows = torch.zeros(_ROWS, dtype=torch.int64, device=meta)
    free = {0: Dim.AUTO}
    lengths = {"tokens": free, "rows": free, "past": [(free, free) for _ in past]}
    with torch.no_grad():
        return torch.export.export(model, (tokens, rows, past), dynamic_shapes=lengths)


def import_program(program: ExportedProgram, config: ModelConfig) -> Module:
    """The IR of an exported module with the signature of `CausalLM.forward`.

    Raises:
        UnsupportedError: it uses a torch operation that cannot be imported.
        InternalError: torch took one of the lengths for a constant.
    """
    return _Import(program, config).run()


class _Import:
    def __init__(self, program: ExportedProgram, config: ModelConfig) -> None:
        self._program = program
        self._config = config
        self._module = Module()
        self._builder = Builder(infer_types)
        self._imported: dict[fx.Node, Any] = {}

    def run(self) -> Module:
        function = Function("step", self._inputs())
        for node in self._program.graph.nodes:
            if node.op == "call_function":
                self._imported[node] = self._call(node)
        named = {node.name: value for node, value in self._imported.items()}
        function.nodes = self._builder.nodes
        outputs = self._program.graph_signature.user_outputs
        function.outputs = [named[str(name)] for name in outputs]
        function.output_names = ["logits", *_cache_names(self._config)]
        self._module.functions["step"] = function
        ir.verify_module(self._module)
        return self._module

    def _inputs(self) -> list[Value]:
        """Binds every placeholder: weights to symbols, the rest to inputs of the function."""
        inputs: list[Value] = []
        names = ["tokens", "rows", *_cache_names(self._config)]
        placeholders = {
            node.name: node for node in self._program.graph.find_nodes(op="placeholder")
        }
        for spec in self._program.graph_signature.input_specs:
            node = placeholders[spec.arg.name]
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
                self._imported[node] = self._weight(str(spec.target), node)
            else:
                value = _input(names[len(inputs)], node)
                self._imported[node] = value
                inputs.append(value)
        if len(inputs) != len(names):
            raise InternalError(f"The traced module has {len(inputs)} inputs, not {len(names)}")
        return inputs

    def _weight(self, name: str, node: fx.Node) -> Weight:
        if name == "lm_head.weight" and self._config.tie_word_embeddings:
            name = "model.embed_tokens.weight"
        dtype = "f32" if name == INV_FREQ else _DTYPES.get(self._config.torch_dtype, "f32")
        shape = tuple(int(size) for size in node.meta["val"].shape)
        return self._module.add_weight(Weight(name, TensorType(dtype, shape)))

    def _call(self, node: fx.Node) -> Any:
        self._builder.loc = _path(node)
        arguments = map_arg(node.args, self._imported.__getitem__)
        options = map_arg(dict(node.kwargs), self._imported.__getitem__)
        options = {key: value for key, value in options.items() if key not in _PLACES}
        return apply(self._builder, _name(node.target), arguments, options)


_PLACES = frozenset({"device", "layout", "pin_memory"})
"""Where torch would compute; the meta device in our case."""


def _input(name: str, node: fx.Node) -> Value:
    example = node.meta["val"]
    symbol = {"tokens": "T", "rows": "R"}.get(name, "S")
    length = example.shape[0]
    constant = length if isinstance(length, int) else length.node.maybe_as_int()
    if constant is not None:
        raise InternalError(
            f"torch.export took the length of {name} for the constant {constant}",
            "Something in the module depends on the example's length",
        )
    dtype = "i64" if example.dtype == torch.int64 else "f32"
    rest = tuple(int(size) for size in example.shape[1:])
    return Value(TensorType(dtype, (ir.dim(symbol), *rest)), name)


def _cache_names(config: ModelConfig) -> list[str]:
    return [f"{kind}{layer}" for layer in range(config.num_hidden_layers) for kind in "kv"]


def _path(node: fx.Node) -> str:
    """The torch module that a node came from; "" for the root."""
    stack = node.meta.get("nn_module_stack") or {}
    return list(stack.values())[-1][0] if stack else ""


def _name(target: Any) -> str:
    """`aten.mul.Tensor`; Python's operators on lengths by their own names."""
    if target in (operator.add, operator.sub):
        return target.__name__
    return str(target)
