"""The model on a small text, in float32, on its matrices as they were before quantization: what
static scales and the choice of activations come from. Knows neither, and no backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from arkinfer import ir
from arkinfer.backend import RowStore
from arkinfer.errors import CheckpointError

if TYPE_CHECKING:
    from arkinfer.frontend.checkpoint import Checkpoint

Array = npt.NDArray[Any]
Observer = Callable[[ir.Node, "list[Array]"], None]

TEXT = """\
A compiler reads a program in one language and writes it in another. Between the two it keeps a
representation of its own, and most of its work is done there: names are resolved, types are
checked, and what is computed twice is computed once. In 1957 the first FORTRAN compiler took 18
person-years to write; today a student does it in a term. def fib(n): return n if n < 2 else
fib(n - 1) + fib(n - 2). Die Sonne scheint, und die Vögel singen. El perro corre por el parque.
编译器把一种语言写成的程序翻译成另一种语言。
Q: What is the capital of France? A: Paris. {"name": "arkinfer", "version": [0, 1, 0]} The market
opened at 9:30; by noon, prices had fallen 3.7 % and the rain had stopped.
"""


def text_tokens(checkpoint: Checkpoint, vocab_size: int) -> list[int]:
    """The built-in text as the model reads it, BOS in front.

    Raises:
        CheckpointError: the tokenizer is missing, or gives ids that the model has not.
    """
    from arkinfer.runtime.tokenizer import Tokenizer
    from arkinfer.runtime.tokens import bos_token

    source = checkpoint.tokenizer_json
    template = checkpoint.chat_template
    bos = bos_token(
        checkpoint.raw_config, checkpoint.tokenizer_config, checkpoint.tokenizer_facts, template
    )
    tokens = Tokenizer(source, bos=bos).encode(TEXT)
    if max(tokens) >= vocab_size:
        raise CheckpointError(
            f"{checkpoint.path} has a tokenizer that does not belong to its model",
            f"It gives the token {max(tokens)}, and vocab_size is {vocab_size}",
        )
    return tokens


def unquantized(module: ir.Module) -> ir.Module:
    """A copy, node by node, whose matrices are what they were before they were quantized."""
    from arkinfer.passes.symbols import dense_form

    dense = ir.parse_module(ir.print_module(module))
    for node in dense.functions["step"].nodes:
        if node.op in ("quant.linear", "quant.embedding"):
            node.op = node.op.replace("quant.", "nn.")
            node.attributes.pop("activations", None)  # which dense matrices always take as they are
            node.operands[1] = dense_form(dense, node.weights[0])
    return dense


def over_text(
    step: ir.Function,
    tokens: Sequence[int],
    store: RowStore,
    rows: Sequence[int] = (),
    *,
    observe: Observer = lambda node, results: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Array]:
    """The outputs of a step over tokens, from empty caches; one matrix is in memory at a time.

    Args:
        step: its embedding tables are read by the rows of the tokens alone.
        tokens: at least one id.
        store: the numbers.
        rows: places of the tokens that what is called `rows` asks for.
        observe: told of each node and its results.
        on_progress: told how many of how many matrices were worked through.
    """
    from threadpoolctl import threadpool_limits

    ids, places = np.unique(np.asarray(tokens, np.int64), return_inverse=True)
    inputs: dict[str, Array] = {
        "tokens": places.reshape(-1), "rows": np.asarray(rows, np.int64)
    }  # fmt: skip
    for value in step.inputs:
        if isinstance(value.type, ir.CacheType):
            shape = cast("tuple[int, ...]", value.type.shape[1:])
            inputs[value.name] = np.zeros((0, *shape), "f4")
    tables = {node.weights[0].name for node in step.nodes if node.op == "nn.embedding"}
    total = sum(node.op.endswith(".linear") for node in step.nodes)
    done = 0

    def watch(node: ir.Node, results: list[Array]) -> None:
        nonlocal done
        observe(node, results)
        if node.op.endswith(".linear"):  # which take the time
            done += 1
            on_progress(done, total)

    with threadpool_limits(limits=1, user_api="blas"):  # more add in another order: other bytes
        return ir.run_function(step, inputs, FewRows(store, tables, ids), observe=watch)


class FewRows:
    """A store whose embedding tables have the rows of some tokens alone."""

    def __init__(self, store: RowStore, tables: set[str], ids: Array) -> None:
        self._store, self._tables, self._ids = store, tables, ids

    def load(self, weight: ir.Weight) -> Any:
        if weight.name not in self._tables:
            return self._store.load(weight)
        rows = [self._store.rows(weight, i, i + 1) for i in self._ids.tolist()]
        return np.concatenate(cast("list[Array]", rows))
