"""`arkinfer verify` on a sound file and on a broken one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import arkinfer.cli.verify as command
from arkinfer.artifact import open_artifact
from arkinfer.artifact.minisign import SecretKey
from arkinfer.artifact.sign import sign_artifact
from arkinfer.cli import main
from arkinfer.errors import ArtifactError

V1 = Path(__file__).parents[1] / "artifact" / "formats" / "v1.ark"


def test_a_sound_file(capsys: pytest.CaptureFixture[str]):
    command.verify(V1)
    out, err = capsys.readouterr()
    with open_artifact(V1) as artifact:
        assert out.splitlines() == [
            f"{V1} is sound.",
            f"ok  integrity  8 entries and all around them, {artifact.size:,} bytes",
            "--  signature  the file is not signed",
            "--  golden     the file has no golden vectors; an older arkinfer built it",
            f"digest         sha256 {artifact.digest}",
        ]
    assert err == ""


def test_json_has_stable_keys(capsys: pytest.CaptureFixture[str]):
    command.verify(V1, json=True)
    facts = json.loads(capsys.readouterr().out)
    assert list(facts) == ["path", "ok", "digest", "entries", "hashed", "size", "checks"]
    assert facts["ok"] is True
    assert facts["size"] == V1.stat().st_size


def test_the_first_entry_that_is_wrong_is_named(tmp_path: Path):
    data = bytearray(V1.read_bytes())
    with open_artifact(V1) as artifact:
        for name in ("model.norm.weight", "model.embed_tokens.weight"):
            data[artifact.location(name)[0]] ^= 1
    path = tmp_path / "broken.ark"
    path.write_bytes(data)
    with pytest.raises(ArtifactError) as caught:
        command.verify(path)
    assert caught.value.exit_code == 1
    assert str(caught.value) == (
        f'"{path}" is damaged. Reason: the entry "weights/model.embed_tokens.weight" does not '
        "match its SHA-256. Copy the file again from where it was built, or build it again."
    )


@pytest.fixture
def signed(tmp_path: Path) -> tuple[Path, SecretKey]:
    path, key = Path(shutil.copy(V1, tmp_path / "m.ark")), SecretKey.new()
    sign_artifact(path, key, "by us")
    return path, key


def test_whose_signature_it_is(
    signed: tuple[Path, SecretKey], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path, key = signed
    public = tmp_path / "ark.pub"
    public.write_text(key.public.file())
    for given in (key.public.text(), str(public)):
        assert main(["verify", str(path), "--pubkey", given]) == 0
        line = capsys.readouterr().out.splitlines()[2]
        assert line == f"ok  signature  by the key {key.public.id}: by us"
    assert main(["verify", str(path)]) == 0
    line = capsys.readouterr().out.splitlines()[2]
    assert line == f"--  signature  it names the key {key.public.id}; give --pubkey to check it"


@pytest.mark.parametrize("what", ["another key", "no signature"])
def test_a_signature_that_was_asked_for_is_not_there(
    signed: tuple[Path, SecretKey], what: str, capsys: pytest.CaptureFixture[str]
):
    path, key = (signed[0], SecretKey.new()) if what == "another key" else (V1, signed[1])
    assert main(["verify", str(path), "--pubkey", key.public.text()]) == 1
    out, err = capsys.readouterr()
    assert [line[:13] for line in out.splitlines()] == ["ok  integrity"]
    assert "is not signed" in err


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("nothing.pub", 'The key "nothing.pub" cannot be read. No such file'),
        ("RW" + "A" * 54, "This is not a public key of minisign."),
        (str(V1), f'"{V1}" is not a key of minisign'),
    ],
)
def test_what_is_no_public_key(given: str, says: str, capsys: pytest.CaptureFixture[str]):
    assert main(["verify", str(V1), "--pubkey", given]) == 2
    assert says in capsys.readouterr().err
