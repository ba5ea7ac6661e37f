"""`arkinfer sign`: keys are made once, files are signed, mistakes are explained."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pytest

from arkinfer.artifact import open_artifact
from arkinfer.artifact.minisign import parse_public_key, parse_secret_key
from arkinfer.artifact.sign import check_signature
from arkinfer.cli import main

V1 = Path(__file__).parents[1] / "artifact" / "formats" / "v1.ark"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return Path(shutil.copy(V1, tmp_path / "model.ark"))


@pytest.fixture
def key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "ark.key"
    assert main(["sign", "--new-key", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"secret key  {path}: keep it; it has no password",
        f"public key  {path}.pub: pass it on",
    ]
    return path


def test_a_new_key_is_its_owners_alone(key: Path):
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    public = parse_public_key(Path(f"{key}.pub").read_text())
    assert parse_secret_key(key.read_text()).public == public


def test_a_key_is_never_overwritten(key: Path, capsys: pytest.CaptureFixture[str]):
    before = key.read_text()
    assert main(["sign", "--new-key", str(key)]) == 2
    assert capsys.readouterr().err == (
        f'error: "{key}" is there already. A key is never overwritten. Name another file.\n'
    )
    assert key.read_text() == before


def test_signing(file: Path, key: Path, capsys: pytest.CaptureFixture[str]):
    public = parse_public_key(Path(f"{key}.pub").read_text())
    assert main(["sign", str(file), "--key", str(key), "--comment", "for Orin"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{file} is signed by the key {public.id}: for Orin",
        f"check it with  arkinfer verify {file} --pubkey {public.text()}",
    ]
    with open_artifact(file) as artifact:
        check_signature(artifact, public)


def test_json_has_stable_keys(file: Path, key: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["sign", str(file), "--key", str(key), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert list(facts) == ["key", "public_key", "path", "comment"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sign"], "There is nothing to sign. Give a file and --key, or make a key with"),
        (["sign", "x.ark"], 'No key was named to sign "x.ark". Give a file and --key'),
        (["sign", "x.ark", "--key", "a", "--new-key", "b"], "--key and --new-key exclude each"),
        (["sign", "x.ark", "--key", "none"], 'The key "none" cannot be read. No such file'),
        (["sign", "x.ark", "--key", str(V1)], f'"{V1}" is not a key of minisign'),
        (["sign", "x.ark", "--key", "KEY.pub"], "This is not a secret key of minisign."),
        (["sign", "x.ark", "--key", "KEY"], 'There is no file "x.ark".'),
    ],
)
def test_mistakes(key: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]):
    words = [word.replace("KEY", str(key)) if "KEY" in word else word for word in arguments]
    assert main(words) == 2
    assert says in capsys.readouterr().err


def test_a_protected_key_needs_a_terminal(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from tests.artifact.test_minisign import SecretKey, sealed

    path = tmp_path / "sealed.key"
    path.write_text(sealed(SecretKey.new(), b"open", 524288, 16 << 20, 1 << 14))
    assert main(["sign", str(file), "--key", str(path)]) == 2
    assert "is protected by a password, and there is no terminal" in capsys.readouterr().err
