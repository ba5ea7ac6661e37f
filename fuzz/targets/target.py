"""A target's TOML file."""

from __future__ import annotations

from pathlib import Path

import arkinfer.targets
from arkinfer.errors import UsageError
from arkinfer.targets.target import parse_target
from fuzz.files import refusing

DICTIONARY = ["summary", "arch", "isa", "backends", "memory", "bandwidth", "host", "inf", "nan",
              "[[", "]]", "'''", '"""', "0x", "1979-05-27T07:32:00Z", "\\U00110000"]  # fmt: skip
LENGTH = 2048


def seeds() -> list[bytes]:
    return [f.read_bytes() for f in sorted(Path(arkinfer.targets.__file__).parent.glob("*.toml"))]


def one(data: bytes) -> None:
    with refusing(UsageError):
        parse_target("fuzzed", data)
