"""What the reader gives, and what it refuses: an ArtifactError in plain words, never a crash."""

from __future__ import annotations

import io
import os
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from arkinfer.artifact import Artifact, Section, TensorEntry, open_artifact, verify_artifact
from arkinfer.artifact.layout import END_SIZE
from arkinfer.errors import ArtifactError, InternalError, ResourceError, UsageError

Pack = Callable[..., bytes]
Raw = Callable[[list[tuple[str, bytes]]], bytes]
AGAIN = "Copy the file again from where it was built, or build it again."


def test_what_was_written_is_read(small: Path):
    with open_artifact(str(small)) as artifact:
        assert artifact.path == small
        assert artifact.manifest["model"]["name"] == "tiny"
        assert artifact.manifest["tokens"]["stop"] == [2, 7]
        assert len(artifact.digest) == 64
        assert "ir.txt" in artifact
        assert "ir" not in artifact
        assert artifact.read("ir.txt") == b"module {}\n"
        section = Section("reference", {"chunk": 4}, {"numpy": ">=1.26"}, ("w.codes", "norm"))
        assert artifact.sections == {"reference": section}
        assert artifact.tensor_entry("norm") == TensorEntry("norm", "bfloat16", (5,), 10)
        assert artifact.section_bytes("reference") == 6 * 2 * 16 + 10 + 2
        assert [entry.name for entry in artifact.entries()][-1] == "manifest.json"


def test_tensors_are_read_only_views_of_the_file(small: Path):
    data = small.read_bytes()
    artifact = open_artifact(small)
    tensor = artifact.tensor("w.codes")
    offset, size = artifact.location("w.codes")
    assert offset % 4096 == 0
    assert data[offset : offset + size] == tensor.tobytes()
    assert not tensor.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        tensor[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        tensor.flags.writeable = True
    again = artifact.tensor("w.codes")
    assert np.shares_memory(tensor, again)
    artifact.close()
    artifact.close()
    assert tensor.tobytes() == data[offset : offset + size]
    with pytest.raises(InternalError, match="closed"):
        artifact.tensor("w.codes")
    with pytest.raises(InternalError, match="closed"):
        artifact.read("ir.txt")


def test_reads_from_many_threads_agree(small: Path):
    start = threading.Barrier(8)
    with open_artifact(small) as artifact:

        def work(_: int) -> tuple[bytes, bytes]:
            start.wait()
            return artifact.read("weights/w.codes"), artifact.tensor("w.codes").tobytes()

        with ThreadPoolExecutor(8) as pool:
            assert len({part for pair in pool.map(work, range(8)) for part in pair}) == 1


def test_unknown_names_are_named(small: Path):
    with open_artifact(small) as artifact:
        for act, text in (
            (lambda: artifact.read("nope"), 'has no entry "nope"'),
            (lambda: artifact.tensor("nope"), 'has no tensor "nope"'),
            (lambda: artifact.location("nope"), 'has no tensor "nope"'),
            (lambda: artifact.section_bytes("referense"), 'Did you mean "reference"?'),
        ):
            with pytest.raises(ArtifactError) as caught:
                act()
            assert text in str(caught.value)


def error_of(path: Path, data: bytes) -> str:
    """The error of opening `data`, less the path."""
    path.write_bytes(data)
    with pytest.raises(ArtifactError) as caught:
        open_artifact(path)
    return str(caught.value).replace(str(path), "F")


def test_wrong_paths(tmp_path: Path):
    with pytest.raises(UsageError) as caught:
        open_artifact(tmp_path / "m.ark")
    assert str(caught.value) == f'There is no file "{tmp_path}/m.ark". Check the path.'
    with pytest.raises(UsageError, match="is not a file"):
        open_artifact(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is not a file"):
        open_artifact(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is not a path"):
        open_artifact("a\0b")
    with pytest.raises(ResourceError, match="cannot be opened"):
        open_artifact("x" * 300)


def test_foreign_files(tmp_path: Path):
    path = tmp_path / "f"
    for data in (b"", b"PK", b"hello, this is no archive", bytes(5000)):
        assert error_of(path, data) == (
            '"F" is not an .ark file. It does not start like one. '
            'Name a file that "arkinfer build" wrote.'
        )
    foreign = io.BytesIO()
    with zipfile.ZipFile(foreign, "w") as archive:
        archive.writestr("manifest.json", "{}")
    assert "it does not end like an .ark file" in error_of(path, foreign.getvalue())


def test_files_cut_off_anywhere(tmp_path: Path, small: Path):
    data = small.read_bytes()
    for length in [*range(4, len(data), 97), *range(len(data) - 200, len(data))]:
        text = error_of(tmp_path / "f", data[:length])
        assert "it may be cut off" in text or "too short" in text
        assert text.endswith(AGAIN)
    assert "it may be cut off" in error_of(tmp_path / "f", data + b"\0")
    holed = error_of(tmp_path / "f", data[:5000] + data[9096:])
    assert "its end records are damaged, or disagree with its length" in holed


def test_structure_attacks(tmp_path: Path, raw: Raw, pack: Pack):
    path = tmp_path / "f"
    manifest = pack({"a": b"1"})  # a sound one to take the manifest from
    path.write_bytes(manifest)
    with open_artifact(path) as artifact:
        text = artifact.read("manifest.json")
    assert 'Reason: the entry "a" comes twice.' in error_of(
        path, raw([("a", b"1"), ("a", b"1"), ("manifest.json", text)])
    )
    assert 'the entry "b" is not in manifest.json' in error_of(
        path, raw([("a", b"1"), ("b", b""), ("manifest.json", text)])
    )
    assert 'the entry "a" of manifest.json is not there' in error_of(
        path, raw([("manifest.json", text)])
    )
    assert 'the entry "a" has 2 bytes, manifest.json says 1' in error_of(
        path, raw([("a", b"12"), ("manifest.json", text)])
    )
    assert "manifest.json is not its last entry" in error_of(
        path, raw([("manifest.json", text), ("a", b"1")])
    )
    assert "manifest.json is not its last entry" in error_of(path, raw([("a", b"1")]))
    for name in ("/abs", "../up", "a/../b", "a\\b", "C:x", "a\x1b[2J"):
        found = error_of(path, raw([(name, b"1"), ("manifest.json", text)]))
        assert "record 0 of its central directory has a forbidden name" in found
    twisted = pack({"a": b"1", "b": b"2"}, edit=lambda m: m.update(entries=_reversed(m["entries"])))
    assert "its entries are not in the order of manifest.json" in error_of(path, twisted)


def _reversed(mapping: dict[str, Any]) -> dict[str, Any]:
    return dict(reversed(mapping.items()))


def test_a_symbolic_link_inside_is_refused(tmp_path: Path, pack: Pack):
    data = pack({"link": b"/etc/passwd"})
    regular, link = (0o100644 << 16).to_bytes(4, "little"), (0o120777 << 16).to_bytes(4, "little")
    assert data.count(regular) == 2
    text = error_of(tmp_path / "f", data.replace(regular, link, 1))
    assert 'record 0 of its central directory, of the entry "link", is damaged' in text


def test_a_newer_format_is_one_clear_sentence(tmp_path: Path, pack: Pack):
    data = pack(edit=lambda m: (m.clear(), m.update(format=2, arkinfer="3.1.0", news=[1])))
    assert error_of(tmp_path / "f", data) == (
        '"F" has format 2, which this arkinfer (0.1.0) does not know. '
        "It was written by arkinfer 3.1.0. "
        'Install that or a newer one: pip install "arkinfer>=3.1.0".'
    )


def test_an_unknown_feature_is_refused(tmp_path: Path, pack: Pack):
    assert error_of(tmp_path / "f", pack(requires=["tree-cache"], arkinfer="0.9.0rc1")) == (
        '"F" needs the feature "tree-cache", which this arkinfer (0.1.0) does not know. '
        "It was written by arkinfer 0.9.0rc1. "
        'Install that or a newer one: pip install "arkinfer>=0.9.0rc1".'
    )
    assert error_of(tmp_path / "f", pack(requires=["x"], arkinfer='"; rm -rf /')) == (
        '"F" needs the feature "x", which this arkinfer (0.1.0) does not know. '
        "A newer arkinfer wrote it. Install a newer arkinfer."
    )


def test_unknown_keys_are_ignored(tmp_path: Path, pack: Pack):
    def edit(manifest: dict[str, Any]) -> None:
        manifest["mood"] = {"a": [None, 1.5]}
        for part in ("model", "tokens", "generation", "source", "target"):
            manifest[part]["patch_size"] = 14
        manifest["entries"]["w"]["md5"] = "x"

    (tmp_path / "f").write_bytes(pack({"w": b""}, edit=edit))
    with open_artifact(tmp_path / "f") as artifact:
        assert artifact.manifest.get("mood") == {"a": [None, 1.5]}


def test_damage_that_is_quoted_cannot_steer_the_terminal(tmp_path: Path, pack: Pack):
    text = error_of(tmp_path / "f", pack(tensors={"\x1b[2J\x07": {"dtype": 1}}))
    assert text.isprintable()
    assert text.startswith('"F" is damaged. Reason: in manifest.json, tensors["?[2J?"]')


def attempt(path: Path, data: bytes) -> Artifact | None:
    """Opens and reads everything; only ArtifactError may stop it."""
    path.write_bytes(data)
    with suppress(ArtifactError), open_artifact(path) as artifact:
        for entry in artifact.entries():
            artifact.read(entry.name)
        for name in artifact.manifest["tensors"]:
            artifact.tensor(name).sum()
        for backend in artifact.sections:
            artifact.section_bytes(backend)
        return artifact
    return None


FUZZ = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(st.binary(max_size=300), st.booleans())
def test_fuzz_random_bytes(tmp_path: Path, data: bytes, signed: bool):
    assert attempt(tmp_path / "f", b"PK\3\4" + data if signed else data) is None


@FUZZ
@given(st.data())
def test_fuzz_mutations(tmp_path: Path, small: Path, data: st.DataObject):
    """Flips, cuts, repeats and moves, most of them near the directory, where the structure is."""
    content = bytearray(small.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        back = data.draw(st.one_of(st.integers(1, 600), st.integers(1, len(content))))
        position = max(0, len(content) - back)
        kind = data.draw(st.sampled_from(["set", "cut", "insert", "copy", "u64"]))
        if kind == "set":
            content[position] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del content[position : position + data.draw(st.integers(1, 40))]
        elif kind == "insert":
            content[position:position] = data.draw(st.binary(min_size=1, max_size=40))
        elif kind == "u64":
            value = data.draw(st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]))
            content[position : position + 8] = value.to_bytes(8, "little")
        else:
            source = data.draw(st.integers(0, max(0, len(content) - 50)))
            content[position : position + 50] = content[source : source + 50]
        content = content or bytearray(b"P")
    attempt(tmp_path / "f", bytes(content))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
PLACES = st.sampled_from(
    [
        (key,) for key in ("format", "requires", "model", "context", "quant", "tokens", "target",
                           "generation", "source", "tensors", "sections", "entries")
    ] + [
        ("tensors", "t"), ("tensors", "t", "shape"), ("tensors", "t", "dtype"), ("entries", "x"),
        ("entries", "weights/t"), ("entries", "weights/t", "size"), ("tokens", "stop"),
        ("sections", 0), ("sections", 0, "tensors"), ("sections", 0, "backend"),
    ]
)  # fmt: skip


@FUZZ
@example(("tensors", "t", "shape"), [2**40] * 8)
@example(("tensors", "t", "shape"), [2**400])
@example(("tensors", "t", "shape"), [2] * 9)
@example(("tensors", "t", "shape"), [4, True])
@example(("tensors", "t", "shape"), [-4])
@example(("entries", "weights/t", "size"), 4.0)
@example(("context",), 10**400)
@example(("format",), 10**400)
@given(PLACES, JSON)
def test_fuzz_manifests(tmp_path: Path, pack: Pack, place: tuple[Any, ...], value: object):
    """Containers of sound layout with any JSON in any place of the manifest."""

    def edit(manifest: dict[str, Any]) -> None:
        for key in place[:-1]:
            manifest = manifest[key]
        manifest[place[-1]] = value

    data = pack(
        {"x": b"x", "weights/t": bytes(4)},
        edit=edit,
        tensors={"t": {"dtype": "uint8", "shape": [4]}},
        sections=[{"backend": "a", "requires": {}, "tensors": ["t"], "config": {}}],
    )
    attempt(tmp_path / "f", data)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b"\xff\xfe{}", "is not JSON"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"format": 1, "format": 1}', "a key comes twice"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "it has a number beyond all bounds"),
        (b'{"format": 0}', "arkinfer is missing"),
    ],
)
def test_broken_manifests(tmp_path: Path, raw: Raw, text: bytes, why: str):
    found = error_of(tmp_path / "f", raw([("manifest.json", text)]))
    assert found.startswith('"F" is damaged. Reason: in manifest.json, ')
    assert why in found


def test_huge_claims_cost_no_memory(tmp_path: Path, small: Path):
    """Every 8-byte field of the end records says that there is far more than there is."""
    data = small.read_bytes()
    for position in range(len(data) - END_SIZE, len(data) - 8):
        for value in (2**63 - 1, 2**40, 2**64 - 1):
            forged = data[:position] + value.to_bytes(8, "little") + data[position + 8 :]
            assert forged == data or attempt(tmp_path / "f", forged) is None


def test_a_file_that_shrinks_while_open(small: Path):
    with open_artifact(small) as artifact:
        os.truncate(small, 5000)
        with pytest.raises(ArtifactError, match="it ends before byte"):
            artifact.read("weights/w.codes")
    with pytest.raises(ArtifactError):
        verify_artifact(small)
