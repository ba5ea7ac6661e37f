"""`arkinfer verify` on a sound file and on a broken one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import arkinfer.cli.verify as command
from arkinfer.artifact import open_artifact
from arkinfer.errors import ArtifactError

V1 = Path(__file__).parents[1] / "artifact" / "formats" / "v1.ark"


def test_a_sound_file(capsys: pytest.CaptureFixture[str]):
    command.verify(V1)
    out, err = capsys.readouterr()
    with open_artifact(V1) as artifact:
        hashed = sum(entry.size for entry in artifact.entries())
        assert out.splitlines() == [
            f"{V1} is sound.",
            f"checked  8 entries, {hashed:,} bytes, by SHA-256 and CRC-32",
            f"         {artifact.size - hashed:,} bytes around them: headers, padding, directory",
            f"digest   sha256 {artifact.digest}",
        ]
    assert err == ""


def test_json_has_stable_keys(capsys: pytest.CaptureFixture[str]):
    command.verify(V1, json=True)
    facts = json.loads(capsys.readouterr().out)
    assert list(facts) == ["path", "ok", "digest", "entries", "hashed", "size"]
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
