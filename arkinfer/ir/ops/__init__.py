"""Every op of the IR, one file per family; importing this registers them."""

from arkinfer.ir.ops import attention, nn, quant
from arkinfer.ir.ops import tensor as _tensor
from arkinfer.ir.ops.base import OPS, Op, complete_attributes, infer_types, op_class

__all__ = [
    "OPS",
    "Op",
    "attention",
    "complete_attributes",
    "infer_types",
    "nn",
    "op_class",
    "quant",
]
del _tensor
