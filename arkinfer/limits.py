"""JSON that nobody vouches for: read within limits of size, depth and memory, or refused.

Every reader of a JSON file uses `parse_json`, so that the limits stand in one place; what the
values mean is the reader's own affair. Knows no file and no format.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, cast

JSON_BYTES = 4 << 20
"""The longest JSON file; that of a model with a thousand tensors has half a MiB."""

JSON_VALUES = 200_000
"""The most values in it; each costs up to 100 bytes of memory for two bytes of file."""

JSON_DEPTH = 64
"""The deepest nesting; none of the files goes beyond ten."""

TOKENIZER_BYTES = 32 << 20
"""The longest tokenizer.json; Llama 3's has 17 MiB."""

TOKENIZER_VALUES = 4_000_000
"""The most values in it: 128k tokens and 280k merges of two texts make 1.2 million."""

MOST_DIMS = 8
"""Axes of a tensor; those of language models have two."""

LARGEST_DIM = 1 << 48
"""So that the product of `MOST_DIMS` sizes is computed at once, whatever a file claims."""

TEXT_BYTES = 1 << 20
"""The longest chat template or target file; the largest in use has 20 KiB."""


class LimitError(ValueError):
    """What was read is not JSON, or beyond a limit; the text is a clause."""


def parse_json(data: bytes, *, most: int = JSON_BYTES, values: int = JSON_VALUES) -> Any:
    """The value that UTF-8 JSON text stands for.

    Stricter than `json.loads`: no key twice, no NaN, no number that is infinite, no half of a
    surrogate pair. Whole numbers beyond 64 bits are floats, as most readers of JSON have them:
    transformers writes 10^30 where a tokenizer has no longest text.

    Args:
        data: the file.
        most: bytes that it may have.
        values: values that it may hold, counted by commas, colons and brackets.

    Raises:
        LimitError: naming what is wrong.

    >>> parse_json(b'{"a": [1, 2]}')
    {'a': [1, 2]}
    """
    if len(data) > most:
        raise LimitError(f"it has {len(data):,} bytes, more than the {most:,} that are read")
    if sum(data.count(mark) for mark in (b",", b":", b"[", b"{")) > values:
        raise LimitError(f"it holds more than {values:,} values")
    try:
        text = data.decode()
        parsed = json.loads(
            text, object_pairs_hook=_no_twins, parse_constant=_no_constant, parse_int=_whole
        )
    except RecursionError:
        raise LimitError(f"it is nested too deeply, beyond {JSON_DEPTH} levels") from None
    except LimitError:
        raise
    except ValueError as error:  # JSON and UTF-8 alike
        raise LimitError(f"it is not JSON: {error}") from None
    _check(parsed)
    return parsed


def _check(parsed: object) -> None:
    """Level by level, so that no depth can exhaust the stack."""
    level: list[object] = [parsed]
    for _ in range(JSON_DEPTH):
        inner: list[object] = []
        for value in level:
            if isinstance(value, dict):
                members = cast("dict[str, object]", value)
                _check_leaves(members)
                items = members.values()
            else:
                items = cast("list[object]", value) if isinstance(value, list) else [value]
            _check_leaves(items)
            inner += [item for item in items if isinstance(item, (dict, list))]
        if not inner:
            return
        level = inner
    raise LimitError(f"it is nested too deeply, beyond {JSON_DEPTH} levels")


def _check_leaves(values: Iterable[object]) -> None:
    for value in values:
        if isinstance(value, str):
            if not value.isascii():
                _check_text(value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise LimitError("it has a number beyond all bounds")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise LimitError("it has half of a surrogate pair, which is no text") from None


def _whole(digits: str) -> int | float:
    """Python would read thousands of digits, in a time that grows with their square."""
    if len(digits) > 40 or int(digits).bit_length() > 64:
        return float(digits)
    return int(digits)


def _no_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise LimitError("a key comes twice in one of its objects")
    return result


def _no_constant(name: str) -> object:
    raise LimitError(f"{name} is not a JSON number")


def count(value: object, most: int = 1 << 31) -> int:
    """A whole number from 1 to `most`, as executors read it from a section.

    Raises:
        ValueError: it is none.
    """
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{value!r:.80} is not a whole number from 1 to {most:,}")
    return value


def are_sizes(sizes: Iterable[object]) -> bool:
    """Whether these can be the sizes of a tensor: few and small enough to multiply.

    >>> are_sizes([4096, 1024]), are_sizes([2**48, -1]), are_sizes([2] * 9)
    (True, False, False)
    """
    few = list(sizes)
    return len(few) <= MOST_DIMS and all(
        type(size) is int and 0 <= size <= LARGEST_DIM for size in few
    )
