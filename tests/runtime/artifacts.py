"""Small artifacts that the bigram executor runs, and the plug-in that brings it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arkinfer.artifact import ArtifactWriter, Section
from tests.runtime.trained import BOS, EOS, FAMILIES, IM_END

TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""MiniCPM4's."""

THINKING = TEMPLATE + (
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n' }}{% endif %}"
)
"""MiniCPM4.1's: with a switch, appended to the assistant's turn."""

PADDED_VOCABULARY = 448  # more rows than any of the tokenizers has tokens


def write_artifact(
    path: Path,
    *,
    family: str | None = "byte_level",
    template: str | None = THINKING,
    context: int = 256,
    chunk: int = 8,
    seed: int = 0,
    backends: tuple[str, ...] = ("bigram",),
    requires: dict[str, str] | None = None,
    entries: dict[str, bytes] | None = None,
    variants: tuple[str, ...] = (),
    **facts: Any,
) -> Path:
    """An artifact with a trained tokenizer and no weights; `facts` go into the manifest."""
    with ArtifactWriter(path) as writer:
        if family is not None:
            writer.add_bytes("tokenizer.json", FAMILIES[family]().encode())
        if template is not None:
            writer.add_bytes("chat_template.jinja", template.encode())
        for name, data in (entries or {}).items():
            writer.add_bytes(name, data)
        for backend in backends:
            config = {"chunk": chunk, "seed": seed}
            writer.add_section(Section(backend, config, requires or {}, (), variants=variants))
        model = {
            "name": "bigram",
            "architecture": "MiniCPMForCausalLM",
            "vocab_size": PADDED_VOCABULARY,
        }
        return writer.commit(
            {
                "model": model, "context": context, "quant": "none", "dtype": "fp32",
                "target": {"name": "cpu"}, "tokens": {"bos": BOS, "stop": [EOS, IM_END]}, **facts,
            }
        )  # fmt: skip


def write_plugin(folder: Path, *, value: str = "tests.runtime.bigram:BigramExecutor") -> Path:
    """An installed distribution that offers the executor "bigram"; put `folder` on the path."""
    info = folder / "bigram_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bigram-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[arkinfer.executors]\nbigram = {value}\n")
    return folder
