"""Opens .ark files: structure checked, weights memory-mapped. Knows no backend and no model."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import stat
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arkinfer.artifact.dtypes import numpy_dtype
from arkinfer.artifact.layout import (
    LOCAL_SIGNATURE,
    MANIFEST,
    MAX_SIGNATURE,
    SIGNATURE,
    Entry,
    LayoutError,
    check_layout,
    read_directory,
)
from arkinfer.artifact.manifest import (
    BACKENDS,
    WEIGHTS,
    Manifest,
    ManifestError,
    NewerError,
    Section,
    TensorEntry,
    decode,
)
from arkinfer.artifact.pages import prefer_large_pages
from arkinfer.errors import (
    ArkError,
    ArtifactError,
    InternalError,
    ResourceError,
    UsageError,
    nearest,
)
from arkinfer.limits import JSON_BYTES

if TYPE_CHECKING:
    import numpy.typing as npt

AGAIN = "Copy the file again from where it was built, or build it again"


def damaged(path: Path, why: str) -> ArtifactError:
    """The error for a file that is not, or no longer, what arkinfer wrote."""
    return ArtifactError(f'"{path}" is damaged', f"Reason: {why}", AGAIN)


class Artifact:
    """An open .ark file; a context manager, safe to read from several threads.

    Attributes:
        path: the file.
        manifest: manifest.json, checked.
        sections: by backend, in the manifest's order.
        digest: SHA-256 of manifest.json, hexadecimal; names the content of the whole file.

    Raises:
        UsageError: there is no such file.
        ResourceError: the system does not let us read it.
        ArtifactError: it is not an .ark file, damaged, or needs a newer arkinfer.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = _open(self.path)
        try:
            self.size = os.fstat(self._file).st_size
            self._entries = self._read_structure()
            self._map: mmap.mmap | None = mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)
            prefer_large_pages(self._map)
        except BaseException:
            os.close(self._file)
            raise
        self.sections = {
            facts["backend"]: Section(
                facts["backend"],
                facts["config"],
                facts["requires"],
                tuple(facts["tensors"]),
                facts.get("activations"),
                facts.get("caches"),
                tuple(facts.get("variants", ())),
            )
            for facts in self.manifest["sections"]
        }

    def _read_structure(self) -> dict[str, Entry]:
        """Reads directory and manifest, and checks that they agree; hashes no weights."""
        if self.pread(0, min(4, self.size)) != LOCAL_SIGNATURE:
            raise ArtifactError(
                f'"{self.path}" is not an .ark file',
                "It does not start like one",
                'Name a file that "arkinfer build" wrote',
            )
        try:
            entries, directory = read_directory(self.pread, self.size)
            listed, manifest = _split(entries)
            data = self._manifest_bytes(manifest)
            self.manifest: Manifest = decode(data)
            self.digest = hashlib.sha256(data).hexdigest()
            check_layout(entries, directory)
        except NewerError as error:
            raise _newer(self.path, error) from None
        except LayoutError as error:
            raise damaged(self.path, str(error)) from None
        except ManifestError as error:
            raise damaged(self.path, f"in {MANIFEST}, {error}") from None
        self._check_listed({entry.name: entry.size for entry in listed})
        return {entry.name: entry for entry in entries}

    def _check_listed(self, stored: dict[str, int]) -> None:
        """Checks that the directory and the manifest list the same entries."""
        listed = {name: facts["size"] for name, facts in self.manifest["entries"].items()}
        for name, size in stored.items():
            if name not in listed:
                raise damaged(self.path, f'the entry "{name}" is not in {MANIFEST}')
            if size != listed[name]:
                raise damaged(
                    self.path,
                    f'the entry "{name}" has {size} bytes, {MANIFEST} says {listed[name]}',
                )
        for name in listed:
            if name not in stored:
                raise damaged(self.path, f'the entry "{name}" of {MANIFEST} is not there')
        if list(stored) != list(listed):
            raise damaged(self.path, f"its entries are not in the order of {MANIFEST}")

    def _manifest_bytes(self, entry: Entry) -> bytes:
        if entry.size > JSON_BYTES or entry.end > self.size:
            raise LayoutError(f"{MANIFEST} is too large")
        data = self.pread(entry.offset, entry.size)
        if zlib.crc32(data) != entry.crc:
            raise LayoutError(f'the entry "{MANIFEST}" does not match its CRC-32')
        return data

    def pread(self, offset: int, size: int) -> bytes:
        """Bytes of the file itself.

        Raises:
            ArtifactError: the file ends before, or the disk cannot read it.
        """
        if self._file < 0:
            raise InternalError(f'the artifact "{self.path}" is closed')
        parts: list[bytes] = []
        while size > 0:
            try:
                part = os.pread(self._file, min(size, 16 << 20), offset)
            except (OSError, OverflowError) as error:
                raise damaged(self.path, f"reading at byte {offset} failed: {error}") from None
            if not part:
                raise damaged(self.path, f"it ends before byte {offset + size}")
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fills a buffer with bytes of the file itself; raises as `pread`."""
        if not hasattr(os, "preadv"):
            buffer[:] = self.pread(offset, len(buffer))
            return
        while len(buffer):
            try:
                done = os.preadv(self._file, [buffer], offset)
            except (OSError, OverflowError) as error:
                raise damaged(self.path, f"reading at byte {offset} failed: {error}") from None
            if not done:
                raise damaged(self.path, f"it ends before byte {offset + len(buffer)}")
            buffer, offset = buffer[done:], offset + done

    def advise_sequential(self) -> None:
        """Tells the system that the file will be read from front to back."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def __contains__(self, entry: str) -> bool:
        return entry in self._entries

    def entries(self) -> Sequence[Entry]:
        """All entries in file order: manifest.json last, but for its signature."""
        return tuple(self._entries.values())

    def read(self, entry: str) -> bytes:
        """The bytes of an entry, e.g. "tokenizer.json".

        Raises:
            ArtifactError: the file has no such entry, or can no longer be read.
        """
        if entry not in self._entries:
            raise ArtifactError(
                f'"{self.path}" has no entry "{entry}"',
                fix=f'"arkinfer inspect --entries {self.path}" lists what it has',
            )
        found = self._entries[entry]
        return self.pread(found.offset, found.size)

    def tensor_entry(self, name: str) -> TensorEntry:
        """Type, shape and size of a tensor; `ArtifactError` when there is none of that name."""
        facts = self.manifest["tensors"].get(name)
        if facts is None:
            raise ArtifactError(
                f'"{self.path}" has no tensor "{name}"',
                fix=f'"arkinfer inspect --entries {self.path}" lists what it has',
            )
        size = self._entries[WEIGHTS + name].size
        return TensorEntry(name, facts["dtype"], tuple(facts["shape"]), size)

    def location(self, name: str) -> tuple[int, int]:
        """Byte offset in the file and size of a tensor, for runtimes that map it themselves."""
        size = self.tensor_entry(name).size
        return self._entries[WEIGHTS + name].offset, size

    def tensor(self, name: str) -> npt.NDArray[Any]:
        """A read-only view of the mapped file; it stays valid after `close`.

        The pages belong to the file: one that is cut short while mapped ends the process.
        """
        import numpy as np  # here, so that looking at a file stays quick

        entry = self.tensor_entry(name)
        offset, _ = self.location(name)
        dtype = numpy_dtype(entry.dtype)
        if self._map is None:
            raise InternalError(f'the artifact "{self.path}" is closed')
        flat = np.frombuffer(self._map, dtype, entry.size // dtype.itemsize, offset)
        return flat.reshape(entry.shape)

    def section_bytes(self, backend: str) -> int:
        """Bytes of the tensors that a section loads and of its files."""
        if backend not in self.sections:
            raise ArtifactError(
                f'"{self.path}" has no section for "{backend}"', fix=nearest(backend, self.sections)
            )
        tensors = sum(self.tensor_entry(name).size for name in set(self.sections[backend].tensors))
        prefix = f"{BACKENDS}{backend}/"
        files = sum(e.size for e in self._entries.values() if e.name.startswith(prefix))
        return tensors + files

    def close(self) -> None:
        """Gives the file back; tensors that are still in use keep the map alive."""
        if self._map is not None:
            os.close(self._file)
            self._file = -1
            self._map = None  # unmapped when the last view of it goes

    def __enter__(self) -> Artifact:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_artifact(path: str | Path) -> Artifact:
    """Opens an .ark file; see `Artifact`.

    >>> with open_artifact("tests/artifact/formats/v1.ark") as artifact:
    ...     artifact.manifest["model"]["name"], list(artifact.sections)
    ('tiny', ['reference'])
    """
    return Artifact(path)


def _split(entries: list[Entry]) -> tuple[list[Entry], Entry]:
    """The entries that the manifest lists, and its own; a signature may follow it."""
    last = len(entries) - 1
    if entries and entries[last].name == SIGNATURE:
        if entries[last].size > MAX_SIGNATURE:
            raise LayoutError(f"{SIGNATURE} is too large")
        last -= 1
    if last < 0 or entries[last].name != MANIFEST:
        raise LayoutError(f"{MANIFEST} is not its last entry")
    return entries[:last], entries[last]


def _open(path: Path) -> int:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UsageError(f'"{path}" is not a file', fix="Name an .ark file")
        return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise _open_error(path, error) from None
    except ValueError:  # a NUL character
        raise UsageError(f"{str(path)!r} is not a path", fix="Name an .ark file") from None


def _open_error(path: Path, error: OSError) -> ArkError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return UsageError(f'There is no file "{path}"', fix="Check the path")
    if error.errno in (errno.EACCES, errno.EPERM):
        return ResourceError(f'"{path}" may not be read', fix="Check the file's permissions")
    return ResourceError(f'"{path}" cannot be opened', os.strerror(error.errno or 0))


def _newer(path: Path, error: NewerError) -> ArtifactError:
    from arkinfer import __version__

    if not error.writer:
        why, fix = "A newer arkinfer wrote it", "Install a newer arkinfer"
    else:
        why = f"It was written by arkinfer {error.writer}"
        fix = f'Install that or a newer one: pip install "arkinfer>={error.writer}"'
    what = f'"{path}" {error.what}, which this arkinfer ({__version__}) does not know'
    return ArtifactError(what, why, fix)
