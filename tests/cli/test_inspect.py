"""`arkinfer inspect` on the artifact of format 1, in a process and a terminal of its own."""

from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import arkinfer.cli.inspect as command
from arkinfer.artifact import ArtifactWriter, groups, open_artifact
from arkinfer.artifact.groups import group_of
from arkinfer.cli import caches
from arkinfer.errors import ArtifactError, UsageError

V1 = Path(__file__).parents[1] / "artifact" / "formats" / "v1.ark"


def test_plain_output(capsys: pytest.CaptureFixture[str]):
    command.inspect(V1, entries=True)
    out = capsys.readouterr().out
    for line in (
        "written by  arkinfer 0.1.0, format 1",
        "model       tiny (MiniCPMForCausalLM)",
        "vocab size  8",
        "quant       int8-row, the rest bf16",
        "context     64 tokens",
        "first token 1",
        "stops at    2 '</s>', 7 '<|im_end|>', '\\n\\n'",
        "generation  temperature 0.8, top_p 0.9",
        "reference  numpy>=1.26        2   95 B",
        "mlp                          2      48 B    0.1 %",
        "total                             35.0 KiB",
        "model.embed_tokens.weight                  bfloat16 [8, 4]",
    ):
        assert " ".join(line.split()) in " ".join(out.split()), line
    assert "\x1b" not in out


def test_json_has_stable_keys(capsys: pytest.CaptureFixture[str]):
    command.inspect(V1, json=True)
    facts = json.loads(capsys.readouterr().out)
    assert list(facts) == [
        "path", "size", "digest", "format", "arkinfer", "requires", "model", "context", "quant",
        "dtype", "target", "kv", "kv_scales", "tokens", "generation", "source", "golden",
        "signed_by", "sections", "groups",
    ]  # fmt: skip
    assert facts["tokens"]["stop"] == [{"id": 2, "text": "</s>"}, {"id": 7, "text": "<|im_end|>"}]
    assert facts["sections"] == [  # an older file, which does not say what products take
        {
            "backend": "reference",
            "requires": {"numpy": ">=1.26"},
            "activations": None,
            "caches": "fp32",
            "variants": [],
            "tensors": 2,
            "bytes": 95,
        }
    ]
    assert sum(group["bytes"] for group in facts["groups"]) == V1.stat().st_size == facts["size"]
    assert {g["group"]: g["tensors"] for g in facts["groups"] if g["tensors"]} == {
        "embedding": 1, "mlp": 2, "norms": 1,
    }  # fmt: skip


def test_json_entries(capsys: pytest.CaptureFixture[str]):
    command.inspect(V1, entries=True, json=True)
    entries = json.loads(capsys.readouterr().out)["entries"]
    with open_artifact(V1) as artifact:
        assert [e["name"] for e in entries] == [e.name for e in artifact.entries()]
        assert entries[-1]["sha256"] == artifact.digest
    assert entries[2] == {
        "name": "weights/model.embed_tokens.weight",
        "offset": 12288,
        "size": 64,
        "sha256": entries[2]["sha256"],
        "dtype": "bfloat16",
        "shape": [8, 4],
    }


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("model.embed_tokens.weight.codes", "embedding"),
        ("lm_head.weight.scale", "head"),
        ("model.layers.3.self_attn.q_proj.weight", "attention"),
        ("model.layers.3.self_attn.qkv_proj.weight.codes", "attention"),
        ("model.layers.3.self_attn.q_norm.weight", "norms"),
        ("model.layers.3.post_attention_layernorm.weight", "norms"),
        ("model.layers.3.mlp.gate_proj.weight", "mlp"),
        ("model.norm.weight", "norms"),
        ("rope.cos", "other"),
    ],
)
def test_groups(name: str, group: str):
    assert group_of(name) == group


FACTS: dict[str, Any] = {
    "model": {"name": "evil\x1b[2J", "architecture": "X"}, "context": 8, "quant": "none",
    "dtype": "fp32", "target": {"name": "cpu"}, "tokens": {"bos": None, "stop": [5]},
}  # fmt: skip


@pytest.mark.parametrize("tokenizer", [b"", b"[]", b"{}", b'{"model": {"vocab": []}}', b"\xff"])
def test_foreign_tokenizers_cost_only_the_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tokenizer: bytes
):
    with ArtifactWriter(tmp_path / "m.ark") as writer:
        writer.add_bytes("tokenizer.json", tokenizer)
        writer.commit(FACTS)
    command.inspect(tmp_path / "m.ark")
    out = capsys.readouterr().out
    assert "stops at     5\n" in out
    assert "model        evil?[2J (X)" in out
    assert "first token  none" in out


def test_errors_are_raised_for_the_app(tmp_path: Path):
    with pytest.raises(UsageError, match="There is no file"):
        command.inspect(tmp_path / "no.ark")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ArtifactError, match="is not an \\.ark file"):
        command.inspect(tmp_path / "text", json=True)


def test_a_terminal_gets_a_table(tmp_path: Path):
    pty = pytest.importorskip("pty")
    script = f"from arkinfer.cli.inspect import inspect; inspect({str(V1)!r})"
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "TERM": "xterm", "COLUMNS": "100"}
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", script], stdout=theirs, env=environment)
    os.close(theirs)
    out = b""
    with open(ours, "rb", buffering=0) as terminal:
        try:
            while part := terminal.read(4096):
                out += part
        except OSError:  # how a terminal says that its other end is closed
            pass
    assert process.wait(60) == 0
    assert "────" in out.decode()
    assert "embedding" in out.decode()


@pytest.mark.parametrize("module", [groups, caches])
def test_docstring_examples(module: ModuleType):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
