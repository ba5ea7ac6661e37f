"""A pytorch_model.bin: its ZIP directory and its pickle, which is interpreted and never run."""

from __future__ import annotations

import io
import pickle
import zipfile

from arkinfer.errors import CheckpointError, UnsupportedError
from arkinfer.frontend.torch_bin import read_table
from fuzz.files import file, refusing

DICTIONARY = ["torch._utils", "_rebuild_tensor_v2", "_rebuild_parameter", "torch", "FloatStorage",
              "BFloat16Storage", "collections", "OrderedDict", "storage", "cpu", "m/data.pkl",
              "m/byteorder", "m/data/0", "PK\1\2", "PK\3\4", "PK\5\6"]  # fmt: skip
LENGTH = 4096
_ZIP, _PICKLE = 0, 1


def seeds() -> list[bytes]:
    """The first byte chooses: the whole file, or the pickle in a well-formed file."""
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\n"
        b"X\1\0\0\0" b"0X\3\0\0\0cpuK\6tQK\0K\2K\3\x86K\3K\1\x86\x89ccollections\n"
        b"OrderedDict\n)RtR"
    )  # fmt: skip
    state = b"\x80\2}q\0(X\1\0\0\0w" + tensor + b"X\1\0\0\0v" + tensor + b"u."
    ordered = b"\x80\2ccollections\nOrderedDict\n)R(X\1\0\0\0w" + tensor + b"u}b."
    plain = pickle.dumps({"a": [1, (2.5, None, True)], "b": "text"}, 4)
    pickles = [bytes([_PICKLE]) + p for p in (state, ordered, plain)]
    return [bytes([_ZIP]) + around(state), *pickles]


def one(data: bytes) -> None:
    content = data[1:] if data[:1] == bytes([_ZIP]) else around(data[1:])
    with refusing(CheckpointError, UnsupportedError):
        read_table(file("m.bin", content))


def around(pickled: bytes) -> bytes:
    """A file as torch.save writes it, with one storage of 24 bytes."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in (
            ("m/data.pkl", pickled), ("m/byteorder", b"little"), ("m/data/0", bytes(24))
        ):  # fmt: skip
            archive.writestr(zipfile.ZipInfo(name), content)
    return made.getvalue()
