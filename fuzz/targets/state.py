"""A saved state: its header, its caches, and the checksum around them."""

from __future__ import annotations

import hashlib
import struct
import zlib
from io import BytesIO

import numpy as np

from arkinfer.errors import ArtifactError, UsageError
from arkinfer.runtime.saved_state import SavedCache, StateForm, restore_state, save_state
from fuzz.files import refusing

DICTIONARY = ["arkstate", "artifact", "backend", "length", "caches", "name", "dtype", "bytes",
              "block", "bf16", "k0", "1e400", "-1"]  # fmt: skip
IS_JSON = True
LENGTH = 2048
_FORM = StateForm("ab" * 32, "reference", (
    SavedCache("k0", "bf16", 8), SavedCache("k0.scale", "f32", 4), SavedCache("v0", "i8", 6, 4),
))  # fmt: skip
_CAPACITY = 20
_PREFIX = 20


def seeds() -> list[bytes]:
    """Of no token, of some, and of all that fit."""
    made: list[bytes] = []
    for length in (0, 3, _CAPACITY):
        file, rng = BytesIO(), np.random.default_rng(length)
        caches = [rng.integers(0, 256, c.size(length), np.uint8) for c in _FORM.caches]
        save_state(file, _FORM, length, caches)
        made.append(file.getvalue())
    return made


def one(data: bytes) -> None:
    """As it is, and again with right lengths and checksums, so that mutations get past them."""
    _restore(data)
    brace = data.rfind(b"]}") + 2
    header, rest = data[_PREFIX:brace], data[brace:]
    prefix = struct.pack("<8sIII", b"arkstate", 1, len(header), zlib.crc32(header))
    whole = prefix + header + rest[:-32]
    _restore(whole + hashlib.sha256(whole).digest())


def _restore(data: bytes) -> None:
    made: list[np.ndarray] = []

    def room(length: int) -> list[np.ndarray]:
        assert 0 <= length <= _CAPACITY
        made.extend(np.zeros(cache.size(length), np.uint8) for cache in _FORM.caches)
        return made

    with refusing(ArtifactError, UsageError):
        length = restore_state(BytesIO(data), _FORM, _CAPACITY, room)
        again = BytesIO()
        save_state(again, _FORM, length, made)
        again.seek(0)
        assert restore_state(again, _FORM, length, lambda _: made) == length
