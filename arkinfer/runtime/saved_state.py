"""A sequence in a file: its length and what its caches hold, for whoever opens the same artifact.

    8 bytes   "arkstate"
    4 bytes   version, 1
    4 bytes   bytes of the header
    4 bytes   CRC-32 of the header
    header    JSON: artifact (SHA-256 of its manifest), backend, length (tokens), and caches: each
              with name, dtype, bytes (of a block) and block (tokens)
    caches    the blocks that hold the sequence, cache by cache
    32 bytes  SHA-256 of all before

Numbers are little-endian. Knows no cache of any executor: they give and take bytes. Files need not
be seekable, and nothing is read beyond the end, so that a state can stand inside of another file.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from arkinfer.errors import ArkError, ArtifactError, ResourceError, UsageError
from arkinfer.limits import LimitError, parse_json

MAGIC, VERSION = b"arkstate", 1
_PREFIX = struct.Struct("<8sIII")
_DIGEST = hashlib.sha256().digest_size
_PIECE = 1 << 20
"""Bytes that are read, hashed and copied at a time."""

LONGEST_HEADER = 1 << 20
"""Bytes; a model with a hundred layers has 30 kB."""

Bytes = npt.NDArray[Any]
"""A contiguous array, of whatever type."""


@dataclass(frozen=True)
class SavedCache:
    """How one cache is kept.

    Attributes:
        name: of the cache.
        dtype: of its numbers.
        bytes: of a block of it.
        block: tokens in a block; more than one where they are not stored one after the other.
    """

    name: str
    dtype: str
    bytes: int
    block: int = 1

    def size(self, length: int) -> int:
        """Bytes of the blocks that hold so many tokens."""
        return -(-length // self.block) * self.bytes


@dataclass(frozen=True)
class StateForm:
    """What has to be the same where a state is saved and where it is restored.

    Attributes:
        artifact: its digest.
        backend: whose section.
        caches: in the order in which they are saved.
    """

    artifact: str
    backend: str
    caches: tuple[SavedCache, ...]


def save_state(file: BinaryIO, form: StateForm, length: int, caches: Iterable[Bytes]) -> None:
    """Writes a state.

    Args:
        file: open for writing bytes.
        form: of the state.
        length: tokens.
        caches: each cache's blocks that hold them.

    Raises:
        UsageError: the file takes no bytes.
        ResourceError: it cannot be written.
    """
    facts: dict[str, Any] = {
        "artifact": form.artifact, "backend": form.backend, "length": length,
        "caches": [asdict(cache) for cache in form.caches],
    }  # fmt: skip
    header = json.dumps(facts, separators=(",", ":")).encode()
    prefix = _PREFIX.pack(MAGIC, VERSION, len(header), zlib.crc32(header))
    digest = hashlib.sha256()
    for part in (prefix, header):
        _write(file, memoryview(part), digest)
    for cache, blocks in zip(form.caches, caches, strict=True):
        data = _flat(blocks)
        assert len(data) == cache.size(length), f"{cache.name} has other blocks"
        for start in range(0, len(data), _PIECE):
            _write(file, data[start : start + _PIECE], digest)
    _write(file, memoryview(digest.digest()), digest)


def restore_state(
    file: BinaryIO, form: StateForm, capacity: int, room: Callable[[int], Sequence[Bytes]]
) -> int:
    """Reads a state that `save_state` wrote; how many tokens it has.

    Whoever calls this makes the state another one only when it returns: until then what is in the
    caches of `room` may be wrong. They can be the state's own where it has no token to lose.

    Args:
        file: open for reading bytes.
        form: that the state must have.
        capacity: tokens that it may have.
        room: told the length, once the header is right, gives arrays for the caches' blocks.

    Raises:
        ArtifactError: it is damaged, cut off, or no saved state.
        UsageError: it is of another form, too long, or the file gives no bytes.
        ResourceError: the file cannot be read.
    """
    source = _Source(file)
    length = _length(_header(source), form, capacity)
    for cache, blocks in zip(form.caches, room(length), strict=True):
        assert blocks.flags.c_contiguous, f"{cache.name} would be read into a copy"
        data = _flat(blocks)
        assert len(data) == cache.size(length), f"{cache.name} has other blocks"
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            piece[:] = source.read(len(piece))
    expected = source.digest.digest()
    if source.read(_DIGEST) != expected:
        raise _damaged("Its bytes and their checksum differ")
    return length


class _Source:
    """The bytes of a file in order, and the digest of those that were read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest, self._done = file, hashlib.sha256(), 0

    def read(self, count: int) -> bytes:
        """Exactly so many."""
        parts: list[bytes] = []
        missing = count
        while missing:
            try:
                part = cast(object, self._file.read(missing))
            except (OSError, ValueError) as error:  # ValueError: it is closed, or is no UTF-8 text
                raise _unreadable(error) from error
            if isinstance(part, str):
                raise UsageError(
                    "A state cannot be restored from a text file", "", 'Open it with "rb"'
                )
            if not isinstance(part, bytes | bytearray) or not part:
                raise ArtifactError(
                    "The saved state is cut off",
                    f"The file ends after {self._done + count - missing:,} bytes of it",
                    "Save the state again",
                )
            parts.append(bytes(part))
            missing -= len(part)
        data = b"".join(parts)
        self._done += count
        self.digest.update(data)
        return data


def _header(source: _Source) -> dict[str, Any]:
    magic = source.read(len(MAGIC))
    if magic != MAGIC:
        raise ArtifactError("This is no saved state", "It does not begin as one")
    _, version, size, crc = _PREFIX.unpack(magic + source.read(_PREFIX.size - len(MAGIC)))
    if version != VERSION:
        raise ArtifactError(
            f"The state was saved in format {version}",
            f"This arkinfer reads format {VERSION}",
            "Restore it with the arkinfer that saved it",
        )
    if size > LONGEST_HEADER:
        raise _damaged(f"Its header claims {size:,} bytes")
    header = source.read(size)
    if zlib.crc32(header) != crc:
        raise _damaged("Its header and their checksum differ")
    try:
        facts = parse_json(header)
    except LimitError as error:
        raise _damaged(f"Its header cannot be read: {error}") from error
    if not isinstance(facts, dict):
        raise _damaged("Its header is no object")
    return cast("dict[str, Any]", facts)


def _length(facts: dict[str, Any], form: StateForm, capacity: int) -> int:
    """The tokens of a state, if it has the form and fits."""
    length, artifact, backend = (facts.get(key) for key in ("length", "artifact", "backend"))
    if type(length) is not int or length < 0:
        raise _damaged("Its header has no length")
    if artifact != form.artifact:
        raise UsageError(
            "The state was saved by another artifact",
            f'Its digest begins with "{str(artifact)[:12]}", that of this one with '
            f'"{form.artifact[:12]}"',
            "Restore it with the file that it was saved by",
        )
    if backend != form.backend:
        raise UsageError(
            f"The state was saved on {backend}, and this is {form.backend}",
            "Backends keep caches in ways of their own",
            f"Load the artifact with backend={backend}",
        )
    if facts.get("caches") != [asdict(cache) for cache in form.caches]:
        raise UsageError(
            "The state's caches are kept otherwise here",
            f"Another version of {form.backend} or for another processor saved it",
            "Run the tokens again",
        )
    if length > capacity:
        raise UsageError(
            f"The saved sequence has {length} tokens",
            f"The caches of this one hold {capacity}",
            "Make a state with a larger context",
        )
    return length


def _write(file: BinaryIO, data: memoryview, digest: Any) -> None:
    digest.update(data)
    while data:
        try:
            written = cast("int | None", file.write(data))
        except TypeError as error:
            raise UsageError(
                "A state cannot be saved in a text file", "", 'Open it with "wb"'
            ) from error
        except (OSError, ValueError) as error:  # ValueError: it is closed
            raise ResourceError("The state cannot be saved", str(error)) from error
        if not written:
            raise ResourceError("The state cannot be saved", "The file takes no more bytes")
        data = data[written:]


def _flat(array: Bytes) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _damaged(why: str) -> ArtifactError:
    return ArtifactError("The saved state is damaged", why, "Save the state again")


def _unreadable(error: Exception) -> ArkError:
    return ResourceError("The saved state cannot be read", str(error))
