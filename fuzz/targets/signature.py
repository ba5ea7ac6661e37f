"""A signature in an artifact, and a public key."""

from __future__ import annotations

from contextlib import suppress

from arkinfer.artifact.minisign import (
    FormatError,
    PublicKey,
    Signature,
    parse_public_key,
    parse_signature,
)
from arkinfer.errors import UsageError
from fuzz.files import refusing

DICTIONARY = ["untrusted comment: ", "trusted comment: ", "RW", "RUQ", "=\n", "\n\n", "\r\n"]
LENGTH = 600


def seeds() -> list[bytes]:
    """A signature by nobody, and a key."""
    number = bytes(range(8))
    key = PublicKey(number, bytes(32)).file()
    return [Signature(number, bytes(64), "by nobody", bytes(64)).encode(), key.encode()]


def one(data: bytes) -> None:
    with suppress(FormatError):
        signature = parse_signature(data)
        assert signature.encode() == data, "two forms of one signature"
        signature.is_by(PublicKey(signature.number, bytes(32)), b"data")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    with refusing(UsageError):
        parse_public_key(text)
