"""The format of saved states: its bytes, and every refusal in its words."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest

from arkinfer.errors import ArkError, ArtifactError, UsageError
from arkinfer.runtime.saved_state import SavedCache, StateForm, restore_state, save_state

FORM = StateForm("0123456789abcdef" * 4, "reference", (
    SavedCache("k0", "bf16", 4), SavedCache("v0", "i8", 6, block=4),
))  # fmt: skip
KEYS, VALUES = np.arange(10, dtype=np.uint16).reshape(5, 2), np.arange(12, dtype=np.uint8)


def saved(form: StateForm = FORM) -> bytes:
    file = BytesIO()
    save_state(file, form, 5, [KEYS, VALUES])
    return file.getvalue()


def restored(data: bytes, form: StateForm = FORM, capacity: int = 9) -> list[Any]:
    made: list[Any] = [np.zeros_like(KEYS), np.zeros_like(VALUES)]

    def room(length: int) -> list[Any]:
        assert length == 5
        return made

    assert restore_state(BytesIO(data), form, capacity, room) == 5
    return made


def written(header: bytes | dict[str, Any], version: int = 1, size: int | None = None) -> bytes:
    """With right checksums."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    count = len(text) if size is None else size
    data = struct.pack("<8sIII", b"arkstate", version, count, zlib.crc32(text)) + text
    data += KEYS.tobytes() + VALUES.tobytes()
    return data + hashlib.sha256(data).digest()


def facts() -> dict[str, Any]:
    data = saved()
    return json.loads(data[20 : 20 + struct.unpack_from("<I", data, 12)[0]])


def test_the_bytes_are_these() -> None:
    """A file that one version saved is read by the next: change this with a new version only."""
    header = (
        '{"artifact":"' + FORM.artifact + '","backend":"reference","length":5,"caches":['
        '{"name":"k0","dtype":"bf16","bytes":4,"block":1},'
        '{"name":"v0","dtype":"i8","bytes":6,"block":4}]}'
    ).encode()  # fmt: skip
    assert saved() == written(header)


def test_what_was_saved_comes_back() -> None:
    keys, values = restored(saved())
    np.testing.assert_array_equal(keys, KEYS)
    np.testing.assert_array_equal(values, VALUES)
    np.testing.assert_array_equal(restored(saved(), capacity=5)[0], KEYS)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"GGUF" * 20, "This is no saved state. It does not begin as one."),
        (b"arkst", "The saved state is cut off. The file ends after 5 bytes of it. Save the state "
         "again."),
        (saved()[:-1], f"The saved state is cut off. The file ends after {len(saved()) - 1} bytes "
         "of it. Save the state again."),
        (written(facts(), version=2), "The state was saved in format 2. This arkinfer reads format "
         "1. Restore it with the arkinfer that saved it."),
        (written(facts(), size=1 << 31), "The saved state is damaged. Its header claims "
         "2,147,483,648 bytes. Save the state again."),
        (saved()[:20] + b"x" + saved()[21:], "The saved state is damaged. Its header and their "
         "checksum differ. Save the state again."),
        (saved()[:-40] + b"x" + saved()[-39:], "The saved state is damaged. Its bytes and their "
         "checksum differ. Save the state again."),
        (written(b"[]"), "The saved state is damaged. Its header is no object. Save the state "
         "again."),
        (written(b'{"a":1,"a":2}'), "The saved state is damaged. Its header cannot be read: a key "
         "comes twice in one of its objects. Save the state again."),
        (written({**facts(), "length": -1}), "The saved state is damaged. Its header has no "
         "length. Save the state again."),
        (written({**facts(), "length": True}), "The saved state is damaged. Its header has no "
         "length. Save the state again."),
    ],
)  # fmt: skip
def test_what_is_no_whole_state(data: bytes, text: str) -> None:
    with pytest.raises(ArtifactError) as refusal:
        restored(data)
    assert str(refusal.value) == text


@pytest.mark.parametrize(
    ("form", "capacity", "text"),
    [
        (replace(FORM, artifact="f" * 64), 9, "The state was saved by another artifact. Its digest "
         'begins with "0123456789ab", that of this one with "ffffffffffff". Restore it with the '
         "file that it was saved by."),
        (replace(FORM, backend="tvm"), 9, "The state was saved on reference, and this is tvm. "
         "Backends keep caches in ways of their own. Load the artifact with backend=reference."),
        (replace(FORM, caches=FORM.caches[:1]), 9, "The state's caches are kept otherwise here. "
         "Another version of reference or for another processor saved it. Run the tokens again."),
        (FORM, 4, "The saved sequence has 5 tokens. The caches of this one hold 4. Make a state "
         "with a larger context."),
    ],
)  # fmt: skip
def test_what_belongs_elsewhere(form: StateForm, capacity: int, text: str) -> None:
    with pytest.raises(UsageError) as refusal:
        restored(saved(), form, capacity)
    assert str(refusal.value) == text


def test_a_header_that_asks_for_much_makes_nothing() -> None:
    """Room is made once all is known to fit."""

    def room(length: int) -> list[Any]:
        pytest.fail("nothing of it fits")

    for change in ({"length": 1 << 60}, {"artifact": 3}, {"caches": [{"bytes": 1 << 60}] * 99}):
        with pytest.raises(ArkError):
            restore_state(BytesIO(written({**facts(), **change})), FORM, 9, room)
