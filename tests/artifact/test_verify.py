"""No bit can change unseen, and the first entry that is wrong is named."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arkinfer.artifact import open_artifact, verify_artifact
from arkinfer.artifact.layout import Entry, central_record, end_records, local_header
from arkinfer.errors import ArkError, ArtifactError


def test_a_sound_file(small: Path):
    seen: list[tuple[int, int]] = []
    report = verify_artifact(small, lambda done, total: seen.append((done, total)))
    assert report.path == small
    assert report.entries == 5
    assert report.size == small.stat().st_size
    with open_artifact(small) as artifact:
        assert report.digest == artifact.digest
        assert report.hashed == sum(entry.size for entry in artifact.entries())
    assert seen == sorted(seen)
    assert {total for _, total in seen} == {report.size}


def bits_to_flip(size: int, spots: list[int]) -> list[int]:
    """Bits all over the file, and every bit near `spots`, where the records are."""
    rng = np.random.default_rng(11)
    anywhere = rng.integers(0, size * 8, 800).tolist()
    near = [bit for spot in spots for bit in range(spot * 8, min(spot + 80, size) * 8)]
    return anywhere + rng.permutation(near)[:2500].tolist()


def test_every_bit_counts_and_its_entry_is_named(tmp_path: Path, small: Path):
    data = small.read_bytes()
    with open_artifact(small) as artifact:
        entries = artifact.entries()
    spots = [entry.header for entry in entries] + [entry.offset for entry in entries]
    directory = entries[-1].end
    spots += list(range(directory, len(data), 80))
    path = tmp_path / "flipped.ark"
    path.write_bytes(data)
    with path.open("r+b", buffering=0) as file:
        for bit in bits_to_flip(len(data), spots):
            byte = bit // 8
            file.seek(byte)
            file.write(bytes([data[byte] ^ 1 << bit % 8]))
            with pytest.raises(ArtifactError) as caught:
                verify_artifact(path)
            file.seek(byte)
            file.write(data[byte : byte + 1])
            if byte >= 4:  # before: it is no .ark file at all
                owner = next((e.name for e in entries if byte < e.end), "directory")
                known = [f'entry "{owner}"', f"in {owner}"] if byte < directory else [""]
                assert any(text in str(caught.value) for text in known), (bit, str(caught.value))
    verify_artifact(path)


def test_contents_swapped_with_their_checksums_are_found(small: Path):
    """Data, its CRC-32 and both headers changed in concert still differ from the manifest."""
    with open_artifact(small) as artifact:
        entries = list(artifact.entries())
    data = bytearray(small.read_bytes())
    entry = entries[2]
    changed = b"\1" * entry.size
    forged = Entry(entry.name, entry.header, entry.size, zlib.crc32(changed))
    data[entry.header : entry.end] = local_header(forged) + changed
    data = data.replace(central_record(entry), central_record(forged))
    small.write_bytes(data)
    with pytest.raises(ArtifactError) as caught:
        verify_artifact(small)
    assert str(caught.value) == (
        f'"{small}" is damaged. Reason: the entry "weights/norm" does not match its SHA-256. '
        "Copy the file again from where it was built, or build it again."
    )


def test_what_cannot_be_opened_cannot_be_verified(tmp_path: Path):
    with pytest.raises(ArkError, match="There is no file"):
        verify_artifact(tmp_path / "m.ark")


@pytest.mark.slow
def test_entries_beyond_4_gib(tmp_path: Path, facts: dict[str, Any]):
    """A 4.5 GiB tensor of zeros, a hole on the disk, and a tensor after it, read and verified."""
    size, block = 9 << 29, bytes(16 << 20)
    digest, crc = hashlib.sha256(), 0
    for _ in range(size // len(block)):
        digest.update(block)
        crc = zlib.crc32(block, crc)
    tail = np.arange(8, dtype=np.int64)
    big = Entry("weights/big", 0, size, crc)
    after = Entry("weights/tail", big.end, tail.nbytes, zlib.crc32(tail.tobytes()))
    manifest = {
        "format": 1, "arkinfer": "0.1.0", "requires": [], **facts, "generation": {},
        "source": {"files": {}}, "sections": [],
        "tensors": {
            "big": {"dtype": "uint8", "shape": [9, 1 << 29]},
            "tail": {"dtype": "int64", "shape": [8]},
        },
        "entries": {
            "weights/big": {"size": size, "sha256": digest.hexdigest()},
            "weights/tail": {"size": 64, "sha256": hashlib.sha256(tail.tobytes()).hexdigest()},
        },
    }  # fmt: skip
    text = json.dumps(manifest).encode()
    last = Entry("manifest.json", after.end, len(text), zlib.crc32(text))
    directory = b"".join(map(central_record, (big, after, last)))
    path = tmp_path / "big.ark"
    with path.open("wb") as file:
        file.write(local_header(big))
        file.seek(after.header)
        file.write(local_header(after) + tail.tobytes() + local_header(last) + text)
        file.write(directory + end_records(3, len(directory), last.end))
    with open_artifact(path) as artifact:
        assert artifact.location("tail")[0] > 1 << 32
        assert (artifact.tensor("tail") == tail).all()
        assert artifact.tensor("big")[8, -1] == 0
    assert verify_artifact(path).size == path.stat().st_size
    with path.open("r+b") as file:
        file.seek(big.offset + size - 1)
        file.write(b"\x01")
    with pytest.raises(ArtifactError, match='"weights/big" does not match its SHA-256'):
        verify_artifact(path)
