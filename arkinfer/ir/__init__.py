"""The intermediate representation: types, modules, ops, text, verification, execution."""

from arkinfer.ir.core import (
    Attribute,
    Builder,
    Derived,
    Function,
    Module,
    Node,
    Operand,
    Remark,
    Replacement,
    Value,
    Weight,
)
from arkinfer.ir.interp import (
    Observer,
    RandomWeights,
    WeightStore,
    load_wide,
    random_inputs,
    run_function,
    run_op,
)
from arkinfer.ir.ops import OPS, complete_attributes, infer_types, op_class
from arkinfer.ir.parse import parse_module
from arkinfer.ir.taps import Stream, find_stream
from arkinfer.ir.text import print_function, print_module, print_node, value_names
from arkinfer.ir.tree import Tree, obstacle
from arkinfer.ir.types import (
    DTYPES,
    CacheType,
    Dim,
    QuantizedType,
    Sym,
    TensorType,
    Type,
    dim,
    parse_type,
)
from arkinfer.ir.verify import verify_module

__all__ = [
    "DTYPES",
    "OPS",
    "Attribute",
    "Builder",
    "CacheType",
    "Derived",
    "Dim",
    "Function",
    "Module",
    "Node",
    "Observer",
    "Operand",
    "QuantizedType",
    "RandomWeights",
    "Remark",
    "Replacement",
    "Stream",
    "Sym",
    "TensorType",
    "Tree",
    "Type",
    "Value",
    "Weight",
    "WeightStore",
    "complete_attributes",
    "dim",
    "find_stream",
    "infer_types",
    "load_wide",
    "obstacle",
    "op_class",
    "parse_module",
    "parse_type",
    "print_function",
    "print_module",
    "print_node",
    "random_inputs",
    "run_function",
    "run_op",
    "value_names",
    "verify_module",
]
