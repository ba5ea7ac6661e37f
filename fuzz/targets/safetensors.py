"""A .safetensors file: header, table of tensors, and the rows of each."""

from __future__ import annotations

import json
import struct

from arkinfer.errors import CheckpointError
from arkinfer.frontend.safetensors_files import read_table
from arkinfer.frontend.slots import SlotReader
from fuzz.files import file, refusing

DICTIONARY = ["dtype", "shape", "data_offsets", "__metadata__", "F32", "BF16", "F8_E4M3", "BOOL"]
IS_JSON = True
LENGTH = 4096


def seeds() -> list[bytes]:
    two = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b.weight": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    }
    scalar = {"s": {"dtype": "I8", "shape": [], "data_offsets": [0, 1]}}
    return [_file(two, 32), _file(scalar, 1), _file({}, 0)]


def _file(header: object, data: int) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def one(data: bytes) -> None:
    """As it is, and again with a right length of the header, so that mutations get past it."""
    _read(data)
    text, brace, rest = data[8:].rpartition(b"}")
    _read(struct.pack("<Q", len(text + brace)) + text + brace + rest)


def _read(data: bytes) -> None:
    path = file("w.safetensors", data)
    reader = SlotReader()
    try:
        with refusing(CheckpointError):
            for slot in read_table(path).values():
                reader.rows(slot, 0, slot.shape[0] if slot.shape else 1)
    finally:
        reader.close()
