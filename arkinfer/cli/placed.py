"""Where every op of an artifact runs, in words. Knows no backend."""

from __future__ import annotations

from collections.abc import Mapping


def placed(placement: Mapping[str, Mapping[str, Mapping[str, int]]]) -> list[str]:
    """One line for backends that place alike: nodes by op, and which of them take a slow path.

    Args:
        placement: by backend and op, how many nodes are `fast` and `slow`.

    >>> placed({"tvm": {"nn.add": {"fast": 2, "slow": 0}, "nn.linear": {"fast": 1, "slow": 3}}})
    ['all 6 nodes on tvm: 2 nn.add, 4 nn.linear (3 slow)']
    """
    alike: dict[str, list[str]] = {}
    for backend, ops in placement.items():
        words = ", ".join(_words(op, **count) for op, count in ops.items())
        nodes = sum(count["fast"] + count["slow"] for count in ops.values())
        alike.setdefault(f"{nodes}:{words}", []).append(backend)
    lines: list[str] = []
    for text, backends in alike.items():
        nodes, _, words = text.partition(":")
        lines.append(f"all {nodes} nodes on {' and on '.join(backends)}: {words}")
    return lines


def _words(op: str, fast: int, slow: int) -> str:
    how = "" if not slow else " (slow)" if not fast else f" ({slow} slow)"
    return f"{fast + slow} {op}{how}"
