"""The bytes of an .ark file around its entries: ZIP64 records, alignment and order.

Knows no manifest, no tensor and no file: it turns entries into records and records into entries.
Every record is a pure function of an entry's name, place, size and CRC-32, so that a reader can
derive each byte outside the entries again. Source: PKWARE APPNOTE.TXT 6.3.10, sections 4.3.7,
4.3.12, 4.3.14-16 and 4.5.3; the padding field is the one that Android's zipalign writes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

ALIGNMENT = 4096
MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.minisig"
MAX_DIRECTORY = 8 << 20  # bytes; that of a model with a thousand tensors has 0.1 MiB
MAX_SIGNATURE = 4096

_LOCAL = struct.Struct("<4s5H3I2H")
_LOCAL_ZIP64 = struct.Struct("<2H2Q")
_PADDING = struct.Struct("<3H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_CENTRAL_ZIP64 = struct.Struct("<2H3Q")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_END = struct.Struct("<4s4H2IH")

_VERSION = 45  # ZIP64
_MADE_BY = 3 << 8 | _VERSION  # Unix
_ATTRIBUTES = 0o100644 << 16  # a regular file, rw-r--r--
_TIME, _DATE = 0, 1 << 5 | 1  # 1980-01-01 00:00, the first that ZIP can say
_MAX16, _MAX32 = 0xFFFF, 0xFFFFFFFF
_ZIP64_ID, _PADDING_ID = 0x0001, 0xD935

LOCAL_SIGNATURE = b"PK\3\4"
END64_SIGNATURE = b"PK\6\6"
END_SIZE = _END64.size + _LOCATOR.size + _END.size
_FORBIDDEN = frozenset('\\:*?"<>|')


class LayoutError(Exception):
    """The bytes are not those of an .ark file; the text says where and why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored entry.

    Attributes:
        name: its path inside the archive.
        header: offset of its local header in the file, bytes.
        size: bytes of data.
        crc: CRC-32 of the data.
    """

    name: str
    header: int
    size: int
    crc: int

    @property
    def offset(self) -> int:
        """Offset of the data in the file, a multiple of `ALIGNMENT`."""
        return data_offset(self.name, self.header)

    @property
    def end(self) -> int:
        """Offset of the first byte after the data: the next record starts there."""
        return self.offset + self.size


def name_problem(name: str) -> str:
    """Why `name` cannot name an entry; "" when it can.

    >>> name_problem("weights/model.norm.weight"), name_problem("../x")
    ('', 'it has an empty, "." or ".." part')
    """
    if not 0 < len(name) <= 1024:
        return "it is empty or longer than 1024 characters"
    if not all("!" <= c <= "~" and c not in _FORBIDDEN for c in name):
        return "it has a character outside the portable ones"
    if any(part in ("", ".", "..") for part in name.split("/")):
        return 'it has an empty, "." or ".." part'
    return ""


def data_offset(name: str, header: int) -> int:
    """Where the data starts of an entry whose local header is at `header`."""
    end = header + _LOCAL.size + len(name) + _LOCAL_ZIP64.size + _PADDING.size
    return end + -end % ALIGNMENT


def local_header(entry: Entry) -> bytes:
    """The bytes from the entry's header to its data: record, name, ZIP64 sizes, zero padding."""
    name = entry.name.encode("ascii")
    sizes = _LOCAL_ZIP64.pack(_ZIP64_ID, _LOCAL_ZIP64.size - 4, entry.size, entry.size)
    padding = entry.offset - entry.header - _LOCAL.size - len(name) - len(sizes)
    record = _LOCAL.pack(
        LOCAL_SIGNATURE, _VERSION, 0, 0, _TIME, _DATE, entry.crc, _MAX32, _MAX32,
        len(name), len(sizes) + padding,
    )  # fmt: skip
    start = _PADDING.pack(_PADDING_ID, padding - 4, ALIGNMENT)
    return record + name + sizes + start + bytes(padding - len(start))


def central_record(entry: Entry) -> bytes:
    """The entry's record in the central directory."""
    name = entry.name.encode("ascii")
    extra = _CENTRAL_ZIP64.pack(
        _ZIP64_ID, _CENTRAL_ZIP64.size - 4, entry.size, entry.size, entry.header
    )
    record = _CENTRAL.pack(
        b"PK\1\2", _MADE_BY, _VERSION, 0, 0, _TIME, _DATE, entry.crc, _MAX32, _MAX32,
        len(name), len(extra), 0, 0, 0, _ATTRIBUTES, _MAX32,
    )  # fmt: skip
    return record + name + extra


def end_records(count: int, size: int, offset: int) -> bytes:
    """The end of the file, for a central directory of `count` records, `size` bytes at `offset`."""
    end64 = _END64.pack(
        END64_SIGNATURE, _END64.size - 12, _MADE_BY, _VERSION, 0, 0, count, count, size, offset
    )
    locator = _LOCATOR.pack(b"PK\6\7", 0, offset + size, 1)
    end = _END.pack(b"PK\5\6", 0, 0, _MAX16, _MAX16, _MAX32, _MAX32, 0)
    return end64 + locator + end


def read_directory(read: Callable[[int, int], bytes], file_size: int) -> tuple[list[Entry], int]:
    """The entries of a file in the order of its central directory, and where that starts.

    Args:
        read: `read(offset, size)` gives bytes of the file.
        file_size: bytes of the file.

    Raises:
        LayoutError: a record is not the one that its own values lead to, or a name is
            forbidden or comes twice. Places are not checked yet: see `check_layout`.
    """
    if file_size < END_SIZE:
        raise LayoutError("it is too short for an .ark file")
    tail = read(file_size - END_SIZE, END_SIZE)
    count, size, offset = _END64.unpack_from(tail)[-3:]
    agree = offset + size + END_SIZE == file_size  # also: no sum below overflows
    if not agree or tail != end_records(count, size, offset):
        if tail[:4] == END64_SIGNATURE:
            raise LayoutError("its end records are damaged, or disagree with its length")
        raise LayoutError("it does not end like an .ark file; it may be cut off")
    if size > MAX_DIRECTORY:
        raise LayoutError("its central directory is too large")
    directory = read(offset, size)
    entries: dict[str, Entry] = {}
    position = 0
    while position < size:
        entry = _read_record(directory, position, len(entries))
        if entry.name in entries:
            raise LayoutError(f'the entry "{entry.name}" comes twice')
        entries[entry.name] = entry
        position += len(central_record(entry))
    if len(entries) != count:
        raise LayoutError(f"its directory has {len(entries)} entries, its end records say {count}")
    return list(entries.values()), offset


def _read_record(directory: bytes, position: int, index: int) -> Entry:
    where = f"record {index} of its central directory"
    start = position + _CENTRAL.size
    if start > len(directory):
        raise LayoutError(f"{where} is cut off")
    fields = _CENTRAL.unpack_from(directory, position)
    extra = start + fields[10]
    if fields[0] != b"PK\1\2" or extra + _CENTRAL_ZIP64.size > len(directory):
        raise LayoutError(f"{where} is damaged")
    name = directory[start:extra].decode("latin-1")
    if problem := name_problem(name):
        raise LayoutError(f"{where} has a forbidden name: {problem}")
    _, _, size, _, header = _CENTRAL_ZIP64.unpack_from(directory, extra)
    entry = Entry(name, header, size, fields[7])
    record = central_record(entry)
    if directory[position : position + len(record)] != record:
        raise LayoutError(f'{where}, of the entry "{name}", is damaged')
    return entry


def check_layout(entries: list[Entry], directory_offset: int) -> None:
    """Checks that entries follow each other without gap or overlap, up to the directory.

    Raises:
        LayoutError: naming the first entry that is out of place.
    """
    position = 0
    for entry in entries:
        if entry.header != position:
            raise LayoutError(
                f'the entry "{entry.name}" is at byte {entry.header} instead of {position}'
            )
        position = entry.end
        if position > directory_offset:
            raise LayoutError(f'the entry "{entry.name}" reaches past the directory')
    if position != directory_offset:
        raise LayoutError("there are bytes between the last entry and the directory")
