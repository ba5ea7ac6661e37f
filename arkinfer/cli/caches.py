"""How a key-value cache is kept, in words. Knows no file and no backend."""

from __future__ import annotations

_SCALES = {
    "token": ", a scale per head and token",
    "channel": ", a scale per channel, calibrated",
}


def cache_words(kv: str, scales: str | None) -> str:
    """As `build`, `plan` and `inspect` print it.

    >>> cache_words("fp32", None), cache_words("int8", "token")
    ('fp32', 'int8, a scale per head and token')
    """
    return kv + _SCALES.get(scales or "", "")
