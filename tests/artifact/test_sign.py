"""A signature is the last entry of a file, and nothing else of the file changes."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from arkinfer.artifact import open_artifact, verify_artifact
from arkinfer.artifact.layout import central_record, end_records
from arkinfer.artifact.minisign import SecretKey, parse_secret_key
from arkinfer.artifact.sign import check_signature, sign_artifact, signature_of
from arkinfer.artifact.writer import ArtifactWriter
from arkinfer.errors import ArtifactError, InternalError, UsageError
from tests.artifact.test_minisign import SECRET, needs_minisign

KEY = parse_secret_key(SECRET)


@pytest.fixture
def signed(small: Path) -> Path:
    sign_artifact(small, KEY)
    return small


def test_all_else_stays_byte_by_byte(small: Path):
    before = small.read_bytes()
    with open_artifact(small) as artifact:
        end, digest, names = artifact.entries()[-1].end, artifact.digest, artifact.entries()
    signature = sign_artifact(small, KEY)
    after = small.read_bytes()
    assert after[:end] == before[:end]
    with open_artifact(small) as artifact:
        assert artifact.digest == digest
        assert artifact.entries()[:-1] == names
        assert artifact.entries()[-1].name == "manifest.json.minisig"
        assert signature_of(artifact) == signature
        assert signature.comment == f"sha256:{digest}"
        assert check_signature(artifact, KEY.public) == signature
    assert verify_artifact(small).size == len(after)
    assert os.listdir(small.parent) == [small.name]


def test_signing_again_replaces_the_signature(signed: Path):
    first, other = signed.read_bytes(), SecretKey.new()
    sign_artifact(signed, other, "by another")
    with open_artifact(signed) as artifact:
        assert check_signature(artifact, other.public).comment == "by another"
        assert [e.name for e in artifact.entries()].count("manifest.json.minisig") == 1
    sign_artifact(signed, KEY)
    assert signed.read_bytes() == first  # Ed25519 is deterministic, and so is the file


def test_whose_signature_it_is(signed: Path, tmp_path: Path):
    other = SecretKey.new()
    with open_artifact(signed) as artifact, pytest.raises(ArtifactError) as caught:
        check_signature(artifact, other.public)
    assert str(caught.value) == (
        f'"{signed}" is not signed by the key {other.public.id}. Its signature names the key '
        f"{KEY.public.id}. Check which key its builder signs with, and do not use the file until "
        "you know."
    )


def test_an_unsigned_file_is_no_signed_one(small: Path):
    with open_artifact(small) as artifact:
        assert signature_of(artifact) is None
        with pytest.raises(ArtifactError) as caught:
            check_signature(artifact, KEY.public)
    assert str(caught.value) == (
        f'"{small}" is not signed. A signature by the key {KEY.public.id} was asked for. '
        "Get the signed file from whoever builds it, or sign it: arkinfer sign."
    )


def test_a_signature_of_another_file(signed: Path, tmp_path: Path):
    """Somebody builds another file and gives it the signature of the first."""
    with open_artifact(signed) as artifact:
        stolen = artifact.read("manifest.json.minisig")
        facts = {k: artifact.manifest[k] for k in ("model", "quant", "dtype", "target", "tokens")}
    forged = tmp_path / "forged.ark"
    with ArtifactWriter(forged) as writer:
        writer.commit({**facts, "context": 3})
    with open_artifact(forged) as artifact, ArtifactWriter(forged) as writer:
        writer.commit_signed(artifact, stolen)
    verify_artifact(forged)  # every bit is as it was written
    with open_artifact(forged) as artifact, pytest.raises(ArtifactError) as caught:
        check_signature(artifact, KEY.public)
    assert str(caught.value) == (
        f'The signature of "{forged}" is wrong. It names the key {KEY.public.id}, but that key '
        "did not sign this manifest.json. Do not use the file: somebody changed it, or its "
        "signature, after it was signed."
    )


def test_a_damaged_file_is_not_signed(small: Path):
    with open_artifact(small) as artifact:
        offset = artifact.location("norm")[0]
    data = bytearray(small.read_bytes())
    data[offset] ^= 1
    small.write_bytes(data)
    with pytest.raises(ArtifactError, match='"weights/norm" does not match its SHA-256'):
        sign_artifact(small, KEY)
    assert small.read_bytes() == data


@pytest.mark.parametrize(
    ("comment", "problem"),
    [("two\nlines", "outside printable ASCII"), ("x" * 1025, "longer than 1024 characters")],
)
def test_comments_that_cannot_be_signed(small: Path, comment: str, problem: str):
    with pytest.raises(UsageError, match=problem):
        sign_artifact(small, KEY, comment)


def test_only_a_signature_may_stand_where_the_signature_is(small: Path):
    with open_artifact(small) as artifact, ArtifactWriter(small) as writer:
        writer.commit_signed(artifact, b"I vouch for this")
    with pytest.raises(ArtifactError, match="is not a signature in minisign's format"):
        verify_artifact(small)
    with open_artifact(small) as artifact, ArtifactWriter(small) as writer:
        writer.commit_signed(artifact, bytes(5000))
    with pytest.raises(ArtifactError, match=r"manifest\.json\.minisig is too large"):
        open_artifact(small)


def test_a_builder_cannot_add_a_signature_as_an_entry(tmp_path: Path):
    with ArtifactWriter(tmp_path / "x.ark") as writer, pytest.raises(InternalError):
        writer.add_bytes("manifest.json.minisig", b"x")


def test_every_bit_around_the_signature_counts(signed: Path, tmp_path: Path):
    data = signed.read_bytes()
    with open_artifact(signed) as artifact:
        last = artifact.entries()[-1]
    around = np.arange(last.header * 8, len(data) * 8)
    path = tmp_path / "flipped.ark"
    for bit in np.random.default_rng(3).choice(around, 600, replace=False).tolist():
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(ArtifactError):
            verify_artifact(path, threads=1)


def test_a_signature_that_was_cut_off_leaves_an_unsigned_file(signed: Path, tmp_path: Path):
    """Whoever wants a signature asks for it by --pubkey: no file can say that it had one."""
    data = signed.read_bytes()
    with open_artifact(signed) as artifact:
        entries = artifact.entries()[:-1]
    directory = b"".join(map(central_record, entries))
    end = entries[-1].end
    path = tmp_path / "cut.ark"
    path.write_bytes(data[:end] + directory + end_records(len(entries), len(directory), end))
    verify_artifact(path)
    with open_artifact(path) as artifact, pytest.raises(ArtifactError, match="is not signed"):
        check_signature(artifact, KEY.public)


@needs_minisign
def test_minisign_itself_verifies_what_unzip_takes_out(signed: Path, tmp_path: Path):
    with zipfile.ZipFile(signed) as archive:
        archive.extractall(tmp_path)
    assert shutil.which("minisign")
    run = ["minisign", "-Vm", "manifest.json", "-P", KEY.public.text()]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Signature and comment signature verified" in done.stdout
    (tmp_path / "manifest.json").write_bytes(b"{}")
    assert subprocess.run(run, cwd=tmp_path, capture_output=True).returncode == 1
