"""Writes .ark files, streamed, in one pass. Knows no backend and no model.

A file appears under its name only whole: it grows under a temporary name in the same folder, and
is renamed when every byte is on the disk. The temporary file is locked while its writer lives, so
that the next writer knows which ones a killed process left behind.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from arkinfer.artifact.dtypes import DTYPES, numpy_dtype
from arkinfer.artifact.layout import (
    MANIFEST,
    SIGNATURE,
    Entry,
    central_record,
    data_offset,
    end_records,
    local_header,
    name_problem,
)
from arkinfer.artifact.manifest import (
    FORMAT,
    SCHEMA,
    WEIGHTS,
    EntryFacts,
    Manifest,
    ManifestError,
    Section,
    TensorEntry,
    encode,
    tensor_size,
)
from arkinfer.artifact.pages import forget
from arkinfer.errors import ArkError, InternalError, ResourceError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    from arkinfer.artifact.reader import Artifact

_BUFFER = 16 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_DEFAULTS: dict[str, object] = {"requires": [], "generation": {}, "source": {"files": {}}}


class ArtifactWriter:
    """A new .ark file; a context manager that leaves nothing behind without `commit`.

    Args:
        path: the file to write; one that exists is replaced when the new one is whole.
        spool: folder for the temporary file, on the same disk; None: the file's own folder.

    Raises:
        UsageError: the folder is missing, or `path` is not an ordinary file.
        ResourceError: the folder may not be written; from any method: the disk is full.
        InternalError: from any method: the caller broke this class's contract.
    """

    def __init__(self, path: str | Path, *, spool: Path | None = None) -> None:
        self.path = Path(os.path.realpath(path))  # a link is followed, not replaced
        self._entries: dict[str, Entry] = {}
        self._facts: dict[str, EntryFacts] = {}
        self._tensors: dict[str, TensorEntry] = {}
        self._sections: dict[str, Section] = {}
        self._end = self._size = 0
        folder = self.path.parent if spool is None else spool
        _check_place(self.path, folder)
        _remove_stale(folder, self.path.name)
        self._temporary, self._file = self._create(folder)

    def _create(self, folder: Path) -> tuple[Path, int]:
        while True:
            suffix = f"{os.getpid()}-{os.urandom(4).hex()}"
            temporary = folder / f".{self.path.name}.{suffix}.tmp"
            try:
                file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX)
            except FileExistsError:
                continue
            except OSError as error:
                raise _disk_error(error, self.path, 0) from None
            if temporary.exists():
                return temporary, file
            os.close(file)  # another writer took it for stale before we locked it

    def expect(self, size: int) -> None:
        """Says how many bytes the file will have at least, for the error of a full disk."""
        self._size = size

    def has_tensor(self, name: str) -> bool:
        """Whether a tensor of that name was added."""
        return name in self._tensors

    def tensor(self, name: str) -> TensorEntry:
        """The tensor that was added under `name`."""
        if name not in self._tensors:
            raise InternalError(f'The tensor "{name}" was not added')
        return self._tensors[name]

    def read_back(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows [start, stop) of a tensor that was added."""
        import numpy as np

        entry, dtype = self.tensor(name), numpy_dtype(self.tensor(name).dtype)
        width = entry.size // entry.shape[0]
        place = self._entries[WEIGHTS + name].offset + start * width
        buffer = np.empty((stop - start) * width, np.uint8)
        view = buffer.data
        while view:
            try:
                done = os.preadv(self._file, [view], place)
            except OSError as error:
                raise _disk_error(error, self.path, 0) from None
            if not done:
                raise InternalError(f'The tensor "{name}" ends before row {stop}')
            view, place = view[done:], place + done
        return buffer.view(dtype).reshape(stop - start, *entry.shape[1:])

    def weight_digests(self) -> dict[str, str]:
        """The SHA-256 of each tensor so far, by name."""
        return {name: self._facts[WEIGHTS + name]["sha256"] for name in self._tensors}

    def add_bytes(self, name: str, data: bytes) -> None:
        """Adds an entry, e.g. "tokenizer.json" or "backends/onnxruntime/model.onnx"."""
        if name in (MANIFEST, SIGNATURE) or name.startswith(WEIGHTS):
            raise InternalError(f'The entry "{name}" cannot be added as plain bytes')
        self._add(name, len(data), [data])

    def add_tensor(
        self, name: str, dtype: str, shape: tuple[int, ...], chunks: Iterable[npt.NDArray[Any]]
    ) -> TensorEntry:
        """Adds a tensor as the entry `weights/<name>`.

        Args:
            name: unique in the file.
            dtype: a name of `DTYPES`.
            shape: dimensions of at least 1; () for a scalar.
            chunks: arrays of that dtype, consecutive along axis 0, that make up the whole tensor;
                each is written before the next is asked for.
        """
        if dtype not in DTYPES:
            raise InternalError(f'The tensor "{name}" has the unknown dtype "{dtype}"')
        if any(dim < 1 for dim in shape):
            raise InternalError(f'The tensor "{name}" has the empty shape {shape}')
        entry = TensorEntry(name, dtype, tuple(map(int, shape)), tensor_size(dtype, shape))
        self._add(WEIGHTS + name, entry.size, _chunk_bytes(entry, chunks))
        self._tensors[name] = entry
        return entry

    def add_section(self, section: Section) -> None:
        """Adds what one backend runs; the first section is the preferred one."""
        if section.backend in self._sections:
            raise InternalError(f'Two sections are for "{section.backend}"')
        self._sections[section.backend] = section

    def commit(self, manifest: dict[str, Any]) -> Path:
        """Completes the manifest, writes it last, and puts the file in its place.

        Args:
            manifest: the model's facts by the keys of the schema: model, context, quant, dtype,
                target, tokens, and where they exist generation, source, requires.

        Returns:
            The file.
        """
        try:
            data = self._manifest(manifest)
            self._add(MANIFEST, len(data), [data])
            self._finish()
        finally:
            self.close()
        return self.path

    def commit_signed(self, source: Artifact, signature: bytes) -> Path:
        """Writes a file again, with this signature of its manifest as the last entry.

        Args:
            source: what is signed; nothing was added to this writer.
            signature: the bytes of the entry `manifest.json.minisig`.

        Returns:
            The file.
        """
        kept = [entry for entry in source.entries() if entry.name != SIGNATURE]
        try:
            for start in range(0, kept[-1].end, _BUFFER):
                size = min(_BUFFER, kept[-1].end - start)
                self._write(start, source.pread(start, size), size)
            self._entries = {entry.name: entry for entry in kept}
            self._end = kept[-1].end
            self._add(SIGNATURE, len(signature), [signature])
            self._finish()
        finally:
            self.close()
        return self.path

    def _finish(self) -> None:
        """Writes the directory, and puts the file in its place when it is on the disk."""
        directory = b"".join(map(central_record, self._entries.values()))
        end = end_records(len(self._entries), len(directory), self._end)
        self._write(self._end, directory + end)
        try:
            os.ftruncate(self._file, self._end + len(directory) + len(end))
            os.fsync(self._file)
            forget(self._file)
            os.replace(self._temporary, self.path)
            _sync_folder(self.path.parent)
        except OSError as error:
            raise _disk_error(error, self.path, 0) from None

    def _manifest(self, facts: dict[str, Any]) -> bytes:
        from arkinfer import __version__

        try:  # sorted and through JSON, so that equal facts give equal bytes
            known = json.loads(json.dumps({**_DEFAULTS, **facts}, sort_keys=True, allow_nan=False))
            sections = [
                json.loads(json.dumps(_section(s), sort_keys=True)) for s in self._sections.values()
            ]
            known = {
                "format": FORMAT,
                "arkinfer": __version__,
                **known,
                "tensors": {
                    t.name: {"dtype": t.dtype, "shape": list(t.shape)}
                    for t in self._tensors.values()
                },
                "sections": sections,
                "entries": self._facts,
            }
            order = [key for key in SCHEMA["properties"] if key in known]
            order += [key for key in known if key not in SCHEMA["properties"]]
            return encode(cast("Manifest", {key: known[key] for key in order}))
        except (TypeError, ValueError, ManifestError) as error:
            raise InternalError("The manifest cannot be written", str(error)) from error

    def _add(self, name: str, size: int, chunks: Iterable[bytes | memoryview]) -> None:
        """Writes data first and its header after, when the CRC-32 is known.

        An entry that fails leaves the place for the next one as it was.
        """
        if self._file < 0:
            raise InternalError(f'"{self.path}" is already closed')
        if problem := name_problem(name):
            raise InternalError(f'"{name}" cannot name an entry', problem)
        if name in self._entries:
            raise InternalError(f'The entry "{name}" was added twice')
        offset = data_offset(name, self._end)
        digest, crc, done = hashlib.sha256(), 0, 0
        for chunk in chunks:
            if done + len(chunk) > size:
                raise InternalError(f'The chunks of "{name}" exceed its {size} bytes')
            self._write(offset + done, chunk, size - done)
            digest.update(chunk)
            crc = zlib.crc32(chunk, crc)
            done += len(chunk)
        if done != size:
            raise InternalError(f'The chunks of "{name}" have {done} bytes instead of {size}')
        entry = Entry(name, self._end, size, crc)
        self._write(entry.header, local_header(entry))
        self._entries[name] = entry
        if name not in (MANIFEST, SIGNATURE):
            self._facts[name] = {"size": size, "sha256": digest.hexdigest()}
        self._end = entry.end

    def _write(self, offset: int, data: bytes | memoryview, needed: int = 0) -> None:
        view = memoryview(data)
        while view:
            try:
                done = os.pwrite(self._file, view, offset)
            except OSError as error:
                least = max(needed, len(view), self._size - offset)
                raise _disk_error(error, self.path, least) from None
            view, offset, needed = view[done:], offset + done, needed - done

    def close(self) -> None:
        """Removes what was written, unless it was committed; may be called again."""
        if self._file >= 0:
            self._temporary.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> ArtifactWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _chunk_bytes(
    entry: TensorEntry, chunks: Iterable[npt.NDArray[Any]]
) -> Iterable[bytes | memoryview]:
    """The chunks' bytes in pieces of at most `_BUFFER`."""
    import numpy as np

    dtype = numpy_dtype(entry.dtype)
    for chunk in chunks:
        if chunk.dtype != dtype:
            raise InternalError(
                f'A chunk of the tensor "{entry.name}" is {chunk.dtype} instead of {entry.dtype}'
            )
        data = np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data
        for start in range(0, len(data), _BUFFER):
            yield data[start : start + _BUFFER]


def _check_place(path: Path, folder: Path) -> None:
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f'"{path}" is not an ordinary file', fix="Name another output file")
        for place in (path.parent, folder):
            if not place.is_dir():
                raise UsageError(
                    f'There is no folder "{place}"', f'"{path.name}" cannot be written there',
                    "Make the folder, or name another output file",
                )  # fmt: skip
        if path.parent.stat().st_dev != folder.stat().st_dev:
            raise UsageError(
                f'"{folder}" and "{path.parent}" are on two disks',
                "A finished file is renamed into its place, which works on one disk only",
                f'Choose a folder for temporary files on the disk of "{path.parent}"',
            )
    except OSError as error:
        raise _disk_error(error, path, 0) from None


def _remove_stale(folder: Path, name: str) -> None:
    """Removes the temporary files for `name` whose writers are dead: nobody holds their lock."""
    for path in list(folder.glob(f".{_literal(name)}.*-*.tmp")):
        with suppress(OSError):  # another writer's, or a file system without locks
            file = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
            finally:
                os.close(file)


def _literal(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _free(folder: Path) -> str:
    try:
        space = os.statvfs(folder)
    except OSError:
        return "an unknown number of bytes"
    return f"{space.f_bavail * space.f_frsize:,} bytes"


def _disk_error(error: OSError, path: Path, needed: int) -> ArkError:
    if not path.parent.is_dir():
        return ResourceError(
            f'"{path}" cannot be written',
            f'The folder "{path.parent}" is gone; it was there when the work began',
            "Make it again, or name an output file in a folder that stays",
        )
    if error.errno is not None and error.errno in _FULL:
        needs = f"; at least {needed:,} more bytes are needed" if needed else ""
        return ResourceError(
            f'There is no room to write "{path}"{needs}',
            f"{os.strerror(error.errno)}; {_free(path.parent)} are free there",
            "Free some space, raise the limit, or name an output file on another disk",
        )
    if error.errno is not None and error.errno in _REFUSED:
        return ResourceError(
            f'"{path}" cannot be written',
            f'The folder "{path.parent}" may not be written: {os.strerror(error.errno)}',
            "Name an output file in a folder of yours, or change the permissions",
        )
    return ResourceError(f'"{path}" cannot be written', os.strerror(error.errno or 0))


def _section(section: Section) -> dict[str, Any]:
    """What manifest.json says of it."""
    lists = {"tensors": list(section.tensors), "variants": list(section.variants) or None}
    facts = {**vars(section), **lists}
    return {key: value for key, value in facts.items() if value is not None}
