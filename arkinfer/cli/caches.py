"""How a key-value cache is kept, in words. Knows no file and no backend."""

from __future__ import annotations

from collections.abc import Mapping

_SCALES = {
    "token": ", a scale per head and token",
    "channel": ", a scale per channel, calibrated",
}


def by_backend(found: Mapping[str, str]) -> str:
    """One for all backends, or each backend's.

    >>> by_backend({"tensorrt": "fp16", "onnxruntime": "fp32"}), by_backend({"tvm": "fp32"})
    ('fp16 (tensorrt), fp32 (onnxruntime)', 'fp32')
    """
    kinds = set(found.values())
    if len(kinds) == 1:
        return kinds.pop()
    return ", ".join(f"{kind} ({backend})" for backend, kind in found.items())


def cache_words(kv: str, scales: str | None) -> str:
    """As `build`, `plan` and `inspect` print it.

    >>> cache_words("fp32", None), cache_words("int8", "token")
    ('fp32', 'int8, a scale per head and token')
    """
    return kv + _SCALES.get(scales or "", "")
