"""An .ark file: ZIP records and manifest.json, then every entry, tensor and hash."""

from __future__ import annotations

import zlib

from arkinfer.artifact import open_artifact, verify_artifact
from arkinfer.artifact.layout import Entry, central_record, end_records, local_header
from arkinfer.errors import ArtifactError
from fuzz.files import DEMO, file, refusing

DICTIONARY = ["manifest.json", "weights/", "backends/", "PK\3\4", "PK\1\2", "PK\6\6", "PK\5\6"]
IS_JSON = True
LENGTH = 40_000
_FORMATS = DEMO.parents[1] / "tests" / "artifact" / "formats"
_WHOLE, _MANIFEST = 0, 1


def seeds() -> list[bytes]:
    """The first byte chooses: the whole file, or its manifest in a well-formed file."""
    tiny = (_FORMATS / "v1.ark").read_bytes()
    with open_artifact(_FORMATS / "v1.ark") as artifact:
        manifest = artifact.read("manifest.json")
    empty = b'{"format": 1, "requires": [], "entries": {}, "tensors": {}, "sections": []}'
    return [bytes([_WHOLE]) + tiny, *(bytes([_MANIFEST]) + m for m in (manifest, empty))]


def one(data: bytes) -> None:
    kind, content = data[:1], data[1:]
    path = file("f.ark", content if kind == bytes([_WHOLE]) else around(content, _ONE))
    with refusing(ArtifactError), open_artifact(path) as artifact:
        for entry in artifact.entries():
            artifact.read(entry.name)
        for name in artifact.manifest["tensors"]:
            artifact.tensor(name)
        for backend in artifact.sections:
            artifact.section_bytes(backend)
        verify_artifact(path)


_ONE = {"weights/t": b"0123456789abcdef"}


def around(manifest: bytes, others: dict[str, bytes]) -> bytes:
    """A file whose layout is right, with these entries and the manifest."""
    parts = b""
    entries: list[Entry] = []
    for name, content in {**others, "manifest.json": manifest}.items():
        entry = Entry(name, len(parts), len(content), zlib.crc32(content))
        parts += local_header(entry) + content
        entries.append(entry)
    directory = b"".join(map(central_record, entries))
    return parts + directory + end_records(len(entries), len(directory), len(parts))
