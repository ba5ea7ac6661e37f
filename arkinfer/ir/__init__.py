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
    Value,
    Weight,
)
from arkinfer.ir.interp import Observer, RandomWeights, WeightStore, random_inputs, run_function
from arkinfer.ir.ops import OPS, infer_types, op_class
from arkinfer.ir.parse import parse_module
from arkinfer.ir.text import print_function, print_module, print_node, value_names
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
    "Sym",
    "TensorType",
    "Type",
    "Value",
    "Weight",
    "WeightStore",
    "dim",
    "infer_types",
    "op_class",
    "parse_module",
    "parse_type",
    "print_function",
    "print_module",
    "print_node",
    "random_inputs",
    "run_function",
    "value_names",
    "verify_module",
]
