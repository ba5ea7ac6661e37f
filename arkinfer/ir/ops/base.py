"""What an op is: name, operands, attributes, a type rule and an executable meaning in numpy.

An op is a class that is never instantiated; defining it registers it. Knows no particular op.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from arkinfer.errors import InternalError, nearest
from arkinfer.ir.core import Attribute
from arkinfer.ir.types import CACHES, FLOATS, CacheType, QuantizedType, TensorType, Type
from arkinfer.packing import QuantizedTensor

Array: TypeAlias = npt.NDArray[Any]
Data: TypeAlias = "Array | QuantizedTensor"
"""What `ref` computes with. Floats are float32 (float64 when a test asks for it)."""

OPS: dict[str, type[Op]] = {}
"""Every op by name."""


class Op:
    """Base of all ops.

    Attributes:
        name: `family.verb`.
        operands: names, in order; one that ends in `*` stands for any number.
        attributes: name -> default; `...` marks a required one.
    """

    name: ClassVar[str] = ""
    operands: ClassVar[tuple[str, ...]] = ()
    attributes: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        if "name" not in cls.__dict__:
            return  # a shared base of several ops
        if cls.name in OPS:
            raise InternalError(f'the op "{cls.name}" is defined twice')
        OPS[cls.name] = cls

    @classmethod
    def infer(cls, types: Sequence[Any], attributes: Mapping[str, Any]) -> list[Type]:
        """Result types from operand types.

        Raises:
            InternalError: the operands do not fit; says which and why.
        """
        raise InternalError(f"{cls.name} has no type rule")

    @classmethod
    def ref(cls, operands: Sequence[Any], attributes: Mapping[str, Any]) -> list[Array]:
        """The op's meaning. Symbolic dims in attributes are integers here."""
        raise InternalError(f"{cls.name} has no reference")


def op_class(name: str) -> type[Op]:
    """The op of that name.

    Raises:
        InternalError: there is none; offers the nearest.
    """
    if name not in OPS:
        raise InternalError(f'the IR has no op "{name}"', "", nearest(name, OPS))
    return OPS[name]


def complete_attributes(name: str, given: Mapping[str, Attribute]) -> dict[str, Attribute]:
    """The attributes in declaration order, defaults filled in, unknown or missing ones refused."""
    declared = op_class(name).attributes
    for key in given:
        if key not in declared:
            raise InternalError(f'{name} has no attribute "{key}"', "", nearest(key, declared))
    missing = [key for key, default in declared.items() if default is ... and key not in given]
    if missing:
        raise InternalError(f'{name} needs the attribute "{missing[0]}"')
    return {key: given.get(key, default) for key, default in declared.items()}


def infer_types(
    name: str, types: Sequence[Type], attributes: Mapping[str, Attribute]
) -> list[Type]:
    """Checks the operand count and applies the op's type rule."""
    cls = op_class(name)
    variadic = bool(cls.operands) and cls.operands[-1].endswith("*")
    required = len(cls.operands) - variadic
    if len(types) < required or (len(types) > required and not variadic):
        raise InternalError(f"{name} takes ({', '.join(cls.operands)}), not {len(types)} operands")
    complete = complete_attributes(name, attributes)
    try:
        return cls.infer(types, complete)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        raise InternalError(f"{name}: an attribute is not of the kind it should be", why) from error


def need(condition: bool, op: type[Op], why: str) -> None:
    """Raises InternalError with the op's name unless the condition holds."""
    if not condition:
        raise InternalError(f"{op.name}: {why}")


def float_tensor(op: type[Op], name: str, t: Type, rank: int | None = None) -> TensorType:
    need(isinstance(t, TensorType) and t.dtype in FLOATS, op, f"{name} is {t}, not a float tensor")
    assert isinstance(t, TensorType)
    need(rank is None or len(t.shape) == rank, op, f"{name} is {t}, which has not {rank} dims")
    return t


def tensor(op: type[Op], name: str, t: Type, *dtypes: str) -> TensorType:
    need(isinstance(t, TensorType), op, f"{name} is {t}, not a tensor")
    assert isinstance(t, TensorType)
    need(not dtypes or t.dtype in dtypes, op, f"{name} is {t}; it must be {' or '.join(dtypes)}")
    return t


def cache(op: type[Op], name: str, t: Type) -> CacheType:
    need(isinstance(t, CacheType), op, f"{name} is {t}, not a cache")
    assert isinstance(t, CacheType)
    need(t.dtype in CACHES, op, f"{name} is {t}; a cache must hold {' or '.join(CACHES)}")
    return t


def quantized(op: type[Op], name: str, t: Type) -> QuantizedType:
    need(isinstance(t, QuantizedType), op, f"{name} is {t}, not a quantized matrix")
    assert isinstance(t, QuantizedType)
    return t


def wide(x: Array) -> Array:
    """Floats narrower than 32 bits as float32; float64 and what is no float stay."""
    if x.dtype == np.float64 or x.dtype.kind in "biu":
        return x
    return x.astype(np.float32, copy=False)
