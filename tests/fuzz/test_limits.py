"""The limits of readers: each has a message, and none costs memory before it is noticed."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from arkinfer.errors import ArkError
from arkinfer.limits import JSON_BYTES, JSON_DEPTH, JSON_VALUES, LimitError, parse_json


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b" " * JSON_BYTES + b"1", "it has 4,194,305 bytes, more than the 4,194,304 that are read"),
        (b"[" + b"0," * JSON_VALUES + b"0]", "it holds more than 200,000 values"),
        (b"[" * 65 + b"]" * 65, "it is nested too deeply, beyond 64 levels"),
        (b"[" * 190_000, "it is nested too deeply, beyond 64 levels"),
        (b'{"a": ' * 90_000 + b"1" + b"}" * 90_000, "it is nested too deeply, beyond 64 levels"),
        (b'{"a": 1, "a": 2}', "a key comes twice in one of its objects"),
        (b"[NaN]", "NaN is not a JSON number"),
        (b"[-Infinity]", "-Infinity is not a JSON number"),
        (b"[1e999]", "it has a number beyond all bounds"),
        (b"[" + b"9" * 5000 + b"]", "it has a number beyond all bounds"),
        (b'["\\ud800"]', "it has half of a surrogate pair, which is no text"),
        (b'{"\\udfff": 1}', "it has half of a surrogate pair, which is no text"),
        (b'"\xff"', "it is not JSON: 'utf-8' codec can't decode byte 0xff"),
        ('"ü"'.encode("utf-16"), "it is not JSON: 'utf-8' codec can't decode byte 0xff"),
        (b"\xef\xbb\xbf{}", "it is not JSON: Unexpected UTF-8 BOM"),
        (b"", "it is not JSON: Expecting value"),
    ],
    ids=str,
)
def test_json_beyond_the_limits(text: bytes, reason: str):
    with pytest.raises(LimitError) as caught:
        parse_json(text)
    assert str(caught.value).startswith(reason)


def test_json_within_the_limits():
    value = [{"a": [1, -2.5, None, True, "\U0001f600 ü", 2**64 - 1], "": {}}]
    assert parse_json(json.dumps(value).encode()) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value
    deep = b"[" * JSON_DEPTH + b"]" * JSON_DEPTH
    assert parse_json(deep) == json.loads(deep)


def test_whole_numbers_beyond_64_bits_are_floats():
    """As `model_max_length` is in many a tokenizer_config.json."""
    (low, high, beyond) = parse_json(b"[-1, 18446744073709551615, 1000000000000000019884624838656]")
    assert (low, high, beyond) == (-1, 2**64 - 1, 1e30)
    assert [type(number) for number in (low, high, beyond)] == [int, int, float]


def test_errors_are_short_and_steer_no_terminal():
    error = ArkError("no \x1b[2J\x07", "a" * 10**6, "say\nmore \ud800")
    assert error.what == "no ?[2J?"
    assert len(error.why) < 4000
    assert error.fix == "say\nmore ?"


SMILE = "\U0001f600".encode()
LARGEST: dict[str, Callable[[], bytes]] = {
    "lists": lambda: b"[" + b"[]," * 99_990 + b"[]]",
    "objects": lambda: b"[" + b"{}," * 99_990 + b"{}]",
    "keys": lambda: b"{" + b",".join(b'"%d":{}' % i for i in range(66_000)) + b"}",
    "texts": lambda: b"[" + b",".join(b'"%d%s"' % (i, SMILE) for i in range(199_000)) + b"]",
    "numbers": lambda: b"[" + b",".join([b"12345678901234567"] * 199_000) + b"]",
    "wide": lambda: b'["' + SMILE + b"a" * (JSON_BYTES - 10) + b'"]',
    "wide with escapes": lambda: b'["' + SMILE + b"a" * (JSON_BYTES // 2) + b"\\n" * 10**6 + b'"]',
}


@pytest.mark.parametrize("kind", LARGEST)
def test_memory_of_the_largest_json(kind: str):
    """Peak: at most twice the input, which is there already, and 64 MiB."""
    text = LARGEST[kind]()
    tracemalloc.start()
    parse_json(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < len(text) + (64 << 20)


def test_the_sizes_of_the_fuzzed_readers_are_covered_by_the_table(request: pytest.FixtureRequest):
    """docs/security.md names every reader that is fuzzed."""
    from fuzz.targets import names

    page = (Path(request.config.rootpath) / "docs" / "security.md").read_text("utf-8")
    assert [name for name in names() if f"| {name} |" not in page] == []
