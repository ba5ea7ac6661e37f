"""Keys and signatures as the tool minisign writes them, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from arkinfer.artifact import minisign
from arkinfer.artifact.minisign import (
    FormatError,
    SecretKey,
    parse_public_key,
    parse_secret_key,
    parse_signature,
)
from arkinfer.errors import DeviceError, ResourceError, UsageError

SECRET = """\
untrusted comment: minisign encrypted secret key
RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAUFMofDcxzuV0urMWAoYxqmKn3rwxZnhaAP/8jR+vwp68QzKP4yP5mLQgeZnRPAjy7okNquxebyGoyNehiaCuv4PI517CQVWNAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
"""
PUBLIC = "RWRQUyh8NzHO5bQgeZnRPAjy7okNquxebyGoyNehiaCuv4PI517CQVWN"
SIGNATURE = """\
untrusted comment: signature from minisign secret key
RURQUyh8NzHO5YVWd2uuVYwiUzpW6HwkS0F97y7moGt9KFsTS/xqzcln6/+n0zK4izwCT6umvelvM9YaBklYmcorZCECHqkq+gs=
trusted comment: timestamp:1795672301	file:m	hashed
cJm0v0Z7nae416Ji08M/NjDhVmzQyhEG3NVovzjb3oBeY/OTXcVNTEVHfGrCxLmQ1f+F7ZyMg6uc/1RXZPUqCQ==
"""
"""Made by minisign 0.11: `minisign -G -W`, and `minisign -S` of a file that holds "hello\\n"."""


def test_a_key_of_minisign_signs_as_minisign_does():
    key = parse_secret_key(SECRET)
    assert key.public.text() == PUBLIC
    assert key.public.id == "E5CE31377C285350"
    assert key.file() == SECRET
    lines = SIGNATURE.splitlines()
    signed = key.sign(b"hello\n", lines[2].removeprefix("trusted comment: "))
    own = signed.encode().decode().splitlines()
    assert (own[1], own[3]) == (lines[1], lines[3])


def test_a_signature_vouches_for_the_data_and_the_comment():
    key = SecretKey.new()
    found = parse_signature(key.sign(b"data", "who and what").encode())
    assert found.comment == "who and what"
    assert found.key_id == key.public.id
    assert found.is_by(key.public, b"data")
    assert not found.is_by(key.public, b"dat")
    assert not found.is_by(SecretKey.new().public, b"data")
    changed = found.encode().replace(b"who", b"how")
    assert not parse_signature(changed).is_by(key.public, b"data")
    renamed = minisign.Signature(bytes(8), found.own, found.comment, found.whole)
    assert not renamed.is_by(key.public, b"data")


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s[:-1],
        lambda s: s + b"\n",
        lambda s: s.replace(b"untrusted", b"Untrusted"),
        lambda s: s.replace(b"\n", b"\r\n"),
        lambda s: s.replace(b"==\n", b"=\n"),
        lambda s: s.replace(b"RUR", b"RWR"),
        lambda s: s.replace(b"trusted comment: c", b"trusted comment: \xc3\xa9"),
        lambda s: s.replace(b"trusted comment: c", b"trusted comment: \t"),
        lambda s: s.splitlines(keepends=True)[1],
        lambda s: b"",
    ],
)
def test_only_the_one_form_is_a_signature(change: object):
    sound = parse_secret_key(SECRET).sign(b"x", "c").encode()
    assert parse_signature(sound).comment == "c"
    assert callable(change)
    changed = change(sound)
    assert changed != sound
    with pytest.raises(FormatError):
        parse_signature(changed)


def test_bits_to_spare_in_base64_are_refused():
    sound = parse_secret_key(SECRET).sign(b"x", "c").encode()
    line = sound.splitlines()[3]
    spare = line[:-3] + bytes([line[-3] + 1]) + b"=="
    assert base64.b64decode(spare) == base64.b64decode(line)
    with pytest.raises(FormatError):
        parse_signature(sound.replace(line, spare))


def sealed(key: SecretKey, password: bytes, operations: int, memory: int, n: int) -> str:
    """A secret key that is protected as minisign protects it, with less work."""
    salt = bytes(range(32))
    secret = key.seed + key.public.raw
    checksum = hashlib.blake2b(b"Ed" + key.number + secret, digest_size=32).digest()
    stream = hashlib.scrypt(password, salt=salt, n=n, r=8, p=1, maxmem=1 << 30, dklen=104)
    body = bytes(a ^ b for a, b in zip(key.number + secret + checksum, stream, strict=True))
    packed = b"EdScB2" + salt + struct.pack("<QQ", operations, memory) + body
    return f"untrusted comment: x\n{base64.b64encode(packed).decode()}\n"


def test_a_password_opens_a_protected_key():
    key = SecretKey.new()
    text = sealed(key, b"open", 524288, 16 << 20, 1 << 14)
    assert minisign.needs_password(text)
    assert not minisign.needs_password(SECRET)
    assert parse_secret_key(text, b"open") == key
    with pytest.raises(UsageError, match="password of the secret key is wrong"):
        parse_secret_key(text, b"close")


def test_a_key_file_cannot_ask_for_all_the_memory():
    text = sealed(SecretKey.new(), b"", 1 << 40, 1 << 40, 2)
    with pytest.raises(ResourceError, match="unreasonable amount of work"):
        parse_secret_key(text, b"")


@pytest.mark.parametrize("text", ["", "x", PUBLIC, f"a\n{PUBLIC}\n", SECRET + "more", SIGNATURE])
def test_what_is_no_secret_key(text: str):
    with pytest.raises(UsageError, match="This is not a secret key of minisign"):
        parse_secret_key(text)


@pytest.mark.parametrize("text", ["", "RWQ", SECRET, PUBLIC[:-1], f"{PUBLIC}\n{PUBLIC}", "é"])
def test_what_is_no_public_key(text: str):
    with pytest.raises(UsageError, match="This is not a public key of minisign"):
        parse_public_key(text)


def test_a_public_key_comes_alone_or_in_a_file():
    key = parse_secret_key(SECRET).public
    assert parse_public_key(f" {PUBLIC}\n") == key
    assert parse_public_key(key.file()) == key


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(
        __import__("sys").modules, "cryptography.hazmat.primitives.asymmetric", None
    )
    with pytest.raises(DeviceError) as caught:
        _ = SecretKey.new().public
    assert str(caught.value) == (
        'Signatures cannot be made or checked here. The Python package "cryptography" is missing. '
        'Install it: pip install "arkinfer[sign]".'
    )


needs_minisign = pytest.mark.skipif(not shutil.which("minisign"), reason="minisign is not here")


@needs_minisign
def test_minisign_reads_our_keys_and_we_read_its_signatures(tmp_path: Path):
    key = SecretKey.new()
    (tmp_path / "key").write_text(key.file())
    (tmp_path / "data").write_bytes(b"some data")
    run = ["minisign", "-S", "-s", str(tmp_path / "key"), "-m", str(tmp_path / "data")]
    subprocess.run(run, check=True, capture_output=True)
    theirs = (tmp_path / "data.minisig").read_text().splitlines()
    ours = key.sign(b"some data", theirs[2].removeprefix("trusted comment: ")).encode().decode()
    assert ours.splitlines()[1::2] == theirs[1::2]


@needs_minisign
@pytest.mark.slow
def test_a_key_that_minisign_protected(tmp_path: Path):
    """Takes 1 GiB of memory: what minisign asks of everybody."""
    run = ["minisign", "-G", "-p", str(tmp_path / "pub"), "-s", str(tmp_path / "key")]
    subprocess.run(run, input=b"open\nopen\n", check=True, capture_output=True)
    key = parse_secret_key((tmp_path / "key").read_text(), b"open")
    assert key.public == parse_public_key((tmp_path / "pub").read_text())
