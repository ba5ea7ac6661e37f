"""Stands for `tensorrt.plugin`: keeps what plug-ins register, and asks them what TensorRT asks.

The real module is executed in tests/backends/trt/test_plugins.py. Its registry is the process's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np


class Shape(tuple[int, ...]):
    def numel(self) -> int:
        return math.prod(self)


@dataclass
class TensorDesc:
    shape: tuple[int, ...]
    dtype: Any

    @property
    def shape_expr(self) -> Shape:
        return Shape(self.shape)


@dataclass
class AutoTuneCombination:
    formats: str
    layout: str
    tactics: list[int]


@dataclass
class KernelLaunchParams:
    grid_x: int = 1
    grid_y: int = 1
    grid_z: int = 1
    block_x: int = 1
    shared_mem: int = 0


class SymIntExprs(list[Any]):
    def __init__(self, count: int) -> None:
        super().__init__([None] * count)


@dataclass
class SymInt32:
    value: int


REGISTERED: dict[str, dict[str, Callable[..., Any]]] = {}
"""Functions of each plug-in, by what they tell."""


def _kept(kind: str) -> Callable[[str], Callable[[Any], Any]]:
    def decorator(name: str) -> Callable[[Any], Any]:
        def keep(function: Any) -> Any:
            REGISTERED.setdefault(name, {})[kind] = function
            return function

        return keep

    return decorator


def is_known(namespace: str, op: str) -> bool:
    return f"{namespace}::{op}" in REGISTERED


def check(namespace: str, op: str, attribute: list[int], inputs: list[TensorDesc]) -> None:
    """Asks a plug-in all that building an engine asks, for one token and for several.

    Raises whatever the plug-in raises.
    """
    functions = REGISTERED[f"{namespace}::{op}"]
    numbers = np.array(attribute, np.int32)
    for tokens in (1, 7):
        x = TensorDesc((1, tokens, inputs[0].shape[-1]), inputs[0].dtype)
        given = [x, *inputs[1:], numbers]
        outputs = (functions["register"](*given),)
        assert outputs[0].shape[:2] == (1, tokens)
        (choices,) = functions["autotune"](*given, outputs)
        assert choices.tactics
        for tactic in choices.tactics:
            name, ptx, launch, scalars = functions["aot_impl"](*given, outputs, tactic)
            assert name
            assert ptx
            assert launch.grid_x > 0
            assert launch.grid_y > 0
            assert all(isinstance(s.value, int) for s in scalars)


def module() -> ModuleType:
    """The module."""
    made = ModuleType("tensorrt.plugin")
    parts: dict[str, Any] = {
        "TensorDesc": TensorDesc,
        "AutoTuneCombination": AutoTuneCombination,
        "KernelLaunchParams": KernelLaunchParams,
        "SymIntExprs": SymIntExprs,
        "SymInt32": SymInt32,
        "register": _kept("register"),
        "autotune": _kept("autotune"),
        "aot_impl": _kept("aot_impl"),
        "from_shape_expr": lambda shape, dtype: TensorDesc(tuple(shape), dtype),
        "cdiv": lambda a, b: -(-a // b),
    }
    for name, part in parts.items():
        setattr(made, name, part)
    return made
