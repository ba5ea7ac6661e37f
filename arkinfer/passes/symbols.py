"""Names of the weights that passes derive from others. Knows no pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os.path import commonprefix

from arkinfer.ir import Module, Weight


def derived(module: Module, weight: Weight) -> Weight:
    """The weight, under a longer name if its own is taken by another one."""
    name, number = weight.name, 2
    while module.weights.get(weight.name, weight) != weight:
        weight = replace(weight, name=f"{name}.{number}")
        number += 1
    return weight


def joined_name(names: Sequence[str]) -> str:
    """What the names share, with what differs in a row between.

    >>> joined_name(["a.q_proj.weight", "a.k_proj.weight", "a.v_proj.weight"])
    'a.qkv_proj.weight'
    """
    start = len(commonprefix(list(names)))
    ends = [name[start:][::-1] for name in names]
    stop = len(commonprefix(ends))
    middles = [end[::-1][: len(end) - stop] for end in ends]
    return names[0][:start] + "".join(middles) + names[0][len(names[0]) - stop :]


def common_path(paths: Sequence[str]) -> str:
    """The innermost torch module that holds all of these.

    >>> common_path(["model.layers.0.attn.q", "model.layers.0.attn.k"])
    'model.layers.0.attn'
    """
    parts = [path.split(".") for path in paths]
    shared = [x[0] for x in zip(*parts, strict=False) if len(set(x)) == 1]
    same = 0
    while same < len(shared) and all(part[same] == parts[0][same] for part in parts):
        same += 1
    return ".".join(parts[0][:same])
